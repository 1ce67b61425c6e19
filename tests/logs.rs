use crate::support::{Client, Exchange, PODS, Site, echo, eventually, raw, tokens};

use serde_json::json;

fn plain_or_echo(exchange: &mut Exchange) {
    if exchange.header("upgrade").is_some() {
        echo(exchange);
    } else if exchange.body().is_ok() {
        exchange.answer("200 OK", "", "hello");
    }
}

#[test]
fn a_line_says_what_was_asked_and_what_became_of_it() {
    let site = Site::serving(plain_or_echo);
    let token = tokens::valid(PODS[0]);
    let request = format!(
        "POST /filer/a?b=c HTTP/1.1\r\nHost: Desk.Example:30443\r\nABCAuthorization: Bearer {token}\r\n\
         Referer: https://desk.example/page\r\nUser-Agent: \"test\"/1\r\nContent-Length: 3\r\n\r\nabc"
    );
    assert_eq!(raw(site.address(), request).unwrap().status, 200);
    let line = site.gateway.logged("/filer/a");
    for (name, want) in [
        ("client", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("version", json!("HTTP/1.1")),
        ("host", json!("Desk.Example:30443")),
        ("status", json!(200)),
        ("received", json!(3)),
        ("sent", json!(5)),
        ("route", json!("filer")),
        ("reason", json!("")),
        ("referer", json!("https://desk.example/page")),
        ("user_agent", json!("\"test\"/1")),
    ] {
        assert_eq!(line[name], want, "{name} in {line}");
    }
    let asked = line.as_object().unwrap().values().filter(|value| **value == "/filer/a?b=c");
    assert_eq!(asked.count(), 1, "{line}");
    let fingerprint = deskgate::auth::Token::new(&token).unwrap().fingerprint().to_string();
    assert_eq!(line["token"], fingerprint);
    let duration = line["duration"].as_f64().unwrap();
    assert!(duration > 0.0 && duration < 60.0, "{line}");
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
}

#[test]
fn every_key_of_a_line_is_there_once() {
    let site = Site::start();
    site.get("/API/once", "");
    let line = site.gateway.wait_for_line("/API/once");
    for name in ["timestamp", "level", "target", "status", "method"] {
        assert_eq!(line.matches(&format!("\"{name}\":")).count(), 1, "{name} in {line}");
    }
}

#[test]
fn refusals_say_why() {
    let site = Site::start();
    site.get("/filer/none", "");
    site.get("/filer/old", &format!("ABCAuthorization: {}\r\n", tokens::expired(PODS[0])));
    site.get("/a%00", "");
    for (path, status, reason) in [
        ("/filer/none", 401, "missing"),
        ("/filer/old", 401, "expired"),
        ("/a", 400, "invalid_path"),
    ] {
        let line = site.gateway.logged(path);
        assert_eq!((&line["status"], &line["reason"]), (&json!(status), &json!(reason)));
    }
}

#[test]
fn the_combined_format_is_nginx_s() {
    let site = Site::configured_serving("[log]\nformat = \"combined\"\n", plain_or_echo);
    let request = "GET /API/x?y HTTP/1.1\r\nHost: x\r\nReferer: r\r\nUser-Agent: a \"b\"\r\n\r\n";
    assert_eq!(raw(site.address(), request).unwrap().status, 200);
    let line = site.gateway.wait_for_line("/API/x");
    let (before, after) = line.split_once(" [").unwrap();
    assert_eq!(before, "127.0.0.1 - -", "{line}");
    let (time, after) = after.split_once("] ").unwrap();
    assert!(time.ends_with(" +0000") && time.len() == 26, "{line}");
    let want = "\"GET /API/x?y HTTP/1.1\" 200 5 \"r\" \"a \\x22b\\x22\" pyos - ";
    assert!(after.starts_with(want), "{line}");
}

/// Every way in which a token may come, asked for and not, as (request, whether it upgrades).
fn requests(token: &str, port: u16) -> Vec<String> {
    let (message, _) = token.rsplit_once('.').unwrap_or((token, ""));
    let escaped: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let dots = token.replace('.', "%2E");
    let targets = [
        format!("/websockify?{token}"),
        format!("/websockify/?{token}"),
        format!("/websockify?jwt_token={token}&a=b"),
        format!("/websockify?jwt%5Ftoken={token}"),
        format!("/websockify?{escaped}"),
        format!("/websockify?{dots}"),
        format!("/broadcast?x=1&jwt_token={token}"),
        format!("/broadcast?x={token}&jwt_token={token}"),
        format!("/terminals/1?{token}"),
        format!("/terminals/1?jwt_token={token}"),
        format!("/container/{token}/{port}/a?{token}"),
        format!("/container/{token}/{port}/a?b={token}"),
        format!("/container/{token}/{port}/{token}"),
        format!("/container/{token}/22/a"),
        format!("/container/{escaped}/{port}/a"),
        format!("/container/{dots}/{port}/a"),
        format!("/container/{message}/{port}/a"),
        format!("/x/container/{token}/{port}/a%00"),
        format!("/filer/..%2f{token}"),
        format!("/filer?jwt_token={token}"),
        "/filer".to_owned(),
    ];
    let head = |target: &str, more: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nABCAuthorization: Bearer {token}\r\n\
             Authorization: Bearer {token}\r\nReferer: https://x/a?{token}\r\n{more}\r\n"
        )
    };
    let mut requests: Vec<_> = targets.iter().map(|target| head(target, "")).collect();
    requests.push(head("/filer", &format!("User-Agent: {token}\r\n")));
    requests.push(head("/filer", &format!("Referer: https://x/{escaped}\r\n")));
    requests.push(head("/filer", &format!("Referer: https://x/{dots}\r\n")));
    requests.push(Site::upgrade(&targets[0]));
    requests.push(Site::upgrade(&targets[6]));
    requests.push(Site::upgrade(&targets[10]));
    requests
}

/// Everything of a token that must not be seen: any long piece of its parts.
fn pieces(token: &str) -> Vec<String> {
    let parts = token.split('.').filter(|part| part.len() >= 60);
    parts.map(|part| part[10..50].to_owned()).collect()
}

fn assert_holds_none(what: &str, text: &str, pieces: &[String]) {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    for piece in pieces {
        if let Some(at) = decoded.find(piece.as_str()) {
            let start = (at.saturating_sub(200)..at).find(|i| decoded.is_char_boundary(*i));
            panic!("{what} holds a token: …{}", &decoded[start.unwrap_or(at)..at + 20]);
        }
    }
}

fn no_token_is_left_anywhere(format: &str) {
    let site = Site::configured_serving(
        &format!("[log]\nformat = \"{format}\"\nlevel = \"debug\"\n"),
        plain_or_echo,
    );
    let issued = [
        tokens::valid(PODS[0]),
        tokens::valid(PODS[1]),
        tokens::expired(PODS[0]),
        tokens::foreign(PODS[0]),
        tokens::tampered(PODS[0], PODS[1]),
        tokens::hs256_by_public_key(PODS[0]),
    ];
    let pieces: Vec<_> = issued.iter().flat_map(|token| pieces(token)).collect();
    assert!(pieces.len() >= 11);
    for token in &issued {
        for request in requests(token, site.port) {
            let mut client: Client = site.client();
            client.send(&request);
            let answer = client.head().unwrap();
            let mut said = answer.head.clone();
            if answer.status != 101 {
                // The body may be of any framing: to the end it is whatever was said.
                client.finish();
                said += &String::from_utf8_lossy(&client.rest());
            }
            assert_holds_none("an answer", &said, &pieces);
        }
    }
    site.get("/API/last", "");
    site.gateway.wait_for_line("/API/last");
    let output = site.gateway.output();
    assert_holds_none("the log", &output, &pieces);
    let fingerprint = deskgate::auth::Token::new(&issued[0]).unwrap().fingerprint().to_string();
    site.gateway.wait_for_line(&fingerprint);
    for (index, pod) in site.pods.iter().enumerate() {
        assert!(!pod.seen().is_empty());
        for seen in pod.seen() {
            // A user's own path and other headers are his; the ways for tokens are ours.
            let head = seen.head.to_lowercase();
            let named = ["abcauthorization:", "\r\nauthorization:", "jwt_token="];
            assert!(!named.iter().any(|name| head.contains(name)), "{index}: {head}");
        }
    }
}

#[test]
fn no_token_is_left_in_any_log_line_or_answer() {
    no_token_is_left_anywhere("json");
}

#[test]
fn no_token_is_left_in_combined_lines_either() {
    no_token_is_left_anywhere("combined");
}

#[test]
fn a_pod_sees_no_token_that_travels_where_its_route_looks() {
    let site = Site::serving(plain_or_echo);
    let token = tokens::valid(PODS[0]);
    let port = site.port;
    for target in [
        format!("/websockify?{token}"),
        format!("/broadcast?jwt_token={token}"),
        format!("/broadcast?a=b&jwt_token={token}&JWT_token={token}&jwt%5Ftoken={token}"),
        format!("/terminals/1?{token}"),
        format!("/container/{token}/{port}/a?b=c"),
        format!("/filer?jwt_token={token}"),
        format!("/filer?{token}"),
    ] {
        let headers = format!(
            "ABCAuthorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n\
             Referer: https://x/container/{token}/{port}/\r\n"
        );
        if target.starts_with("/container") || target.starts_with("/filer") {
            assert_eq!(site.get(&target, &headers).status, 200);
        } else {
            let head = Site::upgrade(&target);
            let head = format!("{}{headers}\r\n", head.strip_suffix("\r\n").unwrap());
            assert_eq!(site.client().ask(head).status, 101);
        }
        assert_holds_none(&target.replace(&token, "T"), &site.pods[0].last().head, &pieces(&token));
    }
}

#[test]
fn a_tunnel_is_told_of_when_it_opens_while_it_lives_and_when_it_ends() {
    let site = Site::configured_serving("[log]\ntunnels = \"200ms\"\n", echo);
    let mut socket = site.websocket(&Site::screen());
    socket.send("something".into()).unwrap();
    socket.read().unwrap();
    let opened = site.gateway.wait_for_line("tunnel opened");
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone();
    let open = eventually("it is told of with its traffic", || {
        let output = site.gateway.output();
        let found = output
            .lines()
            .find(|line| line.contains("tunnel open\"") && line.contains("last_input"));
        found.map(ToOwned::to_owned)
    });
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    let closed = site.gateway.wait_for_line("tunnel closed");
    assert_eq!((id(&open), id(&closed)), (id(&opened), id(&opened)));
    assert!(closed.contains("\"reason\":\"client_close\""), "{closed}");
}

#[test]
fn clients_addresses_are_cut_or_renamed_on_request() {
    let logged = |addresses: &str| {
        let text = format!(
            "[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[log]\naddresses = \"{addresses}\"\n"
        );
        let site = Site::configured(&text);
        let from = |target: &str, address: &str| {
            site.get(target, &format!("X-Forwarded-For: {address}\r\n"));
            // An upstream needs the address all the same.
            assert_eq!(site.pyos.last().header("x-real-ip").as_deref(), Some(address));
            site.gateway.logged(target)["client"].as_str().unwrap().to_owned()
        };
        let told = [
            from("/API/one", "203.0.113.77"),
            from("/API/again", "203.0.113.77"),
            from("/API/six", "2001:db8:1:2::3"),
        ];
        if addresses != "full" {
            let output = site.gateway.output();
            assert!(
                !output.contains("203.0.113.77") && !output.contains("2001:db8:1:2"),
                "{output}"
            );
        }
        told
    };
    assert_eq!(logged("full"), ["203.0.113.77", "203.0.113.77", "2001:db8:1:2::3"]);
    assert_eq!(logged("truncated"), ["203.0.113.0", "203.0.113.0", "2001:db8:1::"]);
    let [one, again, six] = logged("hashed");
    assert!(one == again && one != six && one.len() == 12, "{one} {again} {six}");
    assert_ne!(logged("hashed")[0], one, "the key is a new one");
}

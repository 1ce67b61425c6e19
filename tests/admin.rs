use std::net::SocketAddr;

use crate::support::{Response, Site, echo, eventually, free_port, raw, tokens};

const TOKEN: &str = "a-token-of-the-operators";

/// A site whose operators' interface asks for a token, unless `token` is false.
fn start(token: bool) -> (Site, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let token = if token { format!("token = {file:?}\n") } else { String::new() };
    let text = format!("[admin]\nlisten = [\"{address}\"]\n{token}");
    let site = Site::configured_serving(&text, |exchange| match exchange.header("upgrade") {
        Some(_) => echo(exchange),
        None => exchange.answer("200 OK", "", "the pod"),
    });
    site.gateway.wait_for_line("admin interface listening");
    (site, address, folder)
}

fn ask(address: SocketAddr, method: &str, target: &str, body: &str) -> Response {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    raw(address, head).unwrap()
}

fn get(address: SocketAddr, target: &str) -> Response {
    ask(address, "GET", target, "")
}

#[test]
fn probes_and_metrics_are_open_and_the_rest_asks_for_the_token() {
    let (site, address, _folder) = start(true);
    let bare = |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        raw(address, head).unwrap().status
    };
    for open in ["/livez", "/readyz", "/metrics", "/"] {
        assert_eq!(bare(open), 200, "{open}");
    }
    for closed in ["/admin/tunnels", "/admin/config", "/admin/overview"] {
        assert_eq!(bare(closed), 401, "{closed}");
        assert_eq!(get(address, closed).status, 200, "{closed}");
    }
    // Never where clients come: there the path is the web client's.
    for path in ["/metrics", "/admin/tunnels", "/readyz"] {
        assert_eq!(site.get(path, "").text(), "the pod", "{path}");
    }
}

#[test]
fn metrics_count_what_happened() {
    let (site, address, _folder) = start(true);
    assert_eq!(site.get("/filer", &Site::bearer()).status, 200);
    assert_eq!(site.get("/filer", "ABCAuthorization: a.b.c\r\n").status, 401);
    let expired = tokens::expired(crate::support::PODS[0]);
    assert_eq!(site.get("/filer", &format!("ABCAuthorization: {expired}\r\n")).status, 401);
    let mut socket = site.websocket(&Site::screen());
    socket.send("x".into()).unwrap();
    socket.read().unwrap();
    let expired = |line: &str| {
        line.starts_with("deskgate_auth_total") && line.contains("expired") && line.ends_with(" 1")
    };
    // Each is counted when it is over, a moment after its answer.
    let text = eventually("the requests are counted", || {
        let text = get(address, "/metrics").text();
        let counted = [
            "deskgate_requests_total{route=\"filer\",class=\"4xx\"} 2",
            "deskgate_requests_total{route=\"filer\",class=\"2xx\"} 1",
        ];
        let all = counted.iter().all(|line| text.contains(*line)) && text.lines().any(expired);
        all.then_some(text)
    });
    for line in [
        "deskgate_tunnels_open{route=\"websockify\"} 1",
        "deskgate_tunnels_opened_total{route=\"websockify\"} 1",
        "deskgate_tunnels_dropped_by_reload_total 0",
        "deskgate_config_last_reload_successful 1",
        "deskgate_draining 0",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(!text.contains("127.0.0."), "{text}");
}

#[test]
fn tunnels_are_listed_closed_and_revoked() {
    let (site, address, _folder) = start(false);
    let mut sockets: Vec<_> = (0..3).map(|_| site.websocket(&Site::screen())).collect();
    sockets[0].send("something".into()).unwrap();
    sockets[0].read().unwrap();
    let list = eventually("three tunnels", || {
        let list = get(address, "/admin/tunnels").json();
        let tunnels =
            list["tunnels"].as_array().unwrap_or_else(|| list.as_array().unwrap()).clone();
        (tunnels.len() == 3 && tunnels.iter().any(|of| of["to_pod"].as_u64() > Some(0)))
            .then_some(tunnels)
    });
    let text = serde_json::to_string(&list).unwrap();
    assert!(!text.contains("127.0.0.2"), "a pod's address is nobody's business: {text}");
    let busy = list.iter().find(|of| of["to_pod"].as_u64() > Some(0)).unwrap();
    assert_eq!(
        (busy["route"].as_str(), busy["last_input"].is_number()),
        (Some("websockify"), true)
    );
    let target = format!("/admin/tunnels/{}", busy["id"]);
    assert_eq!(get(address, &target).json()["id"], busy["id"]);
    assert!((200..300).contains(&ask(address, "DELETE", &target, "").status));
    let code = |socket: &mut tokio_tungstenite::tungstenite::WebSocket<std::net::TcpStream>| loop {
        match socket.read() {
            Ok(tokio_tungstenite::tungstenite::Message::Close(frame)) => {
                break u16::from(frame.unwrap().code);
            }
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(code(&mut sockets[0]), 1001);
    let pod = list[0]["pod"].as_str().unwrap();
    let revoked = ask(address, "POST", "/admin/revoke", &format!("{{\"pod\":\"{pod}\"}}"));
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!((code(&mut sockets[1]), code(&mut sockets[2])), (4403, 4403));
    eventually("it is off the list", || (get(address, &target).status == 404).then_some(()));
}

#[test]
fn a_reload_is_asked_for_and_its_faults_are_told() {
    let (site, address, _folder) = start(false);
    assert!((200..300).contains(&ask(address, "POST", "/admin/reload", "").status));
    site.gateway.wait_for_line("configuration reloaded");
    assert!(
        get(address, "/metrics")
            .text()
            .contains("deskgate_config_reloads_total{outcome=\"taken\"} 1")
    );
    site.gateway.reconfigure("[listen]\nkeepalive = \"soon\"\n");
    let refused = ask(address, "POST", "/admin/reload", "");
    assert!(refused.status >= 400 && refused.text().contains("listen.keepalive"), "{refused:?}");
    let text = get(address, "/metrics").text();
    assert!(text.contains("deskgate_config_last_reload_successful 0"), "{text}");
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let (site, address, _folder) = start(false);
    let level = ask(address, "PUT", "/admin/loglevel", "{\"level\":\"warn\"}");
    assert!((200..300).contains(&level.status), "{level:?}");
    // The line of the first request is written, or not, before the second is read.
    let mut client = site.client();
    for target in ["/API/quiet", "/API/next"] {
        client.ask(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }
    let level = ask(address, "PUT", "/admin/loglevel", "{\"level\":\"info\"}");
    assert!((200..300).contains(&level.status), "{level:?}");
    site.get("/API/loud", "");
    site.gateway.logged("/API/loud");
    assert!(site.gateway.access("/API/quiet").is_empty());
}

#[test]
fn a_drain_makes_it_unready_and_refuses_new_tunnels() {
    let (site, address, _folder) = start(false);
    let mut socket = site.websocket(&Site::screen());
    socket.send("open".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "open".into());
    assert_eq!(get(address, "/readyz").status, 200);
    assert!((200..300).contains(&ask(address, "POST", "/admin/drain", "").status));
    let readiness = get(address, "/readyz");
    assert_eq!((readiness.status, readiness.text().contains("leaving")), (503, true));
    assert_eq!(get(address, "/livez").status, 200);
    let refused = raw(site.address(), Site::upgrade(&Site::screen())).unwrap();
    assert_eq!((refused.status, refused.error()), (503, "draining".to_owned()));
    assert!(refused.header("retry-after").is_some());
    socket.send("still".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "still".into());
}

#[test]
fn after_a_drain_the_process_takes_its_time_to_end_as_ever() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let text = format!("[admin]\nlisten = [\"{address}\"]\n[server]\nlinger = \"60s\"\n");
    let site = Site::configured(&text);
    site.gateway.wait_for_line("admin interface listening");
    assert!((200..300).contains(&ask(address, "POST", "/admin/drain", "").status));
    site.gateway.signal("TERM");
    site.gateway.wait_for_line("\"leaving\"");
    assert_eq!(site.get("/API", "").status, 200);
}

/// The fingerprint that the log has of a token.
fn fingerprint(token: &str) -> String {
    deskgate::auth::Token::new(token).unwrap().fingerprint().to_string()
}

#[test]
fn a_revoked_token_opens_nothing_any_more() {
    let (site, address, _folder) = start(true);
    let token = tokens::valid(crate::support::PODS[0]);
    let other = tokens::minter(tokens::keys())
        .mint(crate::support::PODS[0], tokens::now(), tokens::TTL + 1)
        .unwrap();
    let status = |token: &str| site.get("/filer", &format!("ABCAuthorization: {token}\r\n")).status;
    assert_eq!((status(&token), status(&other)), (200, 200));
    let mut socket = site.websocket(&format!("/websockify?{token}"));
    let body = format!("{{\"token\":\"{}\"}}", fingerprint(&token));
    assert_eq!(ask(address, "POST", "/admin/revoke", &body).json()["closed"], 1);
    while socket.read().is_ok() {}
    assert_eq!((status(&token), status(&other)), (401, 200));
    let refused = site.get("/filer/again", &format!("ABCAuthorization: {token}\r\n"));
    assert_eq!(refused.error(), "unauthorized");
    assert_eq!(site.gateway.logged("/filer/again")["reason"], "revoked");
    let upgrade = raw(site.address(), Site::upgrade(&format!("/websockify?{token}"))).unwrap();
    assert_eq!(upgrade.status, 401);
    let renew = site.ask("POST", "/gw/renew", &format!("ABCAuthorization: {token}\r\n"));
    assert_eq!(renew.status, 401);
    // A reload forgets nothing, not even one of the keys.
    site.gateway.reconfigure_with(|text| text.replace("[auth]", "[auth]\ncache_entries = 77"));
    assert!((200..300).contains(&ask(address, "POST", "/admin/reload", "").status));
    assert_eq!((status(&token), status(&other)), (401, 200));
    let text = get(address, "/metrics").text();
    assert!(text.contains("deskgate_revoked{what=\"token\"} 1"), "{text}");
    // Each counts once: the four requests and the tunnel that were served, the five that were refused.
    eventually("all are counted", || {
        let text = get(address, "/metrics").text();
        let counted = |labels: &str| text.contains(&format!("deskgate_auth_total{{{labels}}} 5\n"));
        (counted("outcome=\"accepted\",reason=\"\"")
            && counted("outcome=\"refused\",reason=\"revoked\""))
        .then_some(())
    });
}

#[test]
fn a_revoked_pod_is_opened_by_later_tokens_only() {
    let (site, address, _folder) = start(true);
    let minted = |issued: u64| {
        tokens::minter(tokens::keys()).mint(crate::support::PODS[0], issued, tokens::TTL).unwrap()
    };
    let early = minted(tokens::now() - 60);
    let status = |token: &str| site.get("/filer", &format!("ABCAuthorization: {token}\r\n")).status;
    let _socket = site.websocket(&format!("/websockify?{early}"));
    let list = eventually("the tunnel", || {
        let list = get(address, "/admin/tunnels").json()["tunnels"].clone();
        list[0]["pod"].as_str().map(ToOwned::to_owned)
    });
    let body = serde_json::json!({ "pod": list }).to_string();
    let before = tokens::now() - 1;
    assert_eq!(ask(address, "POST", "/admin/revoke", &body).json()["closed"], 1);
    let after = tokens::now() + 10;
    assert_eq!((status(&early), status(&minted(before))), (401, 401));
    assert_eq!(status(&minted(after)), 200);
}

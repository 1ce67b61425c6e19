use crate::support::{Origin, PODS, Response, Seen, Site, echo, raw, tokens};

/// What the upstream saw of a request with these header lines.
fn passed(site: &Site, origin: &Origin, target: &str, headers: &str) -> Seen {
    let answer = site.get(target, headers);
    assert_eq!(answer.status, 200, "{target}: {answer:?}");
    origin.last()
}

#[test]
fn what_belongs_to_one_connection_ends_there() {
    let site = Site::start();
    let seen = passed(
        &site,
        &site.pyos,
        "/API/x",
        "Connection: keep-alive, X-Hop, Content-Length\r\nKeep-Alive: 5\r\n\
         X-Hop: 1\r\nTE: trailers\r\nTrailer: x\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic eDp5\r\nUpgrade: h2c\r\nX-Kept: 1\r\n",
    );
    for name in [
        "keep-alive",
        "x-hop",
        "te",
        "trailer",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "connection",
    ] {
        assert_eq!(seen.header(name), None, "{}", seen.head);
    }
    assert_eq!(seen.header("x-kept").as_deref(), Some("1"));
    assert_eq!(seen.header("host").as_deref(), Some("desk.example"));
}

#[test]
fn a_connection_header_cannot_take_the_host_away() {
    let site = Site::start();
    let answer = site.get("/API", "Connection: Host\r\n");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(site.pyos.seen().len(), 0);
}

#[test]
fn names_with_underscores_are_dropped_everywhere() {
    let site = Site::start();
    let headers = format!(
        "{}broadcast_cookie: x\r\nX_Real_IP: 1.2.3.4\r\nX-Forwarded_For: 1.2.3.4\r\nX-A: 1\r\n",
        Site::bearer()
    );
    for (origin, target) in [(&site.pods[0], "/filer"), (&site.pyos, "/API"), (&site.website, "/")]
    {
        let seen = passed(&site, origin, target, &headers);
        assert!(!seen.head.to_lowercase().contains("broadcast_cookie"), "{}", seen.head);
        assert!(!seen.head.contains("1.2.3.4"), "{}", seen.head);
        assert_eq!(seen.header("x-a").as_deref(), Some("1"));
    }
}

const SPOOF: &str = "X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\nX-Forwarded-For: 8.8.8.8\r\n\
     X-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
     X-Forwarded-Port: 666\r\nForwarded: for=6.6.6.6;host=evil.example\r\n";

#[test]
fn nobody_may_claim_another_address() {
    let site = Site::start();
    let headers = format!("{}{SPOOF}", Site::bearer());
    for (origin, target) in [
        (&site.pods[0], "/filer"),
        (&site.pods[0], "/spawner"),
        (&site.pyos, "/API"),
        (&site.website, "/"),
        (&site.speedtest, "/speedtest/"),
    ] {
        let seen = passed(&site, origin, target, &headers);
        let header = |name| seen.header(name);
        assert_eq!(header("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{target}");
        assert_eq!(header("x-real-ip").as_deref(), Some("127.0.0.1"), "{target}");
        assert_eq!(header("x-forwarded-proto").as_deref(), Some("http"), "{target}");
        assert_eq!(header("x-forwarded-host").as_deref(), Some("desk.example"), "{target}");
        assert_eq!((header("x-forwarded-port"), header("forwarded")), (None, None), "{target}");
    }
    assert_eq!(site.gateway.logged("/API")["client"], "127.0.0.1");
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to_the_list() {
    let site = Site::configured("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n");
    let seen = passed(&site, &site.pyos, "/API", SPOOF);
    let header = |name| seen.header(name);
    // Of the list only what the trusted proxy itself saw is certain, and pyos takes the first of it.
    assert_eq!(header("x-forwarded-for").as_deref(), Some("8.8.8.8, 127.0.0.1"));
    assert_eq!(header("x-real-ip").as_deref(), Some("8.8.8.8"));
    assert_eq!(header("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(header("x-forwarded-host").as_deref(), Some("evil.example"));
    assert_eq!(header("x-forwarded-port").as_deref(), Some("666"));
    assert_eq!(site.gateway.logged("/API")["client"], "8.8.8.8");
}

#[test]
fn credentials_reach_pyos_and_never_a_pod() {
    let site = Site::serving(|exchange| {
        if exchange.header("upgrade").is_some() {
            echo(exchange);
        } else {
            exchange.answer("200 OK", "", "");
        }
    });
    let user = "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl";
    let headers = format!("ABCAuthorization: {user}\r\nAuthorization: Basic eDp5\r\n");
    let seen = passed(&site, &site.pyos, "/API/x", &headers);
    assert_eq!(seen.header("abcauthorization").as_deref(), Some(user));
    assert_eq!(seen.header("authorization").as_deref(), Some("Basic eDp5"));

    let token = tokens::valid(PODS[0]);
    let port = site.port;
    let headers = format!("{}Authorization: Basic eDp5\r\n", Site::bearer());
    for target in [
        "/filer".to_owned(),
        "/spawner".to_owned(),
        "/terminals/1/size".to_owned(),
        format!("/container/{token}/{port}/x"),
    ] {
        let seen = passed(&site, &site.pods[0], &target, &headers);
        assert_eq!(seen.header("abcauthorization"), None, "{}", seen.head);
        assert_eq!(seen.header("authorization"), None, "{}", seen.head);
        assert!(!seen.head.contains("eyJ"), "{}", seen.head);
    }
    let bearer = format!("Bearer {token}");
    let headers = [("ABCAuthorization", bearer.as_str()), ("Authorization", "Basic eDp5")];
    for target in
        [Site::screen(), format!("/terminals/1?{token}"), format!("/broadcast?jwt_token={token}")]
    {
        let _socket = site.websocket_with(&target, &headers);
        let head = site.pods[0].last().head;
        assert!(!head.to_lowercase().contains("authorization") && !head.contains("eyJ"), "{head}");
    }
}

#[test]
fn each_row_has_its_host() {
    let site = Site::start();
    let token = tokens::valid(PODS[0]);
    let port = site.port;
    let own = |origin: &Origin| origin.address().to_string();
    for (origin, target, want) in [
        (&site.pyos, "/API".to_owned(), "desk.example".to_owned()),
        (&site.pods[0], "/spawner".to_owned(), "desk.example".to_owned()),
        (&site.pods[0], format!("/container/{token}/{port}/"), "desk.example".to_owned()),
        (&site.pods[0], "/filer".to_owned(), format!("desktop:{port}")),
        (&site.website, "/".to_owned(), own(&site.website)),
        (&site.speedtest, "/speedtest".to_owned(), own(&site.speedtest)),
    ] {
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: Desk.Example:30443\r\n{}\r\n", Site::bearer());
        assert_eq!(raw(site.address(), head).unwrap().status, 200, "{target}");
        assert_eq!(origin.last().header("host").as_deref(), Some(want.as_str()), "{target}");
    }
    // No WebSocket server is there; it was asked all the same.
    raw(site.address(), Site::upgrade(&Site::screen())).unwrap();
    assert_eq!(site.pods[0].last().header("host"), Some(format!("desktop:{port}")));
}

#[test]
fn a_page_s_address_loses_its_token_on_the_way_to_anybody() {
    let site = Site::start();
    let token = tokens::valid(PODS[0]);
    let mut parts = token.split('.');
    let claims = parts.nth(1).unwrap();
    for referer in [
        format!("https://desk.example/container/{token}/8080/page"),
        format!("https://desk.example/x?jwt_token={token}&y=1"),
        format!("https://desk.example/x?{}", token.replace('.', "%2E")),
    ] {
        let headers = format!("{}Referer: {referer}\r\n", Site::bearer());
        for (origin, target) in
            [(&site.pods[0], "/filer"), (&site.pyos, "/API"), (&site.website, "/app.js")]
        {
            let seen = passed(&site, origin, target, &headers);
            let got = seen.header("referer").unwrap_or_default();
            assert!(!got.contains(claims), "{got}");
            assert!(got.starts_with("https://desk.example/"), "{got}");
        }
    }
    let headers = format!("{}Referer: https://desk.example/a?b=1\r\n", Site::bearer());
    let seen = passed(&site, &site.pods[0], "/filer", &headers);
    assert_eq!(seen.header("referer").as_deref(), Some("https://desk.example/a?b=1"));
}

#[test]
fn what_pyos_and_pods_read_passes_unchanged() {
    let site = Site::start();
    let long = "A".repeat(8170);
    let headers = format!(
        "{}Origin: https://desk.example\r\nAccept-Language: fr\r\nUser-Agent: test/1\r\n\
         Cookie: a=b; c=d\r\nRange: bytes=0-1\r\nX-API-Key: k\r\nX-Long: {long}\r\n\
         If-None-Match: \"x\"\r\n",
        Site::bearer()
    );
    for (origin, target) in [(&site.pyos, "/API"), (&site.pods[0], "/filer")] {
        let seen = passed(&site, origin, target, &headers);
        for (name, value) in [
            ("origin", "https://desk.example"),
            ("accept-language", "fr"),
            ("user-agent", "test/1"),
            ("range", "bytes=0-1"),
            ("x-api-key", "k"),
            ("x-long", long.as_str()),
            ("if-none-match", "\"x\""),
        ] {
            assert_eq!(seen.header(name).as_deref(), Some(value), "{target}");
        }
        let cookies = (target == "/API").then_some("a=b; c=d");
        assert_eq!(seen.header("cookie").as_deref(), cookies, "{target}");
    }
}

fn response_with(site_headers: &'static str, target: &str) -> Response {
    let site = Site::serving(move |exchange| exchange.answer("200 OK", site_headers, "body"));
    site.get(target, &Site::bearer())
}

#[test]
fn responses_lose_what_names_or_commands_a_server() {
    for target in ["/API", "/filer", "/"] {
        let answer = response_with(
            "Server: nginx/1.2.3\r\nX-Accel-Redirect: /secret\r\nX-Accel-Buffering: no\r\n\
             Connection: X-Hop\r\nX-Hop: 1\r\nX-Kept: 1\r\n",
            target,
        );
        assert_eq!(answer.text(), "body");
        for name in ["server", "x-accel-redirect", "x-accel-buffering"] {
            assert_eq!(answer.header(name), None, "{target}: {}", answer.head);
        }
        assert_eq!(answer.header("x-kept").as_deref(), Some("1"));
    }
}

#[test]
fn responses_keep_cookies_and_redirects() {
    let answer = response_with(
        "Set-Cookie: a=1; Path=/; HttpOnly\r\nSet-Cookie: b=2\r\nLocation: http://website/x\r\n\
         Content-Encoding: br\r\nVary: Origin\r\nETag: \"1\"\r\n",
        "/API",
    );
    assert_eq!(answer.header("set-cookie").as_deref(), Some("a=1; Path=/; HttpOnly, b=2"));
    assert_eq!(answer.header("location").as_deref(), Some("http://website/x"));
    assert_eq!(answer.header("content-encoding").as_deref(), Some("br"));
    assert_eq!(answer.header("etag").as_deref(), Some("\"1\""));
}

#[test]
fn two_framings_or_two_hosts_in_one_request_are_refused_or_made_one() {
    let site = Site::start();
    for lines in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        let request = format!(
            "POST /API/x HTTP/1.1\r\nHost: x\r\n{lines}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\
             Host: x\r\n\r\n"
        );
        let answer = raw(site.address(), request);
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 400), "{lines}: {answer:?}");
    }
    let both = "POST /API/x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\
                Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    drop(raw(site.address(), both));
    for seen in site.pyos.seen().iter().chain(&site.website.seen()) {
        let framings = ["content-length", "transfer-encoding"].map(|name| seen.header(name));
        assert!(framings.iter().flatten().count() <= 1, "{}", seen.head);
        assert!(!seen.head.contains("smuggled") || seen.body.is_empty(), "{}", seen.head);
    }
}

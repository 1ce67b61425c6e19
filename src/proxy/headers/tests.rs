use super::super::trail;
use super::*;
use crate::config::Config;
use crate::http1::request;
use crate::route::{NormalPath, Table};
use proptest::prelude::*;

/// Sends a head through the rules of the row that takes `path`.
fn sent(path: &str, headers: &[(&str, &str)], trusted: bool) -> RequestHeader {
    sent_by("", path, headers, trusted)
}

/// The same with this configuration.
fn sent_by(config: &str, path: &str, headers: &[(&str, &str)], trusted: bool) -> RequestHeader {
    let table = Table::new(&Config::from_text("test", config).unwrap()).unwrap();
    let path = NormalPath::parse(path.as_bytes()).unwrap();
    let found = table.find(&path).unwrap();
    let mut head = RequestHeader::build("GET", path.as_str().as_bytes(), None).unwrap();
    for (name, value) in headers {
        head.append_header((*name).to_owned(), (*value).to_owned()).unwrap();
    }
    let peer = Some("203.0.113.9".parse().unwrap());
    let via = if trusted { vec!["1.1.1.1".parse().unwrap()] } else { Vec::new() };
    let client = Client { address: peer, peer, via, trusted, certificate: None, scheme: "http" };
    let public = host_of(&head);
    let public = public.as_ref().map(|host| host.to_str().unwrap());
    let trail = trail::settle(&head, trusted);
    let rules = Rules {
        route: found.route,
        client: &client,
        trail: &trail,
        target: "/target?q",
        sent: &upstream_host(found.route, found.port().unwrap(), public),
        upgrade: false,
    };
    written(&head, &rules)
}

/// The head that an upstream reads.
fn written(head: &RequestHeader, rules: &Rules<'_>) -> RequestHeader {
    let mut out = BytesMut::new();
    let length = match head.headers.get("content-length") {
        Some(length) => Length::Known(length.to_str().unwrap().parse().unwrap()),
        None => Length::Known(0),
    };
    to_upstream(&mut out, head, length, rules).unwrap();
    let listen = Config::from_text("empty", "").unwrap().config.listen;
    let (request, end) = request::parse(&out, &listen).unwrap().unwrap();
    assert_eq!(end, out.len());
    request.head
}

fn value<'a>(head: &'a RequestHeader, name: &str) -> Option<&'a str> {
    head.headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_names_stay_here() {
    let head = sent(
        "/API/x",
        &[
            ("connection", "keep-alive, X-Mine, host, content-length"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-connection", "close"),
            ("content-length", "0"),
            ("host", "desk.example"),
            ("x-other", "2"),
        ],
        false,
    );
    for name in ["connection", "x-mine", "keep-alive", "te", "upgrade", "proxy-connection"] {
        assert_eq!(value(&head, name), None, "{name}");
    }
    assert_eq!(value(&head, "x-other"), Some("2"));
    assert_eq!(value(&head, "content-length"), Some("0"));
    assert_eq!(value(&head, "host"), Some("desk.example"));
}

#[test]
fn only_a_trusted_proxy_speaks_for_the_client() {
    let spoofed = [
        ("x-forwarded-for", "192.168.0.1, 1.1.1.1"),
        ("x-real-ip", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-port", "1"),
        ("forwarded", "for=1.1.1.1"),
        ("host", "Desk.Example:30443"),
    ];
    let head = sent("/API/x", &spoofed, false);
    assert_eq!(value(&head, "x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(value(&head, "x-real-ip"), Some("203.0.113.9"));
    assert_eq!(value(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(value(&head, "x-forwarded-host"), Some("Desk.Example:30443"));
    assert_eq!(value(&head, "x-forwarded-port"), None);
    assert_eq!(value(&head, "forwarded"), None);
    let head = sent("/API/x", &spoofed, true);
    assert_eq!(value(&head, "x-forwarded-for"), Some("1.1.1.1, 203.0.113.9"));
    assert_eq!(value(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!(value(&head, "x-forwarded-host"), Some("evil.example"));
}

#[test]
fn credentials_reach_pyos_and_never_a_pod() {
    let credentials =
        [("abcauthorization", "Bearer a"), ("authorization", "Basic b"), ("cookie", "c=d")];
    let head = sent("/API/x", &credentials, false);
    assert_eq!(value(&head, "abcauthorization"), Some("Bearer a"));
    assert_eq!(value(&head, "authorization"), Some("Basic b"));
    let head = sent("/filer", &credentials, false);
    assert_eq!(value(&head, "abcauthorization"), None);
    assert_eq!(value(&head, "authorization"), None);
}

#[test]
fn cookies_of_the_site_reach_no_pod_unless_its_row_says_so() {
    let cookie = [("cookie", "c=d")];
    let pass = "[[route]]\nname = \"filer\"\ncookies = \"pass\"\n";
    let strip = "[[route]]\nname = \"pyos\"\ncookies = \"strip\"\n";
    for (config, path, passed) in [
        ("", "/API/x", Some("c=d")),
        ("", "/filer", None),
        ("", "/spawner", None),
        (pass, "/filer", Some("c=d")),
        (strip, "/API/x", None),
    ] {
        let head = sent_by(config, path, &cookie, false);
        assert_eq!(value(&head, "cookie"), passed, "{config} {path}");
    }
}

#[test]
fn a_set_takes_out_what_it_names_of_the_clients_headers_and_of_ours() {
    let config = "[headers.upstream]\nremove = [\"x-mine\", \"Cookie\", \"x-forwarded-host\"]\n";
    let headers = [("host", "desk"), ("x-mine", "1"), ("x-other", "2"), ("cookie", "c=d")];
    for (config, passed) in [("", true), (config, false)] {
        let head = sent_by(config, "/speedtest", &headers, false);
        for name in ["x-mine", "cookie", "x-forwarded-host"] {
            assert_eq!(value(&head, name).is_some(), passed, "{name}");
        }
        assert_eq!(value(&head, "x-other"), Some("2"));
    }
}

#[test]
fn several_cookies_are_one_field() {
    let head = sent("/API", &[("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")], false);
    let lines: Vec<_> = head.headers.get_all("cookie").iter().collect();
    assert_eq!(lines, ["a=b; c=d; e=f"]);
}

#[test]
fn a_referer_takes_no_token_to_a_pod() {
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJoYXNoIjoiYWJjIn0.c2lnbmF0dXJl";
    let referer = format!("https://desk.example/container/{token}/8080/a?b");
    let head = sent("/filer", &[("referer", &referer)], false);
    let passed = value(&head, "referer").unwrap();
    assert!(!passed.contains(token) && passed.ends_with("/8080/a?b"), "{passed}");
    // Nor does one that is no ASCII, of which the rest passes.
    let head = sent("/filer", &[("referer", &format!("{referer}=\u{e9}"))], false);
    let passed = String::from_utf8_lossy(head.headers["referer"].as_bytes());
    assert!(!passed.contains(token) && passed.ends_with("/8080/a?b=\u{e9}"), "{passed}");
}

#[test]
fn a_referer_with_a_token_and_escaped_ends_of_lines_is_no_second_request() {
    for end in ["%0D%0A", "%0A", "%0D", "%00"] {
        let referer = format!(
            "a{end}{end}POST%20/launch%20HTTP/1.1{end}Host:%20p{end}broadcast_cookie:%20x{end}X:%20eyJaaaaaaaa."
        );
        // What is read must be one head, and all that was written.
        let head = sent("/filer", &[("referer", &referer), ("x-last", "here")], false);
        assert_eq!(value(&head, "referer"), None);
        assert_eq!(value(&head, "broadcast_cookie"), None);
        assert_eq!(value(&head, "x-last"), Some("here"));
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    let judge = |text: &str| is_valid_host(&HeaderValue::from_str(text).unwrap());
    for host in ["desk", "desk.example:30443", "10.0.0.1", "[::1]", "[2001:db8::1]:80", "a_b", "a:"]
    {
        assert!(judge(host), "{host}");
    }
    for host in
        ["", "a/b", "a b", "a,b", "<x>", "user@desk", "desk:abc", "[::1", "[x]", "::1", ":80"]
    {
        assert!(!judge(host), "{host}");
    }
}

#[test]
fn each_row_has_its_host() {
    let host = [("host", "Desk.Example:30443")];
    for (path, want) in [
        ("/API/x", "desk.example"),
        ("/spawner", "desk.example"),
        ("/filer", "desktop:29783"),
        ("/index.html", "website"),
        ("/speedtest/x", "speedtest"),
    ] {
        assert_eq!(value(&sent(path, &host, false), "host"), Some(want), "{path}");
    }
    assert_eq!(without_port("[2001:DB8::1]:80"), "[2001:db8::1]");
    assert_eq!(without_port("[2001:db8::1]"), "[2001:db8::1]");
    assert_eq!(without_port("desk"), "desk");
}

#[test]
fn the_target_is_what_the_plan_says() {
    let head = sent("/container/T/8080/x", &[("host", "desk")], false);
    assert_eq!(head.raw_path(), b"/target?q");
}

#[test]
fn only_whole_websocket_requests_are_upgrades() {
    let whole = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let judge = |method: &str, headers: &[(&'static str, &str)]| {
        let mut head = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        is_websocket_upgrade(&head)
    };
    assert_eq!(judge("GET", &whole), Some(true));
    assert_eq!(judge("GET", &[]), None);
    assert_eq!(judge("POST", &whole), Some(false));
    for missing in 0..whole.len() {
        let mut part = whole.to_vec();
        part.remove(missing);
        assert_ne!(judge("GET", &part), Some(true), "without {:?}", whole[missing]);
    }
    assert_eq!(judge("GET", &[&whole[..], &[("content-length", "5")]].concat()), Some(false));
    let chunked = [&whole[..], &[("transfer-encoding", "chunked")]].concat();
    assert_eq!(judge("GET", &chunked), Some(false));
}

#[test]
fn orders_to_a_proxy_and_cookies_of_a_pod_go_no_further() {
    let (mut head, ()) = http::Response::new(()).into_parts();
    for (name, value) in [
        ("server", "nginx"),
        ("x-accel-redirect", "/secret"),
        ("x-accel-buffering", "no"),
        ("set-cookie", "a=b"),
        ("location", "/x"),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    let table = Table::new(&Config::from_text("empty", "").unwrap()).unwrap();
    let answer = Answer {
        route: table.iter().find(|route| route.row.name == "filer").unwrap(),
        scheme: "http",
        public: Some("desk.example"),
        sent: "desktop:29783",
        prefix: None,
    };
    to_client(&mut head, &answer);
    let mut left: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["location", "x-frame-options"]);
}

#[test]
fn what_an_answers_connection_names_stays_here_but_for_what_frames_it() {
    let (mut head, ()) = http::Response::new(()).into_parts();
    for (name, value) in [
        ("connection", "close, X-Mine ,Content-Length"),
        ("connection", "transfer-encoding, x-other"),
        ("x-mine", "1"),
        ("x-other", "1"),
        ("x-third", "1"),
        ("content-length", "2"),
    ] {
        head.headers.append(name, HeaderValue::from_static(value));
    }
    let table = Table::new(&Config::from_text("empty", "").unwrap()).unwrap();
    let route = table.iter().find(|route| route.row.name == "pyos").unwrap();
    let answer =
        Answer { route, scheme: "http", public: Some("desk.example"), sent: "pyos", prefix: None };
    to_client(&mut head, &answer);
    let mut left: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
    left.retain(|name| *name != "x-frame-options");
    left.sort_unstable();
    assert_eq!(left, ["content-length", "x-third"]);
}

#[test]
fn no_more_options_of_an_answer_are_looked_at_than_of_a_request() {
    let table = Table::new(&Config::from_text("empty", "").unwrap()).unwrap();
    let route = table.iter().find(|route| route.row.name == "pyos").unwrap();
    let answer = Answer { route, scheme: "http", public: None, sent: "pyos", prefix: None };
    for (others, stays) in [(MOST_OPTIONS - 1, false), (MOST_OPTIONS, true)] {
        let (mut head, ()) = http::Response::new(()).into_parts();
        let options = format!("{}x-mine", "other, ".repeat(others));
        head.headers.insert("connection", options.parse().unwrap());
        head.headers.insert("x-mine", HeaderValue::from_static("1"));
        to_client(&mut head, &answer);
        assert_eq!(head.headers.contains_key("x-mine"), stays, "{others}");
    }
}

#[test]
fn static_content_gets_the_security_headers_that_it_has_not() {
    let table = Table::new(&Config::from_text("empty", "").unwrap()).unwrap();
    let answer = Answer {
        route: table.iter().find(|route| route.row.name == "website").unwrap(),
        scheme: "http",
        public: Some("desk.example"),
        sent: "website",
        prefix: None,
    };
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    to_client(&mut head, &answer);
    let value = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(value("x-frame-options"), Some("DENY"));
    assert_eq!(head.headers.get_all("x-frame-options").iter().count(), 1);
    assert_eq!(value("x-content-type-options"), Some("nosniff"));
    assert_eq!(value("referrer-policy"), Some("no-referrer"));
}

proptest! {
    #[test]
    fn no_header_with_an_underscore_reaches_an_upstream(
        name in "[a-zA-Z]{1,8}_[a-zA-Z_-]{1,8}",
    ) {
        let head = sent("/broadcast", &[(&name, "x")], false);
        prop_assert!(head.headers.keys().all(|name| !name.as_str().contains('_')));
    }
}

#[test]
fn connection_may_not_name_what_routes_a_request_or_says_who_asks() {
    for (value, sound) in [
        ("", true),
        ("keep-alive", true),
        ("Upgrade, HTTP2-Settings", true),
        ("x-mine,,close", true),
        ("Host", false),
        ("close, HOST", false),
        ("x-forwarded-for", false),
        ("X-Real-IP", false),
        (":authority", false),
        ("\"x-mine\"", false),
        (&"a,".repeat(40), false),
    ] {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.insert_header("connection", value).unwrap();
        assert_eq!(connection_is_sound(&head), sound, "{value}");
    }
}

use serde_json::json;

use crate::support::{PODS, Site, echo, raw, tokens};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn is_fresh(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn a_request_has_one_id_upstream_back_and_in_the_log() {
    let site = Site::start();
    let token = Site::bearer();
    for (origin, target) in
        [(&site.pyos, "/API/id"), (&site.website, "/page"), (&site.pods[0], "/filer/id")]
    {
        let answer = site.get(target, &token);
        let id = answer.header("x-request-id").unwrap();
        assert!(is_fresh(&id), "{answer:?}");
        assert_eq!(origin.last().header("x-request-id").as_ref(), Some(&id), "{target}");
        assert_eq!(site.gateway.logged(target)["request_id"], json!(id));
    }
}

#[test]
fn every_answer_of_deskgates_own_has_an_id_too() {
    let site = Site::start();
    for (request, status) in [
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /filer HTTP/1.1\r\nHost: x\r\n\r\n", 401),
        ("GET /nothing%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("not HTTP at all\r\n\r\n", 400),
    ] {
        let answer = raw(site.address(), request).unwrap();
        assert_eq!(answer.status, status, "{request}");
        let id = answer.header("x-request-id").unwrap();
        assert!(is_fresh(&id), "{answer:?}");
        site.gateway.wait_for_line(&id);
    }
}

#[test]
fn a_tunnel_has_the_id_of_its_upgrade() {
    let site = Site::serving(echo);
    let (mut socket, answer) = site.websocket_with(&Site::screen(), &[]);
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(site.pods[0].last().header("x-request-id").as_ref(), Some(&id));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    for event in ["tunnel opened", "tunnel closed"] {
        let line = site.gateway.wait_for_line(event);
        assert!(line.contains(&format!("\"request_id\":\"{id}\"")), "{line}");
    }
    assert_eq!(site.gateway.logged("/websockify")["request_id"], json!(id));
}

#[test]
fn an_upgrade_that_is_refused_with_a_code_has_an_id() {
    let text = "[[route]]\nname = \"websockify\"\ntunnel = { refusal = \"close\" }\n";
    let site = Site::configured_serving(text, echo);
    let target = format!("/websockify?{}", tokens::expired(PODS[0]));
    let (_, answer) = site.websocket_with(&target, &[("Origin", "https://desk.example")]);
    assert!(is_fresh(answer.headers()["x-request-id"].to_str().unwrap()), "{answer:?}");
}

#[test]
fn a_strangers_marks_count_for_nothing() {
    let site = Site::start();
    let marks =
        format!("X-Request-Id: mine\r\ntraceparent: {TRACE}\r\ntracestate: a=b\r\nX-Mine: 1\r\n");
    let answer = site.get("/API/x", &format!("{marks}Connection: X-Request-Id\r\n"));
    let seen = site.pyos.last();
    let id = seen.header("x-request-id").unwrap();
    assert!(is_fresh(&id), "{}", seen.head);
    assert_eq!(answer.header("x-request-id"), Some(id));
    assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (None, None));
    assert_eq!(seen.header("x-mine").as_deref(), Some("1"));
    assert_eq!(site.gateway.logged("/API/x")["trace_id"], json!(""));
}

#[test]
fn a_trusted_proxys_marks_are_passed_on() {
    let site = Site::configured("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n");
    let marks = format!("X-Request-Id: proxy-1.2\r\ntraceparent: {TRACE}\r\ntracestate: a=b\r\n");
    let answer = site.get("/API/x", &marks);
    assert_eq!(answer.header("x-request-id").as_deref(), Some("proxy-1.2"));
    let seen = site.pyos.last();
    for (name, value) in
        [("x-request-id", "proxy-1.2"), ("traceparent", TRACE), ("tracestate", "a=b")]
    {
        assert_eq!(seen.header(name).as_deref(), Some(value), "{}", seen.head);
    }
    let line = site.gateway.logged("/API/x");
    assert_eq!(line["request_id"], json!("proxy-1.2"));
    assert_eq!(line["trace_id"], json!("0af7651916cd43dd8448eb211c80319c"));
    // What is no id is not repeated, least of all in a log.
    for bad in ["x".repeat(129), "a\"b".to_owned(), "a b".to_owned()] {
        let answer = site.get("/API/y", &format!("X-Request-Id: {bad}\r\n"));
        assert!(is_fresh(&answer.header("x-request-id").unwrap()), "{answer:?}");
    }
}

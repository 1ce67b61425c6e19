use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Client, Site, eventually, raw, tokens};

/// What becomes of the last answer.
mod ends;

fn answer(site: &Site, request: &str) -> (u16, String) {
    let answer = raw(site.address(), request).unwrap();
    assert_eq!(answer.header("server"), None, "{answer:?}");
    (answer.status, answer.error())
}

#[test]
fn a_head_over_a_limit_gets_its_own_answer_and_goes_nowhere() {
    let site = Site::start();
    let long = |length| "x".repeat(length);
    let many = |count: usize| (0..count).map(|n| format!("a{n}: b\r\n")).collect::<String>();
    for (head, status, error) in [
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", long(17 << 10)), 414, "target_too_long"),
        (
            format!("GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", long(17 << 10)),
            431,
            "head_too_large",
        ),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", many(101)), 431, "head_too_large"),
        ("GET / HTTP/1.1\r\nHo st: x\r\n\r\n".to_owned(), 400, "invalid_request"),
        ("GET / HTTP/1.1\r\nHost: x\r\na : b\r\n\r\n".to_owned(), 400, "invalid_request"),
    ] {
        assert_eq!(answer(&site, &head), (status, error.to_owned()), "{:.60}", head);
    }
    assert!(site.website.seen().is_empty());
    let line = site.gateway.wait_for_line("head_too_large");
    assert!(line.contains("431"), "{line}");
}

#[test]
fn a_head_within_the_limits_passes_however_large() {
    let site = Site::configured("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n");
    let certificate = "x".repeat(15 << 10);
    let filler: String = (0..40).map(|n| format!("a{n}: {}\r\n", "y".repeat(1 << 10))).collect();
    let head = format!("AbcdesktopUserCert: {certificate}\r\n{filler}");
    assert_eq!(site.get("/API/x", &head).status, 200);
    assert_eq!(site.pyos.only().header("abcdesktopusercert"), Some(certificate));
}

#[test]
fn a_head_that_drips_is_answered_when_its_time_is_up() {
    let site = Site::configured("[listen]\nheader_timeout = \"1s\"\n");
    let mut client = site.client();
    let started = Instant::now();
    // Each byte comes in time; the whole never does.
    for byte in b"GET / HTTP/1.1\r\nHost: drip.example.org\r\n" {
        if client.stream().write_all(&[*byte]).is_err() || started.elapsed().as_secs() > 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = client.response();
    assert_eq!((answer.status, answer.error().as_str()), (408, "head_timeout"));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    // A client has as much time for its first request.
    let site = Site::configured("[listen]\nkeepalive = \"5s\"\n");
    let mut client = site.client();
    assert_eq!(client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
    assert_eq!(client.rest(), b"");
}

const POST: &str = "POST /API/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";

#[test]
fn an_empty_line_behind_a_request_begins_no_other() {
    // The time for a head would be over first.
    let site = Site::configured("[listen]\nkeepalive = \"3s\"\nheader_timeout = \"1s\"\n");
    let mut clients = Vec::new();
    // With the body, behind the answer, both, and in two parts.
    for (first, then) in [("\r\n", ""), ("", "\r\n"), ("\r\n", "\r\n"), ("\r", "\n")] {
        let mut client = site.client();
        client.send(format!("{POST}{first}"));
        assert_eq!(client.response().status, 200);
        client.send(then);
        clients.push(client);
    }
    // And where none was before.
    let mut first = site.client();
    first.send("\r\n");
    clients.push(first);
    for client in &mut clients {
        assert_eq!(client.rest(), b"");
    }
    assert!(!site.gateway.output().contains("head_timeout"));
}

#[test]
fn a_request_may_come_long_after_an_empty_line_but_not_after_many() {
    let site = Site::configured("[listen]\nheader_timeout = \"1s\"\n");
    let mut client = site.client();
    client.send(format!("{POST}\r\n"));
    assert_eq!(client.response().status, 200);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.ask(POST).status, 200);
    client.send("\r\n".repeat(20));
    let answer = client.response();
    assert_eq!((answer.status, answer.error().as_str()), (408, "head_timeout"));
}

#[test]
fn without_keep_alive_the_first_request_is_waited_for() {
    let site = Site::configured("[listen]\nkeepalive = \"0s\"\n");
    let mut late = site.client();
    // Time in which the gateway has seen it, and others come and go.
    for _ in 0..20 {
        assert_eq!(site.get("/healthz", "").status, 200);
    }
    let answer = late.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
    assert_eq!(late.rest(), b"", "it is closed after that");
}

#[test]
fn a_client_may_ask_for_the_end_on_any_connection_line() {
    let site = Site::start();
    for lines in ["close", "keep-alive\r\nConnection: close", "x\r\nConnection: y, Close"] {
        let mut client = site.client();
        let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: {lines}\r\n\r\n");
        let answer = client.ask(head);
        let connection = answer.header("connection");
        assert_eq!((answer.status, connection.as_deref()), (200, Some("close")), "{lines}");
        assert_eq!(client.rest(), b"", "{lines}");
    }
}

/// A PROXY protocol header of version 2 for TCP over IPv4.
fn version_2(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source);
    header.extend([127, 0, 0, 1, 0x30, 0x39, 0x76, 0xeb]);
    header
}

#[test]
fn a_load_balancers_proxy_header_names_the_client() {
    let site = Site::configured("[listen]\nproxy_protocol = [\"127.0.0.1/32\"]\n");
    let request = b"GET /API/x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    for header in [
        b"PROXY TCP4 203.0.113.7 127.0.0.1 12345 30443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::7 ::1 12345 30443\r\n".to_vec(),
        version_2([203, 0, 113, 7]),
    ] {
        let mut client = Client::connect(site.address());
        client.send(header);
        // Twice: the client stays who it is for the whole connection.
        for _ in 0..2 {
            assert_eq!(client.ask(request).status, 200);
            let seen = site.pyos.last();
            let address = seen.header("x-forwarded-for").unwrap();
            assert!(["203.0.113.7", "2001:db8::7"].contains(&address.as_str()), "{address}");
            assert_eq!(seen.header("x-real-ip"), Some(address));
        }
    }
}

#[test]
fn a_proxy_header_is_demanded_of_some_and_not_understood_from_others() {
    let site = Site::configured("[listen]\nproxy_protocol = [\"127.0.0.1/32\"]\n");
    let mut client = site.client();
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.rest(), b"", "no header, no service");
    let mut client = site.client();
    client.send(b"PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().status, 200, "a health check of the load balancer");
    let site = Site::start();
    let answer = raw(site.address(), b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n").unwrap();
    assert_eq!(answer.status, 400);
}

#[test]
fn only_what_is_no_proxy_header_is_worth_a_warning() {
    let site = Site::configured(
        "[listen]\nproxy_protocol = [\"127.0.0.1/32\"]\n[log]\nlevel = \"debug\"\n",
    );
    drop(site.client());
    let line = site.gateway.wait_for_line("a connection on which nothing came was closed");
    assert!(line.contains("DEBUG"), "{line}");
    let warned = "a connection without a valid PROXY header was closed";
    assert!(!site.gateway.output().contains(warned));
    // One that breaks off has begun.
    for wrong in ["PRO", "GET / HTTP/1.1\r\n\r\n"] {
        let before = site.gateway.output().matches(warned).count();
        let mut client = site.client();
        client.send(wrong);
        drop(client);
        eventually("a warning", || {
            (site.gateway.output().matches(warned).count() > before).then_some(())
        });
    }
}

#[test]
fn a_refused_head_leaves_no_token_behind() {
    let site = Site::start();
    let token = tokens::valid("127.0.0.2");
    let head = format!("GET /websockify?{token} HTTP/1.1\r\nHo st: x\r\n\r\n");
    let answer = raw(site.address(), head).unwrap();
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains(&token));
    site.gateway.wait_for_line("invalid_request");
    assert!(!site.gateway.output().contains(&token));
}

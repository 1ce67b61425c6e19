use std::io::{Read, Write};
use std::sync::{Arc, Mutex, mpsc};

use super::rig::{answering, ask, everything, others_are_served, request, serving};
use crate::support::{SOON, Site, eventually};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_body_that_breaks_off_looks_broken_whatever_is_done_to_it() {
    let text = "hello ".repeat(2000);
    for (answer, headers) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n".to_owned(), ""),
        (format!("{CHUNKED}{:x}\r\n", 999_999), ""),
        (format!("{CHUNKED}{:x}\r\n{text}\r\n", text.len()), ""),
        (format!("{CHUNKED}{:x}\r\n{text}\r\n0\r\n", text.len()), ""),
        // Compressed on its way.
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 999999\r\n\r\n"
                .to_owned(),
            "Accept-Encoding: gzip\r\n",
        ),
        (
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                999_999
            ),
            "Accept-Encoding: gzip\r\n",
        ),
    ] {
        let site = answering(format!("{answer}{text}"), true);
        let got = crate::support::raw(site.address(), request("GET", headers));
        assert!(got.is_err(), "{answer:?}: {got:?}");
        assert_ne!(site.gateway.logged("/filer/hostile")["reason"], "", "{answer:?}");
        others_are_served(&site);
    }
}

#[test]
fn a_chunk_that_is_none_breaks_the_answer_off() {
    for chunks in [
        "\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-A\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ] {
        let site = answering(format!("{CHUNKED}{chunks}"), false);
        // Answered 502 when it was seen before anything was sent, broken off otherwise.
        match ask(&site) {
            Ok(answer) => assert_eq!(answer.status, 502, "{chunks:?}: {answer:?}"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{chunks:?}"),
        }
        others_are_served(&site);
    }
}

#[test]
fn bytes_behind_an_answer_reach_nobody() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Harmless: 0\r\n\r\nEvil";
    for (method, answer, body) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "hello",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 90\r\n\r\n", ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n", ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 90\r\n\r\n", ""),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", ""),
    ] {
        let site = answering(format!("{answer}{evil}"), false);
        let mut client = site.client();
        client.send(request(method, ""));
        let got = loop {
            let got = client.try_response(method).unwrap();
            if got.status >= 200 {
                break got;
            }
        };
        assert_eq!(got.text(), body, "{method} {answer:?}");
        let framed = ["content-length", "transfer-encoding"].map(|name| got.header(name).is_some());
        assert!(got.status != 204 || framed == [false, false], "{got:?}");
        others_are_served(&site);
        // The same client connection goes on, or ends; it never gets what stood behind.
        client.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let rest = everything(&mut client);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
        assert!(!rest.contains("Evil"), "{method} {answer:?}: {rest}");
    }
}

#[test]
fn bytes_that_come_later_on_a_kept_connection_reach_nobody() {
    let (go, may) = mpsc::channel::<()>();
    let (done, written) = mpsc::channel::<()>();
    let may = Mutex::new(may);
    let site = serving("", move |exchange| {
        exchange.answer("200 OK", "", "hello");
        // The answer is whole and the connection among the idle ones when this comes.
        if may.lock().unwrap().recv_timeout(SOON).is_ok() {
            exchange.answer("200 OK", "X-Harmless: 0\r\n", "Evil");
            done.send(()).unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(ask(&site).unwrap().text(), "hello");
        go.send(()).unwrap();
        written.recv_timeout(SOON).unwrap();
        others_are_served(&site);
    }
}

#[test]
fn a_pod_that_never_stops_is_stopped_when_its_client_leaves() {
    let ended = Arc::<Mutex<bool>>::default();
    let end = Arc::clone(&ended);
    let site = serving("", move |exchange| {
        exchange.write(CHUNKED);
        while exchange.stream().write_all(b"5\r\nhello\r\n").is_ok() {}
        *end.lock().unwrap() = true;
    });
    let mut client = site.client();
    client.send(request("GET", ""));
    assert_eq!(client.head().unwrap().status, 200);
    client.bytes(1000);
    drop(client);
    eventually("the pod's connection ends", || ended.lock().unwrap().then_some(()));
    others_are_served(&site);
}

#[test]
fn what_follows_an_upload_that_was_refused_early_is_no_part_of_it() {
    let after = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&after);
    let site = Site::serving(move |exchange| {
        exchange.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        let mut rest = Vec::new();
        drop(exchange.stream().set_read_timeout(Some(SOON)));
        let _end = exchange.from.read_to_end(&mut rest);
        kept.lock().unwrap().extend(rest);
        exchange.close();
    });
    let mut client = site.client();
    client.send(request("POST", "Content-Length: 90\r\nExpect: 100-continue\r\n"));
    assert_eq!(client.response().status, 403);
    // The client was told not to send its upload: this is its next request, or too late for one.
    drop(client.stream().write_all(b"GET /API/next HTTP/1.1\r\nHost: desk.example\r\n\r\n"));
    assert_eq!(everything(&mut client), "");
    eventually("the pod's connection ends", || {
        (site.gateway.access("/filer").len() == 1).then_some(())
    });
    assert_eq!(String::from_utf8_lossy(&after.lock().unwrap()), "");
    assert!(site.pyos.seen().is_empty());
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::rig::{answering, ask, drip, flood, others_are_served, request, serving};
use crate::support::SOON;

/// A head with these lines and a body of five bytes.
fn with(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\nhello")
}

#[test]
fn an_answer_of_two_lengths_is_a_502() {
    for lines in [
        "Content-Length: 5\r\nContent-Length: 4\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 4\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
    ] {
        expect_502(with(lines));
    }
    expect_502(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
    );
}

/// The client gets a 502 and nothing of the answer; the next requests get theirs.
fn expect_502(answer: String) {
    let site = answering(answer.clone(), true);
    let got = ask(&site).unwrap_or_else(|error| panic!("{answer:?}: {error}"));
    assert_eq!(got.status, 502, "{answer:?}: {got:?}");
    assert!(["invalid_response", "connect_failed"].contains(&got.error().as_str()), "{answer:?}");
    assert!(!got.text().contains("hello") && !got.head.contains("Evil"), "{answer:?}: {got:?}");
    others_are_served(&site);
}

#[test]
fn a_line_that_somebody_could_read_in_another_way_is_a_502() {
    for lines in [
        "X-A: 1\nSet-Cookie: Evil=1\r\nContent-Length: 5\r\n",
        "X-A: 1\rSet-Cookie: Evil=1\r\nContent-Length: 5\r\n",
        "X-A: 1\0\r\nContent-Length: 5\r\n",
        "X-A: 1\r\n folded\r\nContent-Length: 5\r\n",
        "X-A: 1\r\n\tEvil: folded\r\nContent-Length: 5\r\n",
        " X-A: 1\r\nContent-Length: 5\r\n",
        "X-A : 1\r\nContent-Length: 5\r\n",
        "X A: 1\r\nContent-Length: 5\r\n",
        ": 1\r\nContent-Length: 5\r\n",
        "X-A\r\nContent-Length: 5\r\n",
        "X-\u{e9}: 1\r\nContent-Length: 5\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5\n",
        "Location: /x\rSet-Cookie: Evil=1\r\nContent-Length: 5\r\n",
    ] {
        expect_502(with(lines));
    }
    let good = with("Content-Length: 5\r\n");
    expect_502(good.replace("\r\n", "\n"));
    expect_502(good.replacen("\r\n", "\n", 1));
}

#[test]
fn a_status_line_that_is_none_is_a_502() {
    for line in [
        "HTTP/1.1 99 Low",
        "HTTP/1.1 1000 High",
        "HTTP/1.1 0200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 +200 OK",
        "HTTP/1.1 2OO OK",
        "HTTP/1.1200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\0K",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "http/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "ICY 200 OK",
        "SSH-2.0-OpenSSH_9.6",
        "RFB 003.008",
        "\x16\x03\x01\x02\0\x01",
        "<html>",
    ] {
        expect_502(format!("{line}\r\nContent-Length: 5\r\n\r\nhello"));
    }
}

#[test]
fn a_head_that_is_too_large_is_a_502() {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let long = |length: usize| format!("X-A: {}\r\n", "x".repeat(length));
    let large: String = (0..5).map(|_| long(15 << 10)).collect();
    for lines in [many(300), long(70 << 10), large] {
        expect_502(with(&format!("{lines}Content-Length: 5\r\n")));
    }
    // What is large and allowed passes.
    let lines = format!("{}{}Content-Length: 5\r\n", many(90), long(30 << 10));
    let site = answering(with(&lines), true);
    let got = ask(&site).unwrap();
    assert_eq!((got.status, got.text().as_str()), (200, "hello"));
    assert_eq!(got.header("x-a").map(|value| value.len()), Some(30 << 10));
}

#[test]
fn a_head_without_end_costs_next_to_nothing() {
    for piece in [&b"X-A: 1\r\n"[..], b"x"] {
        let piece = piece.repeat(4096);
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let site = serving("", move |exchange| {
            exchange.write("HTTP/1.1 200 OK\r\n");
            count.store(flood(exchange, &piece, 256 << 20), Ordering::SeqCst);
            exchange.close();
        });
        assert_eq!(ask(&site).unwrap().status, 502);
        others_are_served(&site);
        let before = site.gateway.rss();
        assert_eq!(ask(&site).unwrap().status, 502);
        let grown = site.gateway.rss().saturating_sub(before);
        assert!(grown < 8 << 10, "{grown} KiB more");
        // What is on the way in the system's buffers, and a little.
        assert!(taken.load(Ordering::SeqCst) < 32 << 20, "{taken:?} bytes taken");
    }
}

#[test]
fn a_storm_of_interim_answers_is_a_502() {
    for interim in ["100 Continue", "102 Processing", "103 Early Hints", "199 Whatever"] {
        let storm = format!("HTTP/1.1 {interim}\r\nX-Storm: 1\r\n\r\n").repeat(1000);
        let site = answering(storm, true);
        let mut client = site.client();
        client.send(request("GET", ""));
        let mut seen = 0;
        let last = loop {
            let head = client.head().unwrap();
            if head.status >= 200 {
                break head;
            }
            seen += 1;
        };
        assert_eq!(last.status, 502, "{interim}");
        assert!(seen <= 16, "{seen} of {interim}");
        others_are_served(&site);
    }
}

#[test]
fn an_old_client_gets_no_interim_answer() {
    for interim in ["100 Continue", "103 Early Hints"] {
        let site = answering(
            format!("HTTP/1.1 {interim}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            false,
        );
        let mut client = site.client();
        client.send(request("GET", "").replace("HTTP/1.1", "HTTP/1.0"));
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{interim}");
    }
}

#[test]
fn a_head_that_drips_is_given_up() {
    // Each byte comes long before.
    let toml = "[[route]]\nname = \"filer\"\ntimeouts = { read = \"5s\" }\n";
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let endless = std::iter::once("HTTP/1.1 200 OK\r\n").chain(std::iter::repeat("X-A: 1\r\n"));
    let drips: [Vec<u8>; 2] =
        [endless.take(4000).flat_map(str::bytes).collect(), interim.repeat(1000).into_bytes()];
    for bytes in drips {
        let (over, ended) = mpsc::channel();
        let site = serving(toml, move |exchange| {
            drip(exchange, bytes.iter().copied(), 3 * SOON);
            over.send(()).unwrap();
        });
        let start = Instant::now();
        let mut client = site.client();
        client.send(request("GET", ""));
        let status = loop {
            let head = client.head().unwrap();
            if head.status >= 200 {
                break head.status;
            }
        };
        assert!([502, 504].contains(&status), "{status}");
        // Long before the pod gives up.
        assert!(start.elapsed() < 2 * SOON, "{:?}", start.elapsed());
        ended.recv_timeout(SOON).expect("the pod's connection ends");
        others_are_served(&site);
    }
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    let accept =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let site =
        answering(format!("{accept}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEvil"), false);
    let mut client = site.client();
    client.send(request("GET", ""));
    let head = client.head().unwrap();
    assert_eq!(head.status, 502, "{head:?}");
    others_are_served(&site);
}

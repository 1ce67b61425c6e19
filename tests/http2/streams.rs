use std::io::Read;
use std::time::Instant;

use super::rig::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, Server, WINDOW_UPDATE,
    block, frame, literal, request,
};
use crate::support::{SOON, echo, eventually};

/// The stream is not needed any more (RFC 9113 section 7).
const CANCEL: u32 = 8;

/// Names of settings (RFC 9113 section 6.5.2).
const INITIAL_WINDOW: u16 = 4;

#[test]
fn a_connection_has_a_hundred_streams() {
    let server = Server::start("", 10);
    let mut connection = server.connect(&[]);
    let settings = connection.find(|frame| frame.kind == SETTINGS).unwrap();
    let announced = settings.payload.chunks(6).find(|pair| pair[..2] == [0, 3]).unwrap();
    assert_eq!(announced[2..], 100_u32.to_be_bytes());
    // Uploads that do not end stay open.
    for index in 0..120 {
        connection.send(&request(2 * index + 1, "/API/x", 0));
    }
    let refused = connection.find(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!((refused.stream, refused.code()), (201, 7), "REFUSED_STREAM");
    // Those before it are good to their end.
    connection.send(&frame(DATA, END_STREAM, 1, b"x"));
    assert_eq!(connection.status(1), Some(200));
    server.serves_others();
}

#[test]
fn a_stream_that_takes_nothing_is_reset() {
    let large = vec![b'x'; 1 << 20];
    let server = Server::answering("[listen]\nwrite_timeout = \"1s\"\n", move |exchange| {
        if exchange.header("upgrade").is_some() {
            echo(exchange);
        } else if exchange.body().is_ok() {
            // What others ask for is small: they need not take it within that time.
            let whole = exchange.target() == "/API/x";
            exchange.answer("200 OK", "", if whole { &large[..] } else { &large[..10] });
        }
    });
    for drips in [false, true] {
        let mut connection = server.connect(&[(INITIAL_WINDOW, 0)]);
        connection.send(&request(1, "/API/x", END_STREAM));
        assert_eq!(connection.status(1), Some(200));
        let start = Instant::now();
        let reset = loop {
            if drips {
                // One byte more, again and again: still nothing that is worth the wait.
                connection.try_send(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()));
            }
            match connection.frame() {
                Some(frame) if frame.kind == RST_STREAM && frame.stream == 1 => break true,
                Some(frame) if frame.kind == GOAWAY => break true,
                None => break true,
                Some(_) => {}
            }
        };
        assert!(reset && start.elapsed() < SOON, "{:?}", start.elapsed());
        server.serves_others();
    }
    // Nothing is left of them at the upstream either.
    eventually("the upstream's connections end", || {
        (server.site.gateway.access("/API/x").len() == 2).then_some(())
    });
}

#[test]
fn answers_that_nobody_takes_do_not_hold_a_connection_for_ever() {
    // Others have that much time to ask once they are connected.
    let server = Server::start("[listen]\nkeepalive = \"5s\"\nwrite_timeout = \"1s\"\n", 1000);
    let mut connection = server.connect(&[(INITIAL_WINDOW, 0)]);
    for index in 0..50 {
        connection.send(&request(2 * index + 1, "/API/x", END_STREAM));
    }
    connection.ending();
    server.serves_others();
}

#[test]
fn headers_over_a_limit_harm_their_stream_alone() {
    let server = Server::start("", 10);
    let mut connection = server.connect(&[]);
    let long = |length: usize| literal(0, "x-long", &"x".repeat(length));
    let many = |count: usize| literal(0, "x", "y").repeat(count);
    for (index, more) in [long(15_000).repeat(1), long(17 << 10), many(101)].iter().enumerate() {
        let stream = u32::try_from(index).unwrap() * 2 + 1;
        let all = [block("GET", "/healthz"), more.clone()].concat();
        let (first, rest) = all.split_at(all.len().min(10_000));
        let last = if rest.is_empty() { END_HEADERS } else { 0 };
        connection.send(&frame(HEADERS, END_STREAM | last, stream, first));
        if !rest.is_empty() {
            connection.send(&frame(super::rig::CONTINUATION, END_HEADERS, stream, rest));
        }
        let status = connection.status(stream);
        assert_eq!(status == Some(200), index == 0, "{index}: {status:?}");
    }
    connection.send(&request(99, "/healthz", END_STREAM));
    assert_eq!(connection.status(99), Some(200));
}

#[test]
fn a_connection_that_is_not_used_is_told_that_it_ends() {
    let server = Server::start("[listen]\nkeepalive = \"1s\"\n", 1000);
    let mut connection = server.connect(&[]);
    assert_eq!(connection.ending(), Some(0));
}

#[test]
fn without_keep_alive_the_first_request_is_waited_for() {
    let server = Server::start("[listen]\nkeepalive = \"0s\"\n", 10);
    let mut connection = server.connect(&[]);
    // Time in which the gateway has seen it, and others come and go.
    for _ in 0..20 {
        assert_eq!(server.site.get("/healthz", "").status, 200);
    }
    connection.send(&request(1, "/healthz", END_STREAM));
    // Nor was it told meanwhile to go elsewhere.
    let first = connection.find(|frame| [GOAWAY, HEADERS].contains(&frame.kind)).unwrap();
    assert_eq!(first.kind, HEADERS);
}

#[test]
fn a_client_that_goes_is_told_from_one_that_errs() {
    // The beginning of an answer, and nothing more.
    let server = Server::answering("", |exchange| {
        if exchange.target() == "/API/begun" {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun");
        }
        drop(exchange.from.read(&mut [0]));
    });
    for (target, status) in [("/API/awaited", 499), ("/API/begun", 200)] {
        for resets in [true, false] {
            let before = server.site.gateway.access(target).len();
            let mut connection = server.connect(&[]);
            connection.send(&request(1, target, END_STREAM));
            if status == 200 {
                assert_eq!(connection.status(1), Some(200));
            } else {
                eventually("it is asked", || {
                    (server.site.pyos.seen().len() > before).then_some(())
                });
            }
            if resets {
                connection.send(&frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()));
            } else {
                drop(connection);
            }
            let line =
                eventually("its line", || server.site.gateway.access(target).get(before).cloned());
            let said = (line["status"].as_u64(), line["reason"].as_str());
            assert_eq!(said, (Some(status), Some("client_gone")), "{resets}: {line}");
        }
    }
}

#[test]
fn a_body_that_breaks_off_resets_its_stream() {
    let server = Server::answering("", |exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot a hundred");
        exchange.close();
    });
    let mut connection = server.connect(&[]);
    connection.send(&request(1, "/API/x", END_STREAM));
    let end = connection.find(|frame| {
        frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0)
    });
    assert_eq!(end.map(|frame| frame.kind), Some(RST_STREAM));
    // Its neighbours live on.
    connection.send(&request(3, "/healthz", END_STREAM));
    assert_eq!(connection.status(3), Some(200));
}

#[test]
fn a_body_that_does_not_come_is_waited_for_as_over_http1() {
    let server = Server::start("[listen]\nread_timeout = \"300ms\"\n", 10);
    let mut connection = server.connect(&[]);
    connection.send(&request(1, "/API/x", 0));
    assert!(connection.status(1).is_some());
    assert_eq!(server.site.gateway.logged("/API/x")["status"], 408);
    // Nor is the rest of one that was answered before its end, and within that time.
    let config = "[listen]\nread_timeout = \"5s\"\n";
    let server = Server::answering(config, |exchange| exchange.answer("200 OK", "", "early"));
    let mut connection = server.connect(&[]);
    connection.send(&request(1, "/API/x", 0));
    assert_eq!(connection.status(1), Some(200));
    assert_eq!(server.site.gateway.logged("/API/x")["status"], 200);
}

#[test]
fn a_request_that_means_two_things_is_refused() {
    let server = Server::start("", 10);
    let pseudo = |lines: &[(&str, &str)]| {
        lines.iter().flat_map(|(name, value)| literal(0, name, value)).collect::<Vec<_>>()
    };
    let good = |more: &[u8]| [block("GET", "/API/x"), more.to_vec()].concat();
    let bad = [
        good(&literal(0, "transfer-encoding", "chunked")),
        good(&literal(0, "connection", "keep-alive")),
        good(&literal(0, "upgrade", "h2c")),
        good(&literal(0, "te", "gzip")),
        good(&literal(0, "Upper", "1")),
        good(&literal(0, "x y", "1")),
        good(&literal(0, "", "1")),
        good(&literal(0, "x", "a\r\nX-B: 1")),
        good(&literal(0, "x", "a\0")),
        good(&literal(0, "content-length", "5")),
        good(&literal(0, "content-length", "+0")),
        good(&literal(0, "host", "other.example")),
        good(&literal(0, ":path", "/API/second")),
        block("GET", "/API/x\r\nX-B: 1"),
        block("GET", "/API/x HTTP/1.1"),
        block("GET", "http://desk.example/API/x"),
        block("GET", "API/x"),
        block("GET", ""),
        block("GET", "*"),
        block("G T", "/API/x"),
        block("GET / HTTP/1.1\r\nX: y", "/API/x"),
        pseudo(&[(":method", "GET"), (":scheme", "https"), (":path", "/API/x")]),
        pseudo(&[(":method", "GET"), (":authority", "desk.example"), (":path", "/API/x")]),
        pseudo(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "u@desk.example"),
            (":path", "/API/x"),
        ]),
        pseudo(&[(":method", "CONNECT"), (":authority", "desk.example:443")]),
    ];
    for block in &bad {
        let mut connection = server.connect(&[]);
        connection.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, block));
        let status = connection.status(1);
        assert_ne!(status, Some(200), "{}", String::from_utf8_lossy(block));
    }
    assert!(server.site.pyos.seen().is_empty(), "{:?}", server.site.pyos.seen());
    server.serves_others();
}

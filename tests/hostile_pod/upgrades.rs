use std::io::{Read, Write};

use super::rig::{drip, flood};
use crate::support::{SOON, Site, eventually, noise};

/// A good answer to the handshake of [`Site::upgrade`].
const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A site whose pod answers every upgrade with this and waits.
fn answering(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> Site {
    Site::serving(move |exchange| {
        exchange.write(&answer);
        drop(exchange.stream().set_read_timeout(Some(SOON)));
        let _end = exchange.from.read_to_end(&mut Vec::new());
    })
}

#[test]
fn a_101_that_does_not_answer_the_handshake_is_a_502() {
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    for bad in [
        ACCEPT.replace(accept, ""),
        ACCEPT.replace(accept, "Sec-WebSocket-Accept:\r\n"),
        ACCEPT.replace(accept, "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        ACCEPT.replace(accept, &accept.to_uppercase()),
        ACCEPT.replace(accept, &accept.repeat(2)),
        ACCEPT.replace("Upgrade: websocket\r\n", ""),
        ACCEPT.replace("Upgrade: websocket", "Upgrade: h2c"),
        ACCEPT.replace("Upgrade: websocket", "Upgrade: websocket, h2c"),
        ACCEPT.replace("Connection: Upgrade\r\n", ""),
        ACCEPT.replace("Connection: Upgrade", "Connection: close"),
        ACCEPT.replace("HTTP/1.1", "HTTP/1.0"),
        ACCEPT.replace("\r\n", "\n"),
        ACCEPT.replace("Connection:", "Connection :"),
        ACCEPT.replace("Upgrade: websocket", "Upgrade:\r\n websocket"),
    ] {
        assert_ne!(bad, ACCEPT);
        let site = answering(format!("{bad}Evil"));
        let mut client = site.client();
        client.send(Site::upgrade(&Site::screen()));
        let answer = client.response();
        assert_eq!((answer.status, answer.error().as_str()), (502, "invalid_response"), "{bad}");
        // The connection goes on as one of HTTP, or ends: what the pod said is not on it.
        drop(client.stream().write_all(b"GET /healthz HTTP/1.0\r\n\r\n"));
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
        assert!(!rest.contains("Evil"), "{rest}");
        assert_eq!(site.gateway.logged("/websockify")["reason"], "invalid_response", "{bad}");
    }
}

#[test]
fn a_101_in_other_letters_is_still_one() {
    for good in [
        ACCEPT.replace("Connection: Upgrade", "connection: keep-alive, UPGRADE"),
        ACCEPT.replace("Upgrade: websocket", "upgrade: WebSocket"),
        ACCEPT.replace("Sec-WebSocket-Accept: ", "sec-websocket-accept:"),
        ACCEPT.replace("101 Switching Protocols", "101 Web Socket Protocol Handshake"),
        ACCEPT.replace("101 Switching Protocols", "101 "),
    ] {
        let site = answering(format!("{good}hello"));
        let mut client = site.client();
        client.send(Site::upgrade(&Site::screen()));
        assert_eq!(client.head().unwrap().status, 101, "{good}");
        assert_eq!(client.bytes(5), b"hello");
    }
}

#[test]
fn a_101_has_no_body_whatever_it_says() {
    for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let head = ACCEPT.replace("\r\n\r\n", &format!("\r\n{framing}\r\n"));
        let site = answering([head.as_bytes(), &noise(100)].concat());
        let mut client = site.client();
        client.send(Site::upgrade(&Site::screen()));
        let answer = client.head().unwrap();
        assert_eq!(answer.status, 101, "{framing}");
        let framed = ["content-length", "transfer-encoding"].map(|name| answer.header(name));
        assert_eq!(framed, [None, None]);
        assert!(client.bytes(100) == noise(100));
    }
}

#[test]
fn a_handshake_that_has_no_end_is_given_up() {
    let toml = "[[route]]\nname = \"websockify\"\ntimeouts = { read = \"1s\" }\n";
    let endless = "X-A: 1\r\n".repeat(64);
    for dripping in [true, false] {
        let piece = endless.clone();
        let site = Site::configured_serving(toml, move |exchange| {
            exchange.write("HTTP/1.1 101 Switching Protocols\r\n");
            if dripping {
                drip(exchange, piece.bytes().cycle(), 3 * SOON);
            } else {
                flood(exchange, piece.as_bytes(), 64 << 20);
            }
            exchange.close();
        });
        let mut client = site.client();
        // Long before the pod gives up.
        client.stream().set_read_timeout(Some(2 * SOON)).unwrap();
        client.send(Site::upgrade(&Site::screen()));
        let answer = client.response();
        assert!([502, 504].contains(&answer.status), "{answer:?}");
    }
}

#[test]
fn a_refusal_that_breaks_off_looks_broken() {
    let site = Site::serving(|exchange| {
        exchange.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nno");
        exchange.close();
    });
    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()));
    assert!(client.try_response("GET").is_err());
    let line = eventually("a line", || site.gateway.access("/websockify").pop());
    assert_eq!(line["status"], 403);
}

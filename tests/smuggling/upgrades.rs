use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::rig::Want::{Passed, PassedAndClosed};
use super::rig::{Rig, SECOND, get, post, row};
use crate::support::{Client, Exchange, SOON, Site, eventually, tokens};

/// Time in which bytes would arrive that are sent too early.
const TOO_EARLY: Duration = Duration::from_millis(300);

#[test]
fn an_upgrade_that_a_route_does_not_take_is_a_plain_request() {
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let to = |protocol: &str| format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n");
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
               HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let chunks = "4\r\nbody\r\n0\r\n\r\n";
    let rig = Rig::start();
    rig.play_all(&[
        row("websocket", get(websocket), Passed("")),
        row("anything", get(&to("foo")), Passed("")),
        row("h2c", get(h2c), Passed("")),
        row("TLS", get(&to("TLS/1.0")), Passed("")),
        row("HTTP/2.0", get(&to("HTTP/2.0")), Passed("")),
        row("several", get(&to("websocket, h2c")), Passed("")),
        row("twice", get(&format!("{}Upgrade: h2c\r\n", to("websocket"))), Passed("")),
        row("nothing", get(&to("")), Passed("")),
        row("without Connection", get("Upgrade: websocket\r\n"), Passed("")),
        row("without Upgrade", get("Connection: Upgrade\r\n"), Passed("")),
        row("and closed", get("Connection: close, Upgrade\r\nUpgrade: x\r\n"), PassedAndClosed("")),
        row("HTTP/1.0", get(&to("foo")).replace("HTTP/1.1", "HTTP/1.0"), PassedAndClosed("")),
        row("with a body", post(&(to("foo") + "Content-Length: 4\r\n"), "body"), Passed("body")),
        row(
            "with chunks",
            post(&(to("foo") + "Transfer-Encoding: chunked\r\n"), chunks),
            Passed("body"),
        ),
        row("an expectation", post(&(to("x") + "Expect: 100-continue\r\n"), ""), Passed("")),
    ]);
    for message in rig.recorder.messages() {
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(message.header(name), None, "{}", message.head());
        }
    }
}

#[test]
fn a_tunnel_is_a_websocket_or_refused_with_all_that_follows() {
    let site = Site::start();
    let good = Site::upgrade(&Site::screen());
    for (from, to) in [
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Upgrade: websocket", "Upgrade: TLS/1.0"),
        ("Upgrade: websocket", "Upgrade: websocket, h2c"),
        ("Upgrade: websocket", "Upgrade: h2c, websocket"),
        ("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c"),
        ("Upgrade: websocket", "Upgrade: websocket/13"),
        ("Upgrade: websocket", "Upgrade:"),
        ("Connection: Upgrade", "Connection: close"),
        ("Connection: Upgrade", "Connection: upgrade-insecure-requests"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("GET ", "POST "),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nContent-Length: 4"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nTransfer-Encoding: chunked"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        let mut client = site.client();
        client.send([&bad, SECOND].concat());
        let answer = client.response();
        // An upgrade to something else is none to us, and the row takes nothing but upgrades.
        let other = ["Upgrade: h2c", "Upgrade: TLS/1.0", "Upgrade: websocket/13", "Upgrade:"];
        let (status, errors) = if other.contains(&to) {
            (426, ["upgrade_required"; 2])
        } else {
            (400, ["invalid_upgrade", "invalid_request"])
        };
        assert_eq!(answer.status, status, "{bad}");
        assert!(errors.contains(&answer.error().as_str()), "{bad}");
        assert_eq!(client.rest(), b"", "{bad}");
    }
    assert_eq!((site.pods[0].accepted(), site.pyos.accepted()), (0, 0));
}

/// A pod that answers upgrades with this, and everything that comes after their heads.
fn answering(answer: &'static str) -> (Site, Arc<Mutex<Vec<u8>>>) {
    let after = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&after);
    let site = Site::serving(move |exchange: &mut Exchange| {
        if exchange.header("upgrade").is_none() {
            exchange.answer("200 OK", "", exchange.target());
            return;
        }
        exchange.write(answer);
        if answer.is_empty() {
            exchange.close();
        }
        drop(exchange.stream().set_read_timeout(Some(SOON)));
        let mut rest = Vec::new();
        let _end = exchange.from.read_to_end(&mut rest);
        kept.lock().unwrap().extend(rest);
    });
    (site, after)
}

#[test]
fn what_follows_an_upgrade_that_the_pod_refuses_goes_nowhere() {
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nUpgrade: websocket\r\n\r\nok", 200),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404),
        ("HTTP/1.0 101 Switching Protocols\r\n\r\n", 502),
        ("nonsense\r\n\r\n", 502),
        ("", 502),
    ] {
        let (site, after) = answering(answer);
        let mut client = site.client();
        client.send([&Site::upgrade(&Site::screen()), SECOND].concat());
        let got = loop {
            let got = client.response();
            if got.status != 100 {
                break got;
            }
        };
        assert_eq!(got.status, status, "{answer:?}: {got:?}");
        assert_eq!(got.header("upgrade"), None, "{got:?}");
        assert_eq!(String::from_utf8_lossy(&client.rest()), "", "{answer:?}");
        eventually("the pod's connection has ended", || {
            (site.gateway.access("/websockify").len() == 1).then_some(())
        });
        assert_eq!(String::from_utf8_lossy(&after.lock().unwrap()), "", "{answer:?}");
        assert_eq!(site.pods[0].seen().len(), 1);
        assert!(site.pyos.seen().is_empty(), "{answer:?}");
    }
}

#[test]
fn what_follows_an_upgrade_waits_for_the_101() {
    let early = Arc::<Mutex<Vec<u8>>>::default();
    let seen = Arc::clone(&early);
    let site = Site::serving(move |exchange: &mut Exchange| {
        let mut bytes = exchange.from.buffer().to_vec();
        exchange.stream().set_read_timeout(Some(TOO_EARLY)).unwrap();
        let mut piece = [0; 64];
        match exchange.from.get_mut().read(&mut piece) {
            Ok(count) => bytes.extend(&piece[..count]),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            }
        }
        *seen.lock().unwrap() = bytes;
        exchange.stream().set_read_timeout(Some(SOON)).unwrap();
        exchange.write(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        let mut all = vec![0; SECOND.len()];
        exchange.from.read_exact(&mut all).unwrap();
        exchange.write(all);
        exchange.close();
    });
    let mut client = site.client();
    client.send([&Site::upgrade(&Site::screen()), SECOND].concat());
    assert_eq!(client.head().unwrap().status, 101);
    assert_eq!(String::from_utf8_lossy(&client.rest()), SECOND);
    assert_eq!(String::from_utf8_lossy(&early.lock().unwrap()), "");
}

#[test]
fn what_follows_an_upgrade_that_is_refused_here_is_judged_as_a_request_of_its_own() {
    let site = Site::start();
    let expired = tokens::expired(crate::support::PODS[0]);
    for (target, status) in [
        ("/websockify?nonsense".to_owned(), 401),
        (format!("/websockify?{expired}"), 401),
        ("/container/nonsense/8080/".to_owned(), 401),
    ] {
        let mut client = site.client();
        let second = SECOND.replace("/API/second", "/filer");
        client.send([Site::upgrade(&target), second].concat());
        assert_eq!(client.response().status, status, "{target}");
        assert!(is_closed_or_refused(&mut client), "{target}");
    }
    assert_eq!(site.pods[0].accepted(), 0);
}

/// Whether the second request got its own 401, or none because the connection ended.
fn is_closed_or_refused(client: &mut Client) -> bool {
    client.try_response("GET").map_or(true, |second| second.status == 401)
}

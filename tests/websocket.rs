use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::support::{
    Client, Exchange, PODS, SOON, Site, echo, eventually, noise, tokens, websocket,
};

/// The head of a 101 made by hand.
const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Upgrades by hand; the connection is then a plain stream.
fn tunnel(site: &Site) -> Client {
    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()));
    let answer = client.head().unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    client
}

fn targets(site: &Site) -> [String; 4] {
    let token = tokens::valid(PODS[0]);
    [
        format!("/websockify?{token}"),
        format!("/broadcast?jwt_token={token}"),
        format!("/terminals/7?{token}"),
        format!("/container/{token}/{}/socket?x=1", site.port),
    ]
}

#[test]
fn messages_of_every_kind_and_size_come_back_as_they_were() {
    let site = Site::serving(echo);
    for target in targets(&site) {
        let mut socket = site.websocket(&target);
        for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20] {
            let message = Message::binary(noise(size));
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == message, "{size} bytes");
        }
        let message = Message::text("grüße \u{1f5a5}".repeat(99));
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
        socket.send(Message::Ping(b"ping"[..].into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(b"ping"[..].into()));
    }
}

#[test]
fn fragments_stay_fragments() {
    let site = Site::serving(|exchange| {
        let mut socket = websocket(exchange, "");
        // What the pod reads is one message only if no fragment was lost or made.
        let message = socket.read().unwrap();
        socket.send(message).unwrap();
        for (piece, code, last) in [
            ("one ", Data::Text, false),
            ("two ", Data::Continue, false),
            ("three", Data::Continue, true),
        ] {
            socket.send(Message::Frame(Frame::message(piece, OpCode::Data(code), last))).unwrap();
        }
        drop(socket.read());
    });
    let mut socket = site.websocket(&Site::screen());
    for (piece, code, last) in [("a", Data::Text, false), ("b", Data::Continue, true)] {
        socket.send(Message::Frame(Frame::message(piece, OpCode::Data(code), last))).unwrap();
    }
    assert_eq!(socket.read().unwrap(), "ab".into());
    assert_eq!(socket.read().unwrap(), "one two three".into());
}

#[test]
fn close_codes_pass_untouched_both_ways() {
    let site = Site::serving(|exchange| {
        let mut socket = websocket(exchange, "");
        match socket.read() {
            Ok(Message::Text(_)) => {
                let frame = CloseFrame { code: 4001.into(), reason: "pod says so".into() };
                socket.close(Some(frame)).unwrap();
                while socket.read().is_ok() {}
            }
            Ok(Message::Close(Some(frame))) => {
                assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4002, "enough"));
                while socket.read().is_ok() {}
            }
            other => panic!("{other:?}"),
        }
        exchange.close();
    });
    let mut socket = site.websocket(&Site::screen());
    socket.send("close".into()).unwrap();
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "pod says so"));

    let mut socket = site.websocket(&Site::screen());
    socket.close(Some(CloseFrame { code: 4002.into(), reason: "enough".into() })).unwrap();
    // The pod's echo of the code.
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 4002);
}

#[test]
fn the_handshake_s_own_headers_pass_both_ways_and_none_is_added() {
    let site = Site::serving(|exchange| {
        let mut headers = String::new();
        if exchange.header("sec-websocket-protocol").is_some() {
            headers += "Sec-WebSocket-Protocol: binary\r\n";
        }
        if exchange.header("sec-websocket-extensions").is_some() {
            headers += "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        }
        let head = ACCEPT.replace("\r\n\r\n", &format!("\r\n{headers}Server: pod\r\n\r\n"));
        exchange.write(head);
    });
    let offers = "Sec-WebSocket-Protocol: binary, base64\r\n\
                  Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
                  Origin: https://desk.example\r\n\r\n";
    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()).replace("\r\n\r\n", &format!("\r\n{offers}")));
    let answer = client.head().unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-protocol").as_deref(), Some("binary"));
    assert_eq!(answer.header("sec-websocket-extensions").as_deref(), Some("permessage-deflate"));
    let accept = answer.header("sec-websocket-accept");
    assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(answer.header("connection").map(|v| v.to_lowercase()).as_deref(), Some("upgrade"));
    assert_eq!((answer.header("server"), answer.header("transfer-encoding")), (None, None));
    let seen = site.pods[0].last();
    assert_eq!(seen.line(), "GET /");
    assert!(seen.head.starts_with("GET / HTTP/1.1\r\n"), "{}", seen.head);
    for (name, value) in [
        ("sec-websocket-protocol", "binary, base64"),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("origin", "https://desk.example"),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("x-real-ip", "127.0.0.1"),
    ] {
        let got = seen.header(name).map(|got| got.to_ascii_lowercase());
        assert_eq!(got, Some(value.to_ascii_lowercase()), "{name}");
    }

    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()));
    let answer = client.head().unwrap();
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    assert_eq!(site.pods[0].last().header("sec-websocket-protocol"), None);
}

#[test]
fn no_pod_sees_the_token_of_its_tunnel() {
    let site = Site::serving(echo);
    for (target, want) in
        targets(&site).into_iter().zip(["/", "/broadcast", "/terminals/7", "/socket?x=1"])
    {
        let _socket = site.websocket(&target);
        let seen = site.pods[0].last();
        assert_eq!(seen.target(), want);
        assert!(!seen.head.contains("eyJ"), "{}", seen.head);
    }
}

#[test]
fn bytes_that_the_pod_glues_to_its_101_arrive() {
    let site = Site::serving(|exchange| {
        exchange.write([ACCEPT.as_bytes(), b"RFB 003.008\n"].concat());
        let mut byte = [0];
        drop(exchange.from.read(&mut byte));
    });
    for _ in 0..50 {
        assert_eq!(tunnel(&site).bytes(12), b"RFB 003.008\n");
    }
}

#[test]
fn many_bytes_glued_to_the_101_arrive_in_order() {
    let site = Site::serving(|exchange| {
        exchange.write([ACCEPT.as_bytes(), &noise(3_000_000)].concat());
        exchange.close();
    });
    let mut client = tunnel(&site);
    assert!(client.rest() == noise(3_000_000));
}

#[test]
fn bytes_that_the_client_sends_behind_its_request_arrive() {
    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        let mut bytes = vec![0; 100_000];
        exchange.from.read_exact(&mut bytes).unwrap();
        assert!(bytes == noise(100_000));
        exchange.write("all there");
    });
    for size in [1, 100, 100_000] {
        let mut client = site.client();
        let (now, later) = (noise(100_000)[..size].to_vec(), noise(100_000)[size..].to_vec());
        client.send([Site::upgrade(&Site::screen()).as_bytes(), &now].concat());
        assert_eq!(client.head().unwrap().status, 101);
        client.send(later);
        assert_eq!(client.bytes(9), b"all there");
    }
}

/// Opens this many tunnels to a pod that answers at once, by so many clients at a time.
fn upgrade_many(upgrades: usize, clients: usize) {
    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        let mut bytes = [0; 4];
        if exchange.from.read_exact(&mut bytes).is_ok() {
            exchange.write(bytes);
        }
        exchange.close();
    });
    let next = AtomicUsize::new(0);
    let request = Site::upgrade(&Site::screen());
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::SeqCst) < upgrades {
                    let mut client = site.client();
                    client.send(&request);
                    assert_eq!(client.head().unwrap().status, 101);
                    client.send("ping");
                    assert_eq!(client.rest(), b"ping");
                }
            });
        }
    });
    assert_eq!(site.pods[0].seen().len(), upgrades);
}

#[test]
fn none_of_2000_upgrades_in_a_row_is_lost() {
    upgrade_many(2000, 1);
}

#[test]
fn none_of_2000_upgrades_by_32_clients_is_lost() {
    upgrade_many(2000, 32);
}

#[test]
fn a_pod_s_refusal_reaches_the_client_as_it_is() {
    for (answer, status, body) in [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nX-Pod: 1\r\n\r\nforbidden",
            403,
            "forbidden",
        ),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nX-Pod: 1\r\n\r\n", 401, ""),
        (
            "HTTP/1.1 500 Oh\r\nX-Pod: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            500,
            "abcde",
        ),
        (
            "HTTP/1.1 200 OK\r\nX-Pod: 1\r\nConnection: close\r\n\r\nuntil the end",
            200,
            "until the end",
        ),
        ("HTTP/1.0 404 Not Found\r\nX-Pod: 1\r\n\r\nold", 404, "old"),
    ] {
        let site = Site::serving(move |exchange| {
            exchange.write(answer);
            exchange.close();
        });
        let mut client = site.client();
        let got = client.ask(Site::upgrade(&Site::screen()));
        assert_eq!((got.status, got.text().as_str()), (status, body), "{answer}");
        assert_eq!(got.header("x-pod").as_deref(), Some("1"));
        assert_eq!(got.header("upgrade"), None);
        let line = site.gateway.logged("/websockify");
        assert_eq!((&line["status"], &line["sent"]), (&json!(status), &json!(body.len())));
    }
}

#[test]
fn a_pod_that_is_not_there_or_speaks_nonsense_is_a_502() {
    let site = Site::configured_serving(
        "[desktop]\nports = { broadcast = 9 }\n",
        |exchange: &mut Exchange| {
            exchange.write("nonsense\r\n\r\n");
            exchange.close();
        },
    );
    let answer = site.client().ask(Site::upgrade(&Site::screen()));
    assert_eq!((answer.status, answer.error().as_str()), (502, "invalid_response"));
    let token = tokens::valid(PODS[0]);
    let answer = site.client().ask(Site::upgrade(&format!("/broadcast?{token}")));
    assert_eq!((answer.status, answer.error().as_str()), (502, "connect_failed"));
}

#[test]
fn a_malformed_upgrade_is_refused() {
    let site = Site::serving(echo);
    let good = Site::upgrade(&Site::screen());
    for bad in [
        good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        good.replace("GET ", "POST "),
        good.replace("Upgrade: websocket", "Upgrade: h2c, websocket"),
        good.replace("Connection: Upgrade\r\n", ""),
        good.replace("Connection: Upgrade", "Connection: close"),
        good.replace("HTTP/1.1", "HTTP/1.0"),
        good.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"),
    ] {
        let answer = site.client().ask(&bad);
        assert_eq!(answer.status, 400, "{bad}");
        assert_eq!(answer.error(), "invalid_upgrade", "{bad}");
    }
    assert_eq!(site.pods[0].accepted(), 0);
}

#[test]
fn a_route_without_websocket_serves_an_upgrade_as_plain_http() {
    let site = Site::start();
    for (target, body) in [("/API/x", "pyos"), ("/", "website")] {
        let mut client = site.client();
        let answer = client.ask(Site::upgrade(target));
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        assert_eq!(client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
    }
    assert_eq!(site.pyos.last().header("upgrade"), None);
}

/// Well before a ping could have been missed, whatever else the machine does.
const AT_ONCE: Duration = SOON;

#[test]
fn when_one_side_goes_the_other_learns_of_it_at_once() {
    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        let mut order = [0];
        if exchange.from.read(&mut order).is_ok_and(|read| read == 1) {
            exchange.close();
        }
    });
    let mut client = tunnel(&site);
    let start = Instant::now();
    client.send("x");
    assert_eq!(client.rest(), b"");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    drop(client);
    assert_eq!(site.gateway.logged("/websockify")["reason"], "pod_close");

    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        let mut rest = Vec::new();
        drop(exchange.from.read_to_end(&mut rest));
    });
    let client = tunnel(&site);
    let start = Instant::now();
    drop(client);
    assert_eq!(site.gateway.logged("/websockify")["reason"], "client_close");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn a_side_that_has_said_its_last_word_still_hears_the_other() {
    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        let mut all = Vec::new();
        exchange.from.read_to_end(&mut all).unwrap();
        exchange.write([b"heard ".as_slice(), &all].concat());
        exchange.close();
    });
    let mut client = tunnel(&site);
    client.send("goodbye");
    client.finish();
    assert_eq!(client.rest(), b"heard goodbye");
    let line = site.gateway.logged("/websockify");
    assert_eq!((&line["received"], &line["sent"]), (&json!(7), &json!(13)));
}

#[test]
fn a_pod_that_has_said_its_last_word_still_hears_the_client() {
    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        exchange.write("over");
        exchange.stream().shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        exchange.from.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"and out");
    });
    let mut client = tunnel(&site);
    assert_eq!(client.rest(), b"over");
    client.send("and out");
    drop(client);
    let line = site.gateway.logged("/websockify");
    assert_eq!((&line["received"], &line["reason"]), (&json!(7), &json!("pod_close")));
}

#[test]
fn traffic_in_one_direction_alone_keeps_a_tunnel_open() {
    let site = Site::configured_serving(
        "[[route]]\nname = \"websockify\"\ntimeouts = { idle = \"5s\", read = \"4s\", send = \"4s\" }\n\
         [listen]\nread_timeout = \"4s\"\nwrite_timeout = \"4s\"\n",
        |exchange: &mut Exchange| {
            exchange.write(ACCEPT);
            // Twice the idle limit, at a pace well within it.
            for count in 0..100_u8 {
                exchange.write([count]);
                thread::sleep(Duration::from_millis(100));
            }
            exchange.close();
        },
    );
    let mut client = tunnel(&site);
    assert_eq!(client.rest(), (0..100).collect::<Vec<u8>>());
    assert_eq!(site.gateway.logged("/websockify")["sent"], 100);
}

#[test]
fn a_silent_tunnel_is_closed_at_its_limit() {
    let site = Site::configured_serving(
        "[[route]]\nname = \"websockify\"\ntimeouts = { idle = \"1s\" }\n",
        echo,
    );
    let start = Instant::now();
    let mut client = tunnel(&site);
    assert_eq!(client.rest(), b"");
    let lasted = start.elapsed();
    assert!(lasted >= Duration::from_secs(1) && lasted < SOON, "{lasted:?}");
    let line = site.gateway.logged("/websockify");
    assert_eq!((&line["reason"], &line["status"]), (&json!("idle"), &json!(101)));
}

#[test]
fn a_reader_that_does_not_read_costs_no_memory() {
    const SENT: usize = 200 << 20;
    let site = Site::serving(|exchange| {
        exchange.write(ACCEPT);
        let piece = vec![7; 1 << 20];
        exchange.stream().set_write_timeout(Some(SOON)).unwrap();
        for _ in 0..SENT >> 20 {
            if exchange.from.get_mut().write_all(&piece).is_err() {
                break;
            }
        }
        exchange.close();
    });
    // Some before on every worker, so that what each first takes from the system is not counted.
    let mut earlier: Vec<_> = (0..8).map(|_| tunnel(&site)).collect();
    earlier.iter_mut().for_each(|client| drop(client.bytes(16 << 20)));
    drop(earlier);
    eventually("they have ended", || (site.gateway.access("/websockify").len() == 8).then_some(()));
    let before = site.gateway.rss();
    let mut client = tunnel(&site);
    assert_eq!(client.bytes(1), [7]);
    // Nothing is read for so long: whatever can pile up on the way does.
    let mut most = before;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        most = most.max(site.gateway.rss());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(most < before + 4096, "grew from {before} to {most} KiB");
    // Not a stuck tunnel: what is sent comes as soon as someone reads, more than was on the way.
    drop(client.bytes(64 << 20));
}

#[test]
fn a_tunnel_is_logged_once_at_its_end_with_its_bytes() {
    let site = Site::serving(echo);
    let mut socket = site.websocket(&Site::screen());
    socket.send(Message::binary(noise(1000))).unwrap();
    socket.read().unwrap();
    // Another request's line shows that the tunnel's would be there by now.
    site.get("/API/marker", "");
    site.gateway.logged("/API/marker");
    assert_eq!(site.gateway.access("/websockify").len(), 0);
    drop(socket);
    let line = site.gateway.logged("/websockify");
    // Client frames carry a mask of 4 bytes.
    assert_eq!((&line["received"], &line["sent"]), (&json!(1008), &json!(1004)));
    assert_eq!((&line["status"], &line["route"]), (&json!(101), &json!("websockify")));
    assert_eq!(line["reason"], "client_close");
    site.get("/API/second", "");
    site.gateway.logged("/API/second");
    assert_eq!(site.gateway.access("/websockify").len(), 1);
}

fn say(socket: &mut WebSocket<TcpStream>) {
    socket.send("x".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "x".into());
}

#[test]
fn nothing_is_left_of_500_tunnels() {
    let site = Site::serving(echo);
    let open = |count| {
        let mut sockets: Vec<_> = (0..count).map(|_| site.websocket(&Site::screen())).collect();
        sockets.iter_mut().for_each(say);
    };
    open(1);
    let settled = |logged: usize| {
        eventually("every tunnel has ended", || {
            (site.gateway.access("/websockify").len() == logged).then_some(())
        });
    };
    settled(1);
    let before = site.gateway.descriptors();
    (0..10).for_each(|_| open(50));
    settled(501);
    eventually("the descriptors are back", || (site.gateway.descriptors() <= before).then_some(()));
}

#[test]
fn a_pod_that_never_answers_an_upgrade_is_given_up() {
    let site = Site::configured_serving(
        "[[route]]\nname = \"websockify\"\ntimeouts = { read = \"500ms\" }\n",
        |exchange: &mut Exchange| {
            drop(exchange.stream().set_read_timeout(Some(SOON)));
            drop(exchange.from.read(&mut [0]));
        },
    );
    let before = site.gateway.descriptors();
    let mut patient = site.client();
    let answer = patient.ask(Site::upgrade(&Site::screen()));
    assert_eq!((answer.status, answer.error().as_str()), (504, "response_timeout"));
    for _ in 0..10 {
        site.client().send(Site::upgrade(&Site::screen()));
    }
    drop(patient);
    eventually("the pod was asked", || (site.pods[0].seen().len() == 11).then_some(()));
    eventually("the descriptors are back", || (site.gateway.descriptors() <= before).then_some(()));
}

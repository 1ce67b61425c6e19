use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::{Exchange, Gateway, Origin, SOON, Site, eventually, noise, raw};

const MIB: usize = 1 << 20;

/// How long the gateway takes what is left of a body that nobody wants.
const LINGER: Duration = Duration::from_secs(2);

/// A request of this length up to its body.
fn post(target: &str, headers: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n")
}

/// A body in chunks of this size.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

fn post_chunked(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: x\r\n{headers}Transfer-Encoding: chunked\r\n\r\n");
    [head.as_bytes(), &chunked(body, 8000)].concat()
}

#[test]
fn an_upload_streams() {
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let (first, arrived) = mpsc::channel();
        let site = Site::serving(move |exchange| {
            if let Ok(Some(piece)) = exchange.piece() {
                first.send(piece).unwrap();
            }
            drop(exchange.body());
            exchange.answer("200 OK", "", "done");
        });
        let chunks = framing.ends_with("chunked");
        let (start, end) =
            if chunks { ("5\r\nfirst\r\n", "4\r\nlast\r\n0\r\n\r\n") } else { ("first", " last") };
        let mut client = site.client();
        client.send(format!("POST /API/x HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{start}"));
        // The last bytes are sent only once the upstream has the first.
        assert_eq!(arrived.recv_timeout(SOON).unwrap(), b"first", "{framing}");
        client.send(end);
        assert_eq!(client.response().text(), "done");
        let want = if chunks { "firstlast" } else { "first last" };
        assert_eq!(site.pyos.only().body, want.as_bytes());
    }
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let (next, asked) = mpsc::channel::<()>();
    let asked = std::sync::Mutex::new(asked);
    let site = Site::serving(move |exchange| {
        exchange.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for count in 0..5 {
            exchange.write(chunk(&format!("data:{count}\n\n")));
            if asked.lock().unwrap().recv_timeout(SOON).is_err() {
                return;
            }
        }
        exchange.write("0\r\n\r\n");
    });
    let mut client = site.client();
    client.send(post("/API/composer/launchdesktop", "", 0));
    let head = client.head().unwrap();
    assert_eq!(head.header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(head.header("content-encoding"), None);
    for count in 0..5 {
        // The upstream says no more until this has arrived.
        let want = chunk(&format!("data:{count}\n\n"));
        assert_eq!(client.bytes(want.len()), want.as_bytes());
        next.send(()).unwrap();
    }
    assert_eq!(client.bytes(5), b"0\r\n\r\n");
}

fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

#[test]
fn chunks_pass_both_ways() {
    let body = noise(300_000);
    let site = Site::serving(|exchange| {
        let Ok(body) = exchange.body() else { return };
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        exchange.write(chunked(&body, 1000));
    });
    let mut client = site.client();
    let answer = client.ask(post_chunked("/API/x", "", &body));
    assert_eq!(answer.header("content-length"), None);
    assert!(answer.body == body && site.pyos.only().body == body);
    // And the connection is still good.
    assert!(client.ask(post_chunked("/API/x", "", b"again")).body == b"again");
}

#[test]
fn a_body_may_be_as_large_as_its_route_allows_and_no_larger() {
    let limits = "[[route]]\nname = \"filer\"\nlimits = { body = \"3000B\" }\n";
    let site = Site::configured_serving(limits, |exchange| {
        // Not before the end: an early answer would reach the client.
        if exchange.body().is_ok() {
            exchange.answer("200 OK", "", "");
        }
    });
    for (target, limit) in [("/API/x", MIB), ("/spawner/x", 8 * MIB), ("/filer", 3000), ("/", MIB)]
    {
        let headers = Site::bearer();
        let body = noise(limit + 1);
        let of_length =
            |size: usize| [post(target, &headers, size).as_bytes(), &body[..size]].concat();
        let in_chunks = |size: usize| post_chunked(target, &headers, &body[..size]);
        for (what, fits, too_large) in [
            ("length", of_length(limit), of_length(limit + 1)),
            ("chunks", in_chunks(limit), in_chunks(limit + 1)),
        ] {
            assert_eq!(raw(site.address(), fits).unwrap().status, 200, "{target} {what}");
            let answer = raw(site.address(), too_large);
            let answer = answer.unwrap_or_else(|error| panic!("{target} {what}: {error}"));
            assert_eq!(answer.status, 413, "{target} {what}");
            assert_eq!(answer.error(), "body_too_large", "{target} {what}");
        }
    }
}

#[test]
fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let site = Site::start();
    let mut client = site.client();
    let answer = client.ask(post("/API/x", "", MIB + 1));
    assert_eq!((answer.status, answer.error().as_str()), (413, "body_too_large"));
    assert_eq!(site.pyos.accepted(), 0);
}

#[test]
fn answers_without_a_body_have_none() {
    let site = Site::serving(|exchange| match exchange.target().as_str() {
        "/API/204" => exchange.write("HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        "/API/304" => exchange.write("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"),
        _ => exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
    });
    let mut client = site.client();
    for (method, target, status) in
        [("GET", "/API/204", 204), ("GET", "/API/304", 304), ("HEAD", "/API/x", 200)]
    {
        let answer = client.ask(format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(answer.status, status);
        // The next answer begins right here.
        assert_eq!(client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").text(), "OK\n");
    }
    let answer = client.ask("HEAD /API/x HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(answer.header("content-length").as_deref(), Some("1234"));
    let refused = client.ask("HEAD /filer HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(refused.status, 401);
    assert_eq!(client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").text(), "OK\n");
}

#[test]
fn who_expects_a_100_gets_it_and_who_is_refused_does_not() {
    let site = Site::serving(|exchange| {
        if exchange.header("expect").is_some() {
            exchange.write("HTTP/1.1 100 Continue\r\n\r\n");
        }
        if exchange.body().is_ok() {
            exchange.answer("200 OK", "", "stored");
        }
    });
    let mut client = site.client();
    client.send(post("/filer", &format!("{}Expect: 100-continue\r\n", Site::bearer()), 4));
    assert_eq!(client.head().unwrap().status, 100);
    client.send("body");
    assert_eq!(client.response().text(), "stored");
    assert_eq!(site.pods[0].only().body, b"body");

    let mut client = site.client();
    client.send(post("/filer", "Expect: 100-continue\r\n", 4));
    assert_eq!(client.head().unwrap().status, 401);
}

#[test]
fn a_large_download_is_whole() {
    let piece = noise(MIB);
    let mut want = Sha256::new();
    (0..100).for_each(|_| want.update(&piece));
    let site = Site::serving(move |exchange| {
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 100 * MIB));
        (0..100).for_each(|_| exchange.write(&piece));
    });
    let answer = site.get("/filer/large", &Site::bearer());
    assert_eq!(answer.body.len(), 100 * MIB);
    assert_eq!(Sha256::digest(&answer.body), want.finalize());
    assert_eq!(site.gateway.logged("/filer/large")["sent"], 100 * MIB);
}

#[test]
fn a_large_upload_is_whole() {
    let site = Site::serving(|exchange| {
        let mut sum = Sha256::new();
        while let Ok(Some(piece)) = exchange.piece() {
            sum.update(&piece);
        }
        exchange.answer("200 OK", "", sum.finalize());
    });
    let body = noise(40 * MIB);
    let mut client = site.client();
    client.send(post("/filer/large", &Site::bearer(), body.len()));
    client.send(&body);
    assert!(client.response().body == Sha256::digest(&body).as_slice());
}

/// What a client gets when the upstream writes this and closes.
fn broken(answer: &'static str) -> (std::io::Result<crate::support::Response>, Site) {
    let site = Site::serving(move |exchange| {
        exchange.write(answer);
        exchange.close();
    });
    let got = raw(site.address(), "GET /API/x HTTP/1.1\r\nHost: x\r\n\r\n");
    (got, site)
}

#[test]
fn an_answer_that_breaks_off_looks_broken_to_the_client() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot a hundred",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
    ] {
        let (got, site) = broken(answer);
        assert!(got.is_err(), "{answer:?} became {got:?}");
        assert_ne!(site.gateway.logged("/API/x")["reason"], "", "{answer:?}");
    }
}

#[test]
fn an_answer_that_is_no_http_is_a_502() {
    for answer in [
        "garbage\r\n\r\n",
        "",
        "HTTP/1.1 abc\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 200 OK\r\nX",
    ] {
        let (got, _site) = broken(answer);
        let got = got.unwrap_or_else(|error| panic!("{answer:?}: {error}"));
        assert_eq!(got.status, 502, "{answer:?}");
        assert!(
            matches!(got.error().as_str(), "invalid_response" | "connect_failed"),
            "{answer:?}"
        );
    }
}

#[test]
fn an_upstream_that_is_silent_is_a_504() {
    let site = Site::configured_serving(
        "[[route]]\nname = \"pyos\"\ntimeouts = { read = \"1s\" }\n",
        |exchange: &mut Exchange| {
            let mut byte = [0];
            drop(exchange.stream().set_read_timeout(Some(SOON)));
            drop(Read::read(&mut exchange.from, &mut byte));
        },
    );
    let start = Instant::now();
    let answer = site.get("/API/x", "");
    assert_eq!((answer.status, answer.error().as_str()), (504, "response_timeout"));
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(site.pyos.seen().len(), 1);
}

#[test]
fn a_hundred_requests_share_one_client_connection_and_few_upstream_ones() {
    let site = Site::start();
    let mut client = site.client();
    for _ in 0..100 {
        assert_eq!(client.ask("GET /API/x HTTP/1.1\r\nHost: x\r\n\r\n").text(), "pyos");
    }
    assert_eq!(site.pyos.seen().len(), 100);
    // A request may come before the last one's connection is back among the idle ones.
    assert!(site.pyos.accepted() <= 10, "{}", site.pyos.accepted());
}

#[test]
fn refusals_leave_the_client_connection_open() {
    let site = Site::start();
    let mut client = site.client();
    for (target, status) in [("/filer", 401), ("/healthz", 200), ("/filer", 401), ("/API", 200)] {
        let answer = client.ask(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(answer.status, status, "{target}");
    }
}

#[test]
fn a_post_is_never_repeated() {
    // The second request on a connection finds it closed after it was sent.
    let site = Site::serving(|exchange| {
        drop(exchange.body());
        if exchange.target() == "/API/first" {
            exchange.answer("200 OK", "", "first");
        } else {
            exchange.close();
        }
    });
    let mut client = site.client();
    // Both at once: an idle connection is not kept for long.
    let first = "GET /API/first HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    client.send(first + &post("/API/pay", "", 3) + "now");
    assert_eq!(client.response().text(), "first");
    assert_eq!(client.response().status, 502);
    // On the connection of the first one, which alone would be worth another try.
    assert_eq!(site.pyos.accepted(), 1);
    let paid = || site.pyos.seen().iter().filter(|seen| seen.target() == "/API/pay").count();
    assert_eq!(paid(), 1);
}

#[test]
fn a_get_on_a_connection_that_was_closed_meanwhile_is_repeated() {
    // Closes each connection once its first answer is out, a moment too late for the gateway.
    let site = is_served_again("", Duration::ZERO);
    assert_eq!((site.pyos.seen().len(), site.pyos.accepted()), (3, 2));
}

/// Two requests, of which the second one's connection is closed after so long without an answer.
fn is_served_again(toml: &str, after: Duration) -> Site {
    let served = AtomicUsize::new(0);
    let site = Site::configured_serving(toml, move |exchange| {
        if served.fetch_add(1, Ordering::SeqCst) == 1 {
            thread::sleep(after);
            exchange.close();
        } else {
            exchange.answer("200 OK", "", "served");
        }
    });
    let mut client = site.client();
    // Both at once: an idle connection is not kept for long.
    client.send("GET /API/x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2));
    for _ in 0..2 {
        assert_eq!(client.response().text(), "served");
    }
    site
}

#[test]
fn a_connection_that_the_upstream_closed_is_not_used_again() {
    let (closed, closes) = mpsc::channel();
    let site = Site::serving(move |exchange| {
        drop(exchange.body());
        exchange.answer("200 OK", "", "served");
        exchange.close();
        closed.send(()).ok();
    });
    let mut client = site.client();
    for count in 1..=10 {
        let answer = client.ask([post("/API/x", "", 3).as_bytes(), b"abc"].concat());
        assert_eq!(answer.text(), "served");
        assert_eq!(site.pyos.seen().len(), count);
        // On loopback the end has arrived at the gateway by then.
        closes.recv_timeout(SOON).unwrap();
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Site::serving(|exchange| {
        if exchange.body().is_ok() {
            exchange.answer("200 OK", "", exchange.target());
        }
    });
    let mut client = site.client();
    let mut requests = String::new();
    for count in 0..10 {
        requests += &format!("GET /API/{count} HTTP/1.1\r\nHost: x\r\n\r\n");
        requests += &format!("{}abc", post(&format!("/API/post{count}"), "", 3));
    }
    client.send(requests);
    for count in 0..10 {
        assert_eq!(client.response().text(), format!("/API/{count}"));
        assert_eq!(client.response().text(), format!("/API/post{count}"));
    }
}

#[test]
fn a_refusal_among_pipelined_requests_answers_its_own_request() {
    let site = Site::start();
    let mut client = site.client();
    client.send("GET /filer HTTP/1.1\r\nHost: x\r\n\r\nGET /API HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().status, 401);
    assert_eq!(client.response().text(), "pyos");
}

#[test]
fn an_answer_before_the_end_of_the_upload_reaches_the_client() {
    let site = Site::serving(|exchange| {
        drop(exchange.piece());
        exchange
            .write("HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad");
        // What is still sent is taken, so that no reset overtakes the answer.
        while let Ok(Some(_)) = exchange.piece() {}
        exchange.close();
    });
    let mut client = site.client();
    client.send(post("/API/x", "", 500_000));
    client.send(noise(1000));
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (400, "bad"));
}

#[test]
fn an_answer_of_an_upstream_that_takes_no_more_of_the_upload_reaches_the_client() {
    let refusal =
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";
    // It closes with bytes unread, which resets the connection; or it keeps it and reads no more.
    for closes in [true, false] {
        let (go, went) = mpsc::channel::<()>();
        let went = std::sync::Mutex::new(went);
        // Nobody waits for as long as it may take to send something.
        let config = "[[route]]\nname = \"pyos\"\ntimeouts = { send = \"60s\" }\nlimits = { body = \"64MB\" }\n";
        let site = Site::configured_serving(config, move |exchange| {
            let went = went.lock().unwrap();
            drop(exchange.piece());
            went.recv().ok();
            exchange.write(refusal);
            if closes {
                exchange.close();
            } else {
                went.recv().ok();
            }
        });
        let mut client = site.client();
        let body = noise(32 * MIB);
        let mut wire = client.from.get_ref().try_clone().unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let upload = thread::spawn(move || {
            // Broken off by the gateway at some point, which is no fault here.
            for piece in post_chunked("/API/x", "", &body).chunks(64 * 1024) {
                if wire.write_all(piece).is_err() {
                    break;
                }
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Once everything between the two is full.
        let mut before = (0, Instant::now());
        eventually("nothing more is taken", || {
            let now = sent.load(Ordering::SeqCst);
            if now != before.0 {
                before = (now, Instant::now());
            }
            (now > 0 && before.1.elapsed() > Duration::from_millis(300)).then_some(())
        });
        go.send(()).unwrap();
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (413, "big"), "closes: {closes}");
        drop((client, go));
        upload.join().unwrap();
    }
}

/// Sends until nothing more is taken; returns how much was.
fn stall(wire: &mut TcpStream, body: &[u8]) -> usize {
    wire.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while let Ok(count @ 1..) = wire.write(&body[sent..]) {
        sent += count;
    }
    sent
}

/// The end of an upload may wait in us alone, once its client has sent it all.
#[test]
fn an_answer_is_not_held_back_by_what_the_upstream_does_not_take() {
    let row =
        "[[route]]\nname = \"pyos\"\ntimeouts = { send = \"60s\" }\nlimits = { body = \"64MB\" }\n";
    let body = noise(32 * MIB);
    // How much fits between a client and an upstream that reads nothing.
    let serve = |answer: &'static str, go: mpsc::Receiver<()>| {
        let go = std::sync::Mutex::new(go);
        Site::configured_serving(row, move |exchange| {
            let go = go.lock().unwrap();
            go.recv().ok();
            exchange.write(answer);
            go.recv().ok();
        })
    };
    let (go, wait) = mpsc::channel();
    let site = serve("", wait);
    let mut client = site.client();
    client.send(post("/API/x", "", body.len()));
    let mut wire = client.from.get_ref().try_clone().unwrap();
    let fits = stall(&mut wire, &body);
    drop((go, client, wire, site));
    // The client's own buffers are part of that: among bodies that are shorter by so much are some of which the
    // gateway has the last piece.
    let refusal =
        "HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n";
    for less in (0..64).map(|step| step * 128 * 1024).take_while(|less| *less < fits) {
        let (go, wait) = mpsc::channel();
        let site = serve(refusal, wait);
        let mut client = site.client();
        client.send(post("/API/x", "", fits - less));
        let mut wire = client.from.get_ref().try_clone().unwrap();
        stall(&mut wire, &body[..fits - less]);
        go.send(()).unwrap();
        let answer = client.response();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (413, "big"),
            "{less} less than {fits}"
        );
        drop(go);
    }
}

/// The head of an answer may be all that the upstream says for long.
#[test]
fn the_beginning_of_an_answer_does_not_wait_for_the_upload() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let row =
        "[[route]]\nname = \"pyos\"\ntimeouts = { send = \"60s\" }\nlimits = { body = \"64MB\" }\n";
    let site = Site::configured_serving(row, move |exchange| {
        let go = wait.lock().unwrap();
        go.recv().ok();
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n1%\r\n");
        go.recv().ok();
    });
    let mut client = site.client();
    client.send(post("/API/x", "", 32 * MIB));
    let mut wire = client.from.get_ref().try_clone().unwrap();
    stall(&mut wire, &noise(32 * MIB));
    go.send(()).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.bytes(7), b"2\r\n1%\r\n");
    drop((client, wire, go));
}

/// What took long was the upstream.
#[test]
fn a_request_that_is_sent_again_late_is_not_too_slow() {
    let row = "[listen]\nread_timeout = \"300ms\"\n[limits]\nbody_rate = \"64B\"\n";
    // Long after a body would have had to come.
    is_served_again(row, Duration::from_secs(2));
}

#[test]
fn an_upstream_may_answer_each_piece_before_it_takes_the_next() {
    let body = noise(32 * MIB);
    let row =
        "[[route]]\nname = \"pyos\"\ntimeouts = { send = \"60s\" }\nlimits = { body = \"64MB\" }\n";
    // As long as the request, or twice as long: it takes little, since its answer is not taken either.
    for times in [1, 2] {
        let site = Site::configured_serving(row, move |exchange| {
            let length = times * 32 * MIB;
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            while let Ok(Some(piece)) = exchange.piece() {
                exchange.write(piece.repeat(times));
            }
        });
        for request in [
            [post("/API/x", "", body.len()).as_bytes(), &body].concat(),
            post_chunked("/API/x", "", &body),
        ] {
            let mut client = site.client();
            let mut wire = client.from.get_ref().try_clone().unwrap();
            let upload = thread::spawn(move || wire.write_all(&request));
            let answer = client.response();
            assert_eq!((answer.status, answer.body.len()), (200, times * body.len()));
            upload.join().unwrap().unwrap();
            // And is good for another one.
            assert_eq!(client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
        }
    }
}

#[test]
fn an_answer_with_which_a_connection_ends_is_not_taken_back() {
    let config = "[[route]]\nname = \"pyos\"\nlimits = { body = \"64MB\" }\n";
    let site = Site::configured_serving(config, |exchange| {
        drop(exchange.piece());
        exchange.write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        exchange.close();
    });
    let head = post("/API/x", "Connection: close\r\n", 15 * MIB);
    let beginning = [head.as_bytes(), &noise(MIB)].concat();
    let rest = noise(14 * MIB);
    eventually("all of it is taken", || {
        let mut client = site.client();
        let start = Instant::now();
        let begun = client.stream().write_all(&beginning);
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
        // Who goes on all the same is not reset, which could reach it before the answer; but for
        // one that takes longer than it is waited for.
        let sent = begun.and_then(|()| client.stream().write_all(&rest));
        let end = client.from.read(&mut [0]);
        let (taken, took) = (sent.is_ok() && matches!(end, Ok(0)), start.elapsed());
        assert!(taken || took >= LINGER, "{sent:?}, {end:?} after {took:?}");
        taken.then_some(())
    });
}

#[test]
fn who_waits_for_leave_to_send_a_body_is_not_asked_for_it_after_the_answer() {
    let site = Site::serving(|exchange| exchange.answer("200 OK", "", ""));
    for target in ["/healthz", "/API"] {
        let mut client = site.client();
        client.send(post(target, "Expect: 100-continue\r\n", 50));
        let answer = client.response();
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.header("connection").as_deref(), Some("close"), "{target}");
        // What comes now may be a body or another request: it is taken for neither.
        client.send("GET /API HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2));
        assert_eq!(client.rest(), b"", "{target}");
    }
}

/// A connection of a client whose system takes little at once, and makes the gateway's do so, too.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.into()
}

#[test]
fn who_takes_an_answer_slowly_gets_all_of_it() {
    // It is written in one piece.
    let text = "x".repeat(MIB);
    let site = Site::configured(&format!(
        "[listen]\nwrite_timeout = \"2s\"\n[[route]]\nname = \"text\"\n\
         match = {{ exact = \"/text\" }}\nbackend = {{ text = \"{text}\" }}\n"
    ));
    let mut wire = narrow(site.address());
    wire.write_all(b"GET /text HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let (mut taken, mut sip) = (Vec::<u8>::new(), [0; 4096]);
    // A little all the time, and for the whole longer than it may take nothing.
    while let Ok(count @ 1..) = wire.read(&mut sip) {
        taken.extend(&sip[..count]);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(taken.ends_with(text.as_bytes()), "{} bytes", taken.len());
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_body_gets_a_408() {
    let site = Site::configured("[listen]\nread_timeout = \"300ms\"\n");
    let mut client = site.client();
    client.send(post("/API/x", "", 10));
    client.send("abc");
    let answer = client.response();
    assert_eq!((answer.status, answer.error().as_str()), (408, "request_timeout"));
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_frees_the_upstream() {
    let (ended, seen) = mpsc::channel();
    let site = Site::serving(move |exchange| {
        exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = chunk(&"x".repeat(60_000));
        while exchange.from.get_mut().write_all(piece.as_bytes()).is_ok() {}
        ended.send(()).unwrap();
    });
    let mut client = site.client();
    client.send("GET /API/endless HTTP/1.1\r\nHost: x\r\n\r\n");
    client.bytes(100_000);
    drop(client);
    seen.recv_timeout(SOON).unwrap();
    site.gateway.logged("/API/endless");
}

#[test]
fn idle_upstream_connections_are_not_kept_longer_than_servers_keep_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ended, seen) = mpsc::channel();
    let _origin = Origin::on(listener, move |exchange| {
        exchange.answer("200 OK", "", "x");
        let start = Instant::now();
        let mut byte = [0];
        drop(exchange.stream().set_read_timeout(Some(SOON)));
        let read = Read::read(&mut exchange.from, &mut byte);
        ended.send((start.elapsed(), read.ok())).unwrap();
    });
    let gateway =
        Gateway::start(&format!("[upstreams.website]\nhost = \"127.0.0.1\"\nport = {port}\n"));
    // An end that is told or seen late says nothing of the others.
    eventually("a connection that ends in time", || {
        let answer = raw(gateway.address(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(answer.status, 200);
        let (after, read) = seen.recv_timeout(SOON).unwrap();
        assert_eq!(read, Some(0));
        // Node closes after 5 s; a request sent into that would be lost.
        (after < Duration::from_secs(5)).then_some(())
    });
}

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Exchange, SOON, Site, eventually};

/// The speed test's limit.
const SPEEDTEST: usize = 256 << 20;

/// What a pod takes before it stalls.
const SIP: usize = 1 << 20;

/// Reads this many bytes of the body without keeping them; fewer if the sender stops.
fn drink(exchange: &mut Exchange, length: usize) -> usize {
    let mut glass = vec![0; 256 << 10];
    let mut drunk = 0;
    while drunk < length {
        let most = glass.len().min(length - drunk);
        match exchange.from.read(&mut glass[..most]) {
            Ok(read @ 1..) => drunk += read,
            Ok(0) | Err(_) => break,
        }
    }
    drunk
}

#[test]
fn the_largest_upload_of_the_speed_test_passes_by_bytes() {
    let site = Site::serving(|exchange| {
        let length = exchange.header("content-length").unwrap().parse().unwrap();
        let drunk = drink(exchange, length);
        exchange.answer("200 OK", "Connection: close\r\n", drunk.to_string());
        exchange.close();
    });
    let mut client = site.client();
    client.send(format!(
        "POST /speedtest/empty.php HTTP/1.1\r\nHost: x\r\nContent-Length: {SPEEDTEST}\r\n\r\n"
    ));
    let piece = vec![7; 1 << 20];
    for _ in 0..SPEEDTEST >> 20 {
        client.send(&piece);
    }
    let answer = client.response();
    assert_eq!((answer.status, answer.text()), (200, SPEEDTEST.to_string()));
}

#[test]
fn one_byte_more_in_chunks_is_refused_before_the_upstream_has_the_last_one() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let site = Site::serving(move |exchange| {
        let mut glass = vec![0; 256 << 10];
        let mut last = Vec::new();
        while let Ok(read @ 1..) = exchange.from.read(&mut glass) {
            last.extend(&glass[..read]);
            last.drain(..last.len().saturating_sub(16));
        }
        tell.lock().unwrap().send(last).unwrap();
        exchange.close();
    });
    let mut client = site.client();
    client.send("POST /speedtest/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"100000\r\n".as_slice(), &vec![7; 1 << 20], b"\r\n"].concat();
    for _ in 0..SPEEDTEST >> 20 {
        client.send(&chunk);
    }
    client.send(b"1\r\n7\r\n0\r\n\r\n");
    assert_eq!(client.response().status, 413);
    // To the upstream the body broke off: it can never take it for a whole one.
    let last = told.recv_timeout(SOON).unwrap();
    assert!(!last.ends_with(b"0\r\n\r\n"), "{last:?}");
}

#[test]
fn an_upload_of_8_gib_to_a_pod_that_stalls_costs_no_memory() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let site = Site::serving(move |exchange| {
        drink(exchange, SIP);
        // The pod takes nothing more until the test has looked.
        let _told_or_late = wait.lock().unwrap().recv_timeout(SOON);
        exchange.close();
    });
    let upload = || {
        let client = site.client();
        let head = format!(
            "POST /filer HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n",
            Site::bearer(),
            8_u64 << 30
        );
        client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut stream = client.stream();
        stream.write_all(head.as_bytes()).unwrap();
        let piece = vec![7; 1 << 20];
        let (mut sent, end) = (0, Instant::now() + SOON);
        // Until the sockets between us and the pod are full, which has had its sip by then.
        loop {
            match stream.write(&piece) {
                Ok(written @ 1..) => sent += written,
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock
                        && sent <= SIP
                        && Instant::now() < end => {}
                _ => break,
            }
        }
        (client, sent)
    };
    // One before, so that what a worker first takes from the system is not counted.
    let (first, _) = upload();
    drop(first);
    go.send(()).unwrap();
    eventually("it has ended", || (!site.gateway.access("/filer").is_empty()).then_some(()));
    let before = site.gateway.rss();
    let (_client, sent) = upload();
    let mut most = before;
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        most = most.max(site.gateway.rss());
        thread::sleep(Duration::from_millis(20));
    }
    go.send(()).unwrap();
    assert!(sent > SIP, "{sent}");
    // The allocator takes memory in steps of 4 MiB; a spooled upload would take all that was sent.
    assert!(most <= before + 4096, "grew from {before} to {most} KiB after {sent} bytes");
}

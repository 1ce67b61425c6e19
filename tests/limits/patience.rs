use std::io::Write;
use std::time::{Duration, Instant};

use super::Watched;
use crate::support::{Client, SOON, Site, eventually};

#[test]
fn a_body_that_drips_is_given_up_and_one_that_is_only_slow_is_not() {
    let site = Site::configured("[listen]\nread_timeout = \"5s\"\n[limits]\nbody_rate = \"50B\"\n");
    let mut drip = site.client();
    let mut slow = site.client();
    let head = "POST /API/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    drip.send(head);
    slow.send(head);
    let start = Instant::now();
    // Each byte comes long before read_timeout. A second later ten bytes are not enough.
    let mut ended = false;
    while !ended && start.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(100));
        ended = drip.stream().write_all(b"x").is_err() || readable(&drip);
        slow.send("x".repeat(100));
    }
    assert!(!readable(&slow), "who is only slow goes on");
    let answer = drip.response();
    assert_eq!((answer.status, answer.error().as_str()), (408, "body_too_slow"));
    assert_eq!(drip.rest(), b"");
    let line = site.gateway.wait_for_line("body_too_slow");
    assert!(line.contains("408"), "{line}");
}

fn readable(client: &Client) -> bool {
    let stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    peeked.is_ok()
}

/// Sends requests and takes no answer, until the gateway gives up.
fn takes_nothing(watched: &Watched, request: &str) {
    let client = watched.site.client();
    let mut stream = client.stream();
    socket2::SockRef::from(stream).set_recv_buffer_size(4096).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let many = request.repeat(1000);
    // What is not taken any more tells that the answers wait, too.
    let mut sent = 0;
    while stream.write_all(many.as_bytes()).is_ok() && sent < 1000 {
        sent += 1;
    }
    assert!(sent < 1000, "a thousand times {} bytes were taken", many.len());
    watched.until("deskgate_connections", 0.0);
    watched.until("deskgate_requests_in_flight", 0.0);
}

#[test]
fn a_client_that_takes_nothing_is_given_up_whatever_it_asked_for() {
    let folder = tempfile::TempDir::new().unwrap();
    // Large answers, of which few fill what there is of buffers.
    let text = "x".repeat(10_000);
    std::fs::write(folder.path().join("file.txt"), text.repeat(10)).unwrap();
    let files = folder.path().display();
    let watched = Watched::start(&format!(
        "[listen]\nwrite_timeout = \"1s\"\n\
         [[route]]\nname = \"files\"\nmatch = {{ prefix = \"/files\" }}\n\
         backend = {{ files = \"{files}\" }}\nrewrite = \"{{rest}}\"\n\
         [[route]]\nname = \"text\"\nmatch = {{ exact = \"/text\" }}\n\
         backend = {{ text = \"{text}\" }}\n"
    ));
    for target in ["/text", "/files/file.txt", "/filer/x"] {
        // Of a refusal the page is longer than the word.
        let accept = "Accept: text/html\r\n";
        takes_nothing(&watched, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n{accept}\r\n"));
    }
    assert_eq!(watched.site.get("/healthz", "").status, 200);
}

#[test]
fn a_client_that_takes_nothing_of_a_refused_upgrade_is_given_up() {
    let site = Site::configured_serving("[listen]\nwrite_timeout = \"1s\"\n", |exchange| {
        let body = "x".repeat(64 << 20);
        exchange.answer("403 Forbidden", "", body);
    });
    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()));
    let line = eventually("its line", || site.gateway.access("/websockify").into_iter().next());
    assert_eq!(line["status"], 403);
    drop(client);
}

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{SOON, Site, eventually, free_port};
use crate::tls::Issued;

/// How long the gateway takes what still comes on a connection that it ends.
const LINGER: Duration = Duration::from_secs(2);

/// A request that is refused as soon as its head is read.
const REFUSED: &str = "GET /a%zz HTTP/1.1\r\nHost: x\r\n\r\n";

/// The head of a request with a body.
fn post(headers: &str) -> String {
    format!("POST /API/x HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// Asks, sends `after` once the answer has begun, reads to the end of the connection, and goes on all the
/// same. Returns the answer, and an error if what was sent met a reset, which may overtake an answer.
fn ask(wire: &mut (impl Read + Write), request: &str, after: &str) -> (String, io::Result<()>) {
    let mut sent = wire.write_all(request.as_bytes());
    let mut answer = vec![0; 12];
    wire.read_exact(&mut answer).unwrap();
    sent = sent.and_then(|()| wire.write_all(after.as_bytes()));
    wire.read_to_end(&mut answer).unwrap();
    // A reset is the answer to something, and takes a moment.
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(20));
        sent = sent.and_then(|()| wire.write_all(b"more"));
    }
    (String::from_utf8(answer).unwrap(), sent)
}

/// Asks on a new connection, whose answer begins and ends like this and must not be taken back.
fn stays<W: Read + Write>(
    connect: impl Fn() -> W,
    (request, after): (&str, &str),
    (begin, end): (&str, &str),
) {
    eventually("all of it is taken", || {
        let start = Instant::now();
        let (answer, sent) = ask(&mut connect(), request, after);
        assert!(answer.starts_with(begin) && answer.ends_with(end), "not {begin:?}: {answer:?}");
        // But for a client that takes longer than it is waited for.
        assert!(sent.is_ok() || start.elapsed() >= LINGER, "{begin:?}, then {sent:?}");
        sent.ok()
    });
}

#[test]
fn the_last_answer_arrives_whatever_else_was_sent() {
    let site = Site::serving(|exchange| {
        drop(exchange.piece());
        exchange.answer("200 OK", "", "early");
    });
    let wire = || site.client().from.into_inner();
    let junk = "x".repeat(64 << 10);
    // More than the row allows.
    let body = "x".repeat(2 << 20);
    let chunks = post("Transfer-Encoding: chunked\r\n");
    let refused = ("HTTP/1.1 400 ", "}");

    // What may be other requests.
    stays(wire, (&format!("{REFUSED}{junk}"), &junk), refused);
    stays(wire, (REFUSED, &junk), refused);
    // A body that is sent without leave.
    let waits = post(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len()));
    stays(wire, (&waits, &body), ("HTTP/1.1 413 ", "}"));
    // One that cannot be read.
    stays(wire, (&format!("{chunks}zz\r\n{junk}"), &junk), refused);
    // One that turns out to be too large when its answer is written.
    let rest = format!("{:x}\r\n{body}\r\n", body.len());
    stays(wire, (&format!("{chunks}5\r\nfirst\r\n"), &rest), ("HTTP/1.1 200 ", "early"));
}

#[test]
fn over_tls_the_last_answer_arrives_as_well() {
    let issued = Issued::new();
    let port = free_port();
    let _site = issued.site(port, "");
    let junk = "x".repeat(64 << 10);
    let request = format!("{REFUSED}{junk}");
    stays(|| issued.connect(port), (&request, &junk), ("HTTP/1.1 400 ", "}"));
}

#[test]
fn who_goes_on_after_the_last_answer_is_waited_for_so_long_and_its_line_is_not() {
    let site = Site::start();
    let mut client = site.client();
    assert_eq!(client.ask(REFUSED).status, 400);
    let line = site.gateway.logged("/a");
    assert!(line["duration"].as_f64().unwrap() < LINGER.as_secs_f64(), "{line}");
    let start = Instant::now();
    while client.stream().write_all(b"x").is_ok() {
        assert!(start.elapsed() < SOON, "it is waited for still");
        thread::sleep(Duration::from_millis(50));
    }
}

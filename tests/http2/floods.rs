use super::rig::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, Server, WINDOW_UPDATE, block, frame, literal, request,
};
use crate::support::SOON;

/// Most memory in KiB that an attack may leave behind.
const GROWTH: u64 = 16 << 10;

/// Sends frame after frame, reading nothing, until the connection is gone.
fn attack(server: &Server, name: &str, most: usize, frames: impl Fn(u32) -> Vec<u8>) {
    let before = server.site.gateway.rss();
    let mut connection = server.connect(&[]);
    let mut sent = 0;
    while sent < most {
        // Client streams have odd numbers.
        let index = u32::try_from(sent).unwrap() * 2 + 1;
        let many: Vec<u8> = (0..64).flat_map(|step| frames(index + 2 * step)).collect();
        if !connection.try_send(&many) {
            break;
        }
        sent += 64;
    }
    // What was on its way when the connection ended may read as a reset: it has ended all the same.
    let code = connection.ending();
    assert!(sent < most, "{name}: {sent} frames were taken ({code:?})");
    let grown = server.site.gateway.rss().saturating_sub(before);
    assert!(grown < GROWTH, "{name}: {grown} KiB more");
    server.serves_others();
}

#[test]
fn a_flood_of_frames_that_carry_nothing_ends_its_connection() {
    let server = Server::start("", 10);
    server.serves_others();
    let zero = [0; 8];
    attack(&server, "PING", 500_000, |_| frame(PING, 0, 0, &zero));
    attack(&server, "PING answers", 500_000, |_| frame(PING, ACK, 0, &zero));
    attack(&server, "SETTINGS", 500_000, |_| frame(SETTINGS, 0, 0, &[]));
    attack(&server, "SETTINGS that change", 500_000, |at| {
        let window = (at % 60_000 + 1).to_be_bytes();
        frame(SETTINGS, 0, 0, &[&[0, 4][..], &window].concat())
    });
    attack(&server, "PRIORITY", 500_000, |at| frame(PRIORITY, 0, at, &[0, 0, 0, 0, 16]));
    attack(&server, "frames that nobody knows", 500_000, |_| frame(0xfa, 0, 0, &zero));
    attack(&server, "windows of nothing", 500_000, |_| frame(WINDOW_UPDATE, 0, 0, &[0; 4]));
}

#[test]
fn a_stream_of_empty_frames_ends_its_connection() {
    let server = Server::start("", 10);
    for (name, kind) in [("DATA", DATA), ("CONTINUATION", CONTINUATION)] {
        let mut connection = server.connect(&[]);
        let before = server.site.gateway.rss();
        let flags = if kind == CONTINUATION { 0 } else { END_HEADERS };
        connection.send(&frame(HEADERS, flags, 1, &block("POST", "/API/x")));
        let many = frame(kind, 0, 1, &[]).repeat(64);
        let taken = (0..10_000).take_while(|_| connection.try_send(&many)).count();
        assert!(taken < 10_000, "{name}");
        connection.ending();
        let grown = server.site.gateway.rss().saturating_sub(before);
        assert!(grown < GROWTH, "{name}: {grown} KiB more");
        server.serves_others();
    }
}

#[test]
fn requests_that_are_reset_at_once_end_their_connection() {
    let server = Server::start("", 10);
    let reset = |at| frame(RST_STREAM, 0, at, &8_u32.to_be_bytes());
    for path in ["/healthz", "/API/x", "/filer"] {
        attack(&server, path, 100_000, |at| [request(at, path, END_STREAM), reset(at)].concat());
    }
    // Reset by something that is not allowed, so that it is the server that resets.
    attack(&server, "a window of nothing", 100_000, |at| {
        [request(at, "/API/x", 0), frame(WINDOW_UPDATE, 0, at, &[0; 4])].concat()
    });
    attack(&server, "a window too large", 100_000, |at| {
        let most = 0x7fff_ffff_u32.to_be_bytes();
        [request(at, "/API/x", 0), frame(WINDOW_UPDATE, 0, at, &most)].concat()
    });
    attack(&server, "data after the end", 100_000, |at| {
        [request(at, "/API/x", END_STREAM), frame(DATA, 0, at, b"x")].concat()
    });
    attack(&server, "a stream that depends on itself", 100_000, |at| {
        let priority = [&at.to_be_bytes()[..], &[16]].concat();
        [request(at, "/API/x", 0), frame(PRIORITY, 0, at, &priority)].concat()
    });
}

#[test]
fn headers_without_end_end_their_connection() {
    let server = Server::start("", 10);
    let before = server.site.gateway.rss();
    // One line after the other, in frame after frame (CVE-2024-27316 and its kin).
    let mut connection = server.connect(&[]);
    connection.send(&frame(HEADERS, END_STREAM, 1, &block("GET", "/healthz")));
    let line = literal(0, "x-line", &"x".repeat(100));
    let many = frame(CONTINUATION, 0, 1, &line.repeat(100)).repeat(8);
    let taken = (0..10_000).take_while(|_| connection.try_send(&many)).count();
    assert!(taken < 10_000);
    connection.ending();
    let grown = server.site.gateway.rss().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} KiB more");
    server.serves_others();
}

#[test]
fn a_header_that_is_repeated_by_number_is_counted_in_full() {
    let server = Server::start("", 10);
    let before = server.site.gateway.rss();
    let mut connection = server.connect(&[]);
    // 4,000 bytes are put into the table, and then named by one byte each, 16,000 times in a frame.
    let bomb = [block("GET", "/healthz"), literal(0x40, "x-bomb", &"x".repeat(3900))].concat();
    connection.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb));
    assert_eq!(connection.status(1), Some(200));
    for step in 1..50 {
        let stream = 2 * step + 1;
        let block = [block("GET", "/healthz"), vec![0x80 | 62; 16_000]].concat();
        if !connection.try_send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)) {
            break;
        }
    }
    let grown = server.site.gateway.rss().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} KiB more");
    server.serves_others();
}

#[test]
fn what_is_no_preface_is_no_connection() {
    let server = Server::start("", 10);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: desk.example\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0\0\0\0\0",
        &[0; 64],
    ] {
        let mut connection = server.silent();
        connection.try_send(bytes);
        connection.ending();
    }
    server.serves_others();
}

#[test]
fn a_preface_that_does_not_come_is_not_waited_for() {
    let server = Server::start("", 10);
    let mut connection = server.silent();
    let start = std::time::Instant::now();
    connection.send(b"PRI * HTTP/2.0\r\n");
    connection.ending();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

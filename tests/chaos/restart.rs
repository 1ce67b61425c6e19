use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::rig::tell;
use crate::support::{Gateway, SOON, raw};

/// A process that is started again serves within a second; many tests run beside this one.
const READY: Duration = Duration::from_secs(10);

const ROUNDS: usize = 5;

fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let head = "GET /admin/tunnels HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(head.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200 ")
}

#[test]
fn a_process_that_was_killed_leaves_nothing_in_the_way_of_the_next() {
    let folder = TempDir::new().unwrap();
    let (handover, socket) = (folder.path().join("handover"), folder.path().join("admin.sock"));
    let toml = format!(
        "[server]\nhandover = {handover:?}\ndrain = \"1s\"\n[admin]\nsocket = {socket:?}\n"
    );
    let mut gateway = Gateway::start(&toml);
    let address = gateway.address();
    let mut fastest = Duration::MAX;
    for _ in 0..ROUNDS {
        assert!(answers(&socket));
        gateway.signal("KILL");
        gateway.wait(SOON);
        // Both sockets are left over, and nobody is behind them.
        assert!(handover.exists() && socket.exists());
        let begun = Instant::now();
        gateway = Gateway::start_at(&toml, address).expect("its address is free");
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < READY, "{fastest:?}");
    assert!(answers(&socket));
    // What it offers for a handover is its own.
    let next = gateway.successor(&toml);
    gateway.wait_for_line("retired");
    let (status, _) = gateway.wait(SOON);
    assert_eq!(status.code(), Some(0));
    let probe = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(next.address(), probe).unwrap().status, 200);
    assert!(answers(&socket), "the old one took its own socket away, not this one");
    tell("kill -9: ready again after", fastest);
}

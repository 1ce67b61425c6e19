//! What the tests drive the gateway with: the binary, its upstreams, its clients, its tokens.

mod client;
pub(crate) mod fake_api;
mod gateway;
pub(crate) mod name_server;
mod origin;
mod ports;
pub(crate) mod recorder;
mod site;
pub(crate) mod tokens;

pub(crate) use client::{Client, Response, raw};
pub(crate) use gateway::{Gateway, KeyDir, binary, write_keys};
pub(crate) use origin::{Exchange, Origin, Seen};
pub(crate) use ports::free_port;
pub(crate) use site::{PODS, Site, echo, pod_listeners, websocket};

use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen soon; generous, as machines may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Asks until there is an answer; panics when there is none in time.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that differ everywhere, the same at every call.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

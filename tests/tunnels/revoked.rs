use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use deskgate::auth::Token;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::many::{frame, pods, runtime, upgrade};
use super::rig::{CLOSE, LATE, PING, PONG, allow_descriptors, masked, screen, with_port};
use crate::support::{Gateway, PODS, free_port, pod_listeners, raw, tokens};

/// Tunnels of each token.
const EACH: usize = 500;

/// Reads to the tunnel's end; the code that it was closed with.
async fn last_word(mut stream: super::many::Stream) -> io::Result<u16> {
    loop {
        match frame(&mut stream).await? {
            (CLOSE, payload) => return Ok(u16::from_be_bytes([payload[0], payload[1]])),
            (PING, payload) => stream.write_all(&masked(PONG, &payload)).await?,
            (code, _) => panic!("a frame of kind {code} nobody sent"),
        }
    }
}

/// Opens the tunnels of one token.
fn open(runtime: &Runtime, address: SocketAddr, token: &str) -> JoinSet<io::Result<u16>> {
    let mut tunnels = JoinSet::new();
    for _ in 0..EACH {
        let (stream, answer) = runtime.block_on(upgrade(address, token)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        tunnels.spawn_on(last_word(stream), runtime.handle());
    }
    tunnels
}

/// Withdraws something and waits until all of these tunnels have been told.
fn revoke(
    runtime: &Runtime,
    admin: SocketAddr,
    what: &Value,
    tunnels: impl IntoIterator<Item = JoinSet<io::Result<u16>>>,
) {
    let (body, tunnels) = (what.to_string(), tunnels.into_iter().collect::<Vec<_>>());
    let head = format!(
        "POST /admin/revoke HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let begun = Instant::now();
    let answer = raw(admin, head).unwrap();
    assert_eq!((answer.status, &answer.json()["closed"]), (200, &json!(EACH * tunnels.len())));
    for tunnels in tunnels {
        let codes = runtime.block_on(tunnels.join_all());
        assert!(codes.into_iter().all(|code| code.unwrap() == 4403));
    }
    let took = begun.elapsed();
    // A second is promised; the test has a thousand clients of its own to wake meanwhile.
    assert!(took < LATE, "{what}: {took:?}");
}

#[test]
fn a_token_s_a_pod_s_and_all_tunnels_are_told_within_a_second() {
    let room = 8 * EACH + 1000;
    allow_descriptors(std::process::id(), room);
    let runtime = runtime();
    let (listeners, port) = pod_listeners();
    listeners.into_iter().for_each(|listener| pods(&runtime, listener));
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // A relay that is not told looks again when the next ping is due, long after it should have.
    let text =
        format!("[admin]\nlisten = [\"{admin}\"]\n{}", screen("tunnel = { ping = \"60s\" }"));
    let gateway = Gateway::start(&with_port(&text, port));
    gateway.wait_for_line("admin interface listening");
    allow_descriptors(gateway.pid(), room);
    let minter = tokens::minter(tokens::keys());
    let token = |pod: &str, ttl: u64| minter.mint(pod, tokens::now(), ttl).unwrap();
    let address = gateway.address();
    let [one, two, three, four] =
        [(0, 400), (0, 401), (1, 402), (1, 403)].map(|(pod, ttl)| token(PODS[pod], ttl));
    // The first in the list, which has its limit.
    let of_pod = open(&runtime, address, &two);
    let mut last = open(&runtime, address, &three);
    let of_token = open(&runtime, address, &one);
    let others = open(&runtime, address, &four);
    let fingerprint = Token::new(&one).unwrap().fingerprint().to_string();
    revoke(&runtime, admin, &json!({ "token": fingerprint }), [of_token]);
    let head = format!("GET /admin/tunnels HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let list = raw(admin, head).unwrap().json();
    let oldest = &list["tunnels"][0];
    assert_eq!(oldest["token"], Token::new(&two).unwrap().fingerprint().to_string());
    revoke(&runtime, admin, &json!({ "pod": oldest["pod"] }), [of_pod]);
    assert!(last.try_join_next().is_none(), "a tunnel of another pod ended");
    revoke(&runtime, admin, &json!({ "everything": true }), [last, others]);
    let (_, answer) = runtime.block_on(upgrade(address, &four)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

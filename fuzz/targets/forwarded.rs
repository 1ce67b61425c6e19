//! Who the client is: nothing left of the first address that is not trusted counts. And which hosts
//! are names.
//!
//! Input: a letter, `f` for lines of X-Forwarded-For, whose last one is the peer's address, `h` for
//! a host.
#![no_main]

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use deskgate_fuzz::proxy::{client_address, host};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

const NAME: &str = "x-forwarded-for";

static TRUSTED: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    ["10.0.0.0/8", "192.168.0.0/31", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec()
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, input)) = deskgate_fuzz::seed(data).split_first() else { return };
    match kind {
        b'f' => forwarded(input),
        b'h' => hosts(input),
        _ => {}
    }
});

fn trusted(address: IpAddr) -> bool {
    TRUSTED.iter().any(|net| net.contains(&address.to_canonical()))
}

/// An address, maybe with a port.
fn hop(word: &str) -> Option<IpAddr> {
    word.parse().or_else(|_| word.parse::<SocketAddr>().map(|hop| hop.ip())).ok()
}

fn forwarded(input: &[u8]) {
    let mut lines: Vec<_> = input.split(|byte| *byte == b'\n').collect();
    let peer = lines.pop().and_then(|last| std::str::from_utf8(last).ok()?.parse::<IpAddr>().ok());
    let lines: Vec<_> =
        lines.into_iter().filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let judged = judge(peer, &lines);
    let Some(peer) = peer else { return assert_eq!(judged, (None, false)) };
    if !trusted(peer) {
        return assert_eq!(judged, (Some(peer.to_canonical()), false), "an untrusted peer");
    }
    let (Some(client), true) = judged else { panic!("a trusted peer: {judged:?}") };
    assert_eq!(client, client.to_canonical());

    // From left to right, as they were written. What is no address stands for itself.
    let words = lines.iter().flat_map(|line| {
        let text = line.to_str().unwrap_or("?");
        text.split(',').map(|word| hop(word.trim())).collect::<Vec<_>>()
    });
    let path: Vec<_> = words.chain([Some(peer)]).collect();
    let believed = |hop: &Option<IpAddr>| hop.is_some_and(trusted);
    // Everybody who was believed stands at the end, and the client is the first of these, or the one
    // whom the first of these names.
    let believed = path.iter().rev().take_while(|hop| believed(hop)).count();
    let first = path.len() - believed;
    let named = first.checked_sub(1).and_then(|before| path[before]);
    let want = named.or(path[first]).map(|address| address.to_canonical());
    assert_eq!(Some(client), want, "{path:?}");

    if !trusted(client) {
        // A client can write what it likes to the left of that.
        let lie =
            [&[HeaderValue::from_static("10.1.1.1, 198.51.100.66")], lines.as_slice()].concat();
        assert_eq!(judge(Some(peer), &lie).0, Some(client), "a lie is believed");
    }
}

fn judge(peer: Option<IpAddr>, lines: &[HeaderValue]) -> (Option<IpAddr>, bool) {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(NAME, line.clone());
    }
    client_address(peer, &headers, &TRUSTED)
}

/// A valid host is an authority of a URL and nothing else: no user, no path, no second host.
fn hosts(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let Some(name) = host(&value) else { return };
    let text = value.to_str().unwrap();
    assert!(!text.contains(['/', '?', '#', '@', '\\', ',', ' ', '\t', '"', '<', '>']), "{text}");
    if !text.contains('%') {
        let url: http::Uri = format!("http://{text}/x").parse().unwrap();
        assert_eq!(url.authority().unwrap().as_str(), text);
        assert!(url.host().unwrap().eq_ignore_ascii_case(&name), "{text}: {name}");
        assert_eq!(url.path(), "/x");
    }
    let again = HeaderValue::from_str(&name).unwrap();
    assert_eq!(host(&again).as_deref(), Some(name.as_str()), "{text}: {name}");
}

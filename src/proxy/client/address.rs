//! Whose address a request is: the peer's, or what a trusted proxy says.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// What is believed of where a request comes from.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// The client's address.
    pub(super) address: Option<IpAddr>,
    /// Whether the peer is a trusted proxy.
    pub(super) trusted: bool,
    /// What the peer says before its own address: the client's, then those of other trusted proxies.
    pub(super) via: Vec<IpAddr>,
}

/// Judges by the peer and the request's `X-Forwarded-For`: from the right, the first address that is
/// not a trusted proxy is the client's. What stands to the left of it, anybody may have written.
pub(super) fn judge(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Origin {
    let peer = peer.map(|address| address.to_canonical());
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if !peer.is_some_and(is_trusted) {
        return Origin { address: peer, ..Origin::default() };
    }
    let mut via = Vec::new();
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let entries = lines.iter().rev().flat_map(|line| {
        line.to_str().unwrap_or_default().rsplit(',').map(str::trim).collect::<Vec<_>>()
    });
    for entry in entries {
        // Some proxies write the port, too.
        let hop = entry.parse().or_else(|_| entry.parse::<SocketAddr>().map(|hop| hop.ip()));
        let Ok(hop) = hop.map(|hop| hop.to_canonical()) else { break };
        via.push(hop);
        if !is_trusted(hop) {
            break;
        }
    }
    via.reverse();
    Origin { address: via.first().copied().or(peer), trusted: true, via }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_peer_may_speak_for_others() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        for (peer, forwarded, want, via) in [
            ("203.0.113.9", "", "203.0.113.9", ""),
            ("203.0.113.9", "1.2.3.4", "203.0.113.9", ""),
            ("10.0.0.1", "", "10.0.0.1", ""),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1", "2001:db8::1"),
            ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7", "198.51.100.7 10.0.0.2"),
            (
                "10.0.0.1",
                "6.6.6.6,1.2.3.4, 10.0.0.3 ,10.0.0.2",
                "1.2.3.4",
                "1.2.3.4 10.0.0.3 10.0.0.2",
            ),
            ("10.0.0.1", "junk, 10.0.0.2", "10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "junk", "10.0.0.1", ""),
            ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1", "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            if !forwarded.is_empty() {
                headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            }
            let origin = judge(Some(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(origin.address, Some(want.parse().unwrap()), "{peer} {forwarded}");
            let via: Vec<IpAddr> = via.split_whitespace().map(|hop| hop.parse().unwrap()).collect();
            assert_eq!(origin.via, via, "{peer} {forwarded}");
        }
    }
}

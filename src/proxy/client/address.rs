//! Whose address a request is: the peer's, or what a trusted proxy says.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// Judges by the peer and the request's `X-Forwarded-For`: from the right, the first address that is
/// not a trusted proxy is the client's. What stands to the left of it, anybody may have written.
/// Also tells whether the peer is trusted.
pub(super) fn judge(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> (Option<IpAddr>, bool) {
    let peer = peer.map(|address| address.to_canonical());
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if !peer.is_some_and(is_trusted) {
        return (peer, false);
    }
    let mut address = peer;
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let entries = lines.iter().rev().flat_map(|line| {
        line.to_str().unwrap_or_default().rsplit(',').map(str::trim).collect::<Vec<_>>()
    });
    for entry in entries {
        let Ok(hop) = entry.parse::<IpAddr>() else { break };
        address = Some(hop.to_canonical());
        if !address.is_some_and(is_trusted) {
            break;
        }
    }
    (address, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_peer_may_speak_for_others() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        for (peer, forwarded, want) in [
            ("203.0.113.9", "", "203.0.113.9"),
            ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("10.0.0.1", "junk, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "junk", "10.0.0.1"),
            ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            if !forwarded.is_empty() {
                headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            }
            let (address, _) = judge(Some(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(address, Some(want.parse().unwrap()), "{peer} {forwarded}");
        }
    }
}

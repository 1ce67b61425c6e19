//! Who the client is: the one rule for its address, used on every route.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use pingora::protocols::http::ServerSession as Session;

use crate::config::Listen;

/// What is known of the client's side of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Its address: the peer's, or what a trusted proxy says.
    pub(super) address: Option<IpAddr>,
    /// The peer's address, which may be a proxy's.
    pub(super) peer: Option<IpAddr>,
    /// What upstreams may be told of its certificate: PEM, escaped as nginx does.
    pub(super) certificate: Option<HeaderValue>,
    /// Whether the peer's `X-Forwarded-*` headers are believed.
    pub(super) trusted: bool,
    /// `http` or `https`, as the client came to us or to a trusted proxy.
    pub(super) scheme: String,
}

impl Client {
    /// Judges a request by its connection and its headers.
    pub(super) fn new(session: &Session, trusted: &[IpNet]) -> Self {
        let peer = session.client_addr().and_then(|peer| peer.as_inet()).map(|peer| peer.ip());
        let headers = &session.req_header().headers;
        let mut client = Self::judge(peer, headers, trusted);
        let tls = session.digest().and_then(|digest| digest.ssl_digest.as_deref());
        // A trusted proxy's own certificate says nothing of its clients.
        let shown =
            tls.map(|tls| &*tls.cert_digest).filter(|text| !client.trusted && !text.is_empty());
        client.certificate = shown.and_then(|text| HeaderValue::from_bytes(text).ok());
        let said = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
        client.scheme =
            match said.filter(|said| client.trusted && matches!(*said, "http" | "https")) {
                Some(said) => said.to_owned(),
                None if tls.is_some() => "https".to_owned(),
                None => "http".to_owned(),
            };
        client
    }

    /// What a client that came over TLS is told of the time to come (RFC 6797 section 7.2: nobody else
    /// may be).
    pub(super) fn hsts(&self, listen: &Listen) -> Option<HeaderValue> {
        let age = listen.hsts.as_secs();
        let told = age > 0 && self.scheme == "https";
        told.then(|| HeaderValue::try_from(format!("max-age={age}")).ok())?
    }

    /// Judges by the peer and the request's `X-Forwarded-For`: from the right, the first address
    /// that is not a trusted proxy is the client's. What stands to the left of it, anybody may
    /// have written.
    fn judge(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let peer = peer.map(|address| address.to_canonical());
        let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        if !peer.is_some_and(is_trusted) {
            return Self {
                address: peer,
                peer,
                trusted: false,
                certificate: None,
                scheme: String::new(),
            };
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
        Self { address, peer, trusted: true, certificate: None, scheme: String::new() }
    }
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
            let client = Client::judge(Some(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(client.address, Some(want.parse().unwrap()), "{peer} {forwarded}");
        }
    }
}

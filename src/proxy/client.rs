//! Who the client is: the one rule for its address, used on every route.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::config::Listen;
use crate::session::Session;

mod address;

use address::Origin;

/// What is known of the client's side of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Its address: the peer's, or what a trusted proxy says.
    pub(super) address: Option<IpAddr>,
    /// The peer's address, which may be a proxy's.
    pub(super) peer: Option<IpAddr>,
    /// What upstreams may be told of its certificate: PEM, escaped as nginx does.
    pub(super) certificate: Option<HeaderValue>,
    /// What a trusted peer says before its own address: the client's, then those of other proxies.
    pub(super) via: Vec<IpAddr>,
    /// Whether the peer's `X-Forwarded-*` headers are believed.
    pub(super) trusted: bool,
    /// `http` or `https`, as the client came to us or to a trusted proxy.
    pub(super) scheme: &'static str,
}

/// What the first of the proxies before us says of how the client came.
pub(super) fn forwarded_scheme(headers: &HeaderMap) -> Option<&[u8]> {
    let said = headers.get("x-forwarded-proto")?.as_bytes();
    said.split(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
}

impl Client {
    /// Judges a request by its connection and its headers.
    pub(super) fn new(session: &Session, trusted: &[IpNet]) -> Self {
        let remote = session.client();
        let peer = Some(remote.address.ip());
        let headers = &session.request().headers;
        let Origin { address, trusted, via } = address::judge(peer, headers, trusted);
        // A trusted proxy's own certificate says nothing of its clients.
        let certificate = remote.certificate.clone().filter(|_| !trusted);
        let said = forwarded_scheme(headers).filter(|_| trusted);
        let is = |scheme: &[u8]| said.is_some_and(|said| said.eq_ignore_ascii_case(scheme));
        let secure = is(b"https") || (remote.tls && !is(b"http"));
        let scheme = if secure { "https" } else { "http" };
        let peer = peer.map(|peer| peer.to_canonical());
        Self { address, peer, via, trusted, certificate, scheme }
    }

    /// What a client that came over TLS is told of the time to come (RFC 6797 section 7.2: nobody else
    /// may be).
    pub(super) fn hsts(&self, listen: &Listen) -> Option<HeaderValue> {
        let age = listen.hsts.as_secs();
        let told = age > 0 && self.scheme == "https";
        told.then(|| HeaderValue::try_from(format!("max-age={age}")).ok())?
    }
}

//! What of the room `proxy` judges a client's headers without a connection.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

mod address;
mod host;

/// Whose address a request is, and whether its peer is believed.
#[must_use]
pub fn client_address(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> (Option<IpAddr>, bool) {
    let origin = address::judge(peer, headers, trusted);
    // What is passed on begins with it.
    assert!(origin.via.first().is_none_or(|first| Some(*first) == origin.address));
    (origin.address, origin.trusted)
}

/// A `Host`, if it is valid, without its port.
#[must_use]
pub fn host(value: &HeaderValue) -> Option<String> {
    host::is_valid(value).then(|| host::without_port(value.to_str().unwrap_or_default()))
}

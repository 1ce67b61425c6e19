//! The header rules, for the bench that measures them: nothing of the gateway comes here.

use pingora::Result;
use pingora::http::RequestHeader;

use super::client::Client;
use super::headers::{self, Rules, upstream_host};
use super::trail;
use crate::route::Route;

/// Turns a request head into that for the upstream of a route, as if it came from 203.0.113.9.
///
/// # Errors
///
/// As pingora's, for a head that cannot be written.
pub fn to_upstream(head: &mut RequestHeader, route: &Route, target: &str) -> Result<()> {
    let peer = Some([203, 0, 113, 9].into());
    let client = Client {
        address: peer,
        peer,
        trusted: false,
        scheme: "https".to_owned(),
        certificate: None,
    };
    let public = headers::host_of(head);
    let public = public.as_ref().and_then(|host| host.to_str().ok());
    let sent = upstream_host(route, 0, public);
    let trail = trail::settle(head, false);
    let rules =
        Rules { route, client: &client, trail: &trail, target, sent: &sent, upgrade: false };
    headers::to_upstream(head, &rules)
}

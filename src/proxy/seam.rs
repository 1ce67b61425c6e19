//! The header rules, for the bench that measures them: nothing of the gateway comes here.

use bytes::BytesMut;
use pingora::http::RequestHeader;

use super::client::Client;
use super::headers::{self, Rules, upstream_host};
use super::trail;
use crate::error::Error;
use crate::http1::body::Length;
use crate::route::Route;

/// Writes the head for the upstream of a route, as if the request came from 203.0.113.9 without a body.
///
/// # Errors
///
/// If the target would not stay in the request line.
pub fn to_upstream(
    out: &mut BytesMut,
    head: &RequestHeader,
    route: &Route,
    target: &str,
) -> Result<(), Error> {
    let peer = Some([203, 0, 113, 9].into());
    let client = Client {
        address: peer,
        peer,
        via: Vec::new(),
        trusted: false,
        scheme: "https",
        certificate: None,
    };
    let public = headers::host_of(head);
    let public = public.as_ref().and_then(|host| host.to_str().ok());
    let sent = upstream_host(route, 0, public);
    let trail = trail::settle(head, false);
    let rules =
        Rules { route, client: &client, trail: &trail, target, sent: &sent, upgrade: false };
    headers::to_upstream(out, head, Length::Known(0), &rules)
}

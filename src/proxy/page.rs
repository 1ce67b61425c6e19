//! Whether the page that asks for a tunnel may have one.

use http::header;
use pingora::http::RequestHeader;

use super::headers;
use crate::admission::origin::{Asked, Foreign, PROXY_HEADERS, Policy};

/// Judges the `Origin` of an upgrade by what the request says of its host.
pub(super) fn judge(head: &RequestHeader, policy: &Policy) -> Result<(), Foreign> {
    let value = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let forwarded = value("x-forwarded-host").and_then(|hosts| hosts.split(',').next());
    let host = headers::host_of(head);
    let mut origins = head.headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (Some(origin), None) => Some(origin.to_str().unwrap_or("")),
        (Some(_), Some(_)) => Some(""), // Two are nobody's.
        (None, _) => None,
    };
    policy.judge(&Asked {
        origin,
        site: value("sec-fetch-site"),
        host: host.as_ref().and_then(|host| host.to_str().ok()),
        forwarded: forwarded.map(str::trim),
        proxied: PROXY_HEADERS.iter().any(|name| head.headers.contains_key(*name)),
    })
}

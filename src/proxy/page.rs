//! Whether the page that asks for a tunnel may have one, and whether a page may lead to a desktop's.

use http::{HeaderName, header};
use pingora::http::RequestHeader;

use super::headers;
use crate::admission::origin::{Asked, Foreign, PROXY_HEADERS, Policy, Visit};
use crate::error::Error;
use crate::route::Route;

/// What browsers say of a request for a worker's script (Service Workers section 4.5).
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

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

/// Judges what a browser says of a request to a desktop, before anything else is looked at. The answer is a
/// page, or a script, of this origin, so it matters who led the browser there: a link with another user's token
/// leads to what that user wrote.
pub(super) fn judge_visit(
    head: &RequestHeader,
    route: &Route,
    policy: &Policy,
) -> Result<(), Error> {
    if !route.leads_to_a_desktop() {
        return Ok(());
    }
    // A worker answers for its folder from then on, whatever becomes of the token and of this rule.
    if head.headers.contains_key(SERVICE_WORKER) {
        return Err(Error::WorkerRefused);
    }
    let value = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    // A page without an origin has nothing to give away, and its own links are those of a stranger.
    if value("sec-fetch-mode") != Some("navigate") || route.headers.takes_the_origin {
        return Ok(());
    }
    let visit = Visit { site: value("sec-fetch-site"), referer: value(header::REFERER.as_str()) };
    Ok(policy.judge_visit(&visit)?)
}

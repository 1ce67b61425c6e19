//! Which requests are heard: against pages of other origins, names that were rebound, and guests
//! without the token.

use std::net::Ipv6Addr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{Method, Uri};

use super::answer::Problem;
use super::listeners::{Access, Rules};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Refuses what a page of another origin could have caused.
///
/// A link to the page from elsewhere is followed (`is_page`): it does nothing by itself.
pub(super) fn origin(
    rules: &Rules,
    method: &Method,
    headers: &HeaderMap,
    is_page: bool,
) -> Result<(), Problem> {
    let Some(names) = &rules.hosts else { return Ok(()) };
    let host = only(headers, &HOST).and_then(|host| host.parse::<Authority>().ok());
    let host = host.filter(|host| !host.as_str().contains('@')).ok_or(Problem::Host)?;
    if !is_address(host.host())
        && !host.host().eq_ignore_ascii_case("localhost")
        && !names.iter().any(|name| is_meant(name, &host))
    {
        return Err(Problem::Host);
    }
    let is_read = method == Method::GET || method == Method::HEAD;
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        let navigates = headers.get(SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
        let own = site == "same-origin" || site == "none";
        let followed = is_page && is_read && navigates;
        if !(own || followed) {
            return Err(Problem::CrossSite);
        }
    }
    if let Some(origin) = headers.get(ORIGIN) {
        // What is sent beside an origin tells nothing, so `null` and paths are refused too.
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        if origin.as_ref().and_then(Uri::authority) != Some(&host) {
            return Err(Problem::CrossSite);
        }
    }
    Ok(())
}

/// Whether a name of the configuration is the host that was asked for. One with a port holds for that port
/// alone; clients leave out the two that are usual.
fn is_meant(name: &str, host: &Authority) -> bool {
    let (name, port) = match name.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (name, None),
    };
    let at = |port: &str| match host.port_u16() {
        Some(asked) => port.parse::<u16>() == Ok(asked),
        None => port == "80" || port == "443",
    };
    name.eq_ignore_ascii_case(host.host()) && port.is_none_or(at)
}

fn is_address(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.map_or_else(
        || host.parse::<std::net::Ipv4Addr>().is_ok(),
        |inner| inner.parse::<Ipv6Addr>().is_ok(),
    )
}

/// Refuses guests without the token.
pub(super) fn token(rules: &Rules, headers: &HeaderMap) -> Result<(), Problem> {
    let token = match &rules.access {
        Access::Open => return Ok(()),
        Access::Nobody => return Err(Problem::NoToken),
        Access::Token(token) => token,
    };
    let given = only(headers, &AUTHORIZATION).and_then(|value| {
        let (scheme, given) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
    });
    match given {
        Some(given) if token.is(given.as_bytes()) => Ok(()),
        _ => Err(Problem::Unauthorized),
    }
}

/// Refuses bodies that a form of another origin could send.
pub(super) fn media_type(headers: &HeaderMap, has_body: bool) -> Result<(), Problem> {
    if !has_body && !headers.contains_key(CONTENT_TYPE) {
        return Ok(());
    }
    let media = only(headers, &CONTENT_TYPE).and_then(|value| value.split(';').next());
    match media {
        Some(media) if media.trim().eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(Problem::MediaType),
    }
}

/// The text of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

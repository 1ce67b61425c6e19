//! Header rules: what of a request reaches an upstream, what of a response reaches the client.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use pingora::http::RequestHeader;

use super::client::Client;
use super::location::{self, Places};
use super::trail::Trail;
use crate::config::HostRule;
use crate::error::Error;
use crate::http1::body::Length;
use crate::http1::request::Lines;
use crate::redact;
use crate::route::Route;
use crate::telemetry::privacy::plain;

mod host;
mod pods;

pub(crate) use host::is_valid as is_valid_host;
use host::without_port;

/// Belongs to one connection only (RFC 9110 §7.6.1), besides what `Connection` names.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// What only a trusted proxy may say of the client.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Carries the desktop token to deskgate, and the user token to pyos.
pub(super) const TOKEN_HEADER: &str = "abcauthorization";

/// Everything the rules for a request depend on.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) route: &'a Route,
    pub(super) client: &'a Client,
    /// The marks of the request.
    pub(super) trail: &'a Trail,
    /// Request target for the upstream, without the token.
    pub(super) target: &'a str,
    /// `Host` for the upstream.
    pub(super) sent: &'a str,
    /// Keep the upgrade headers.
    pub(super) upgrade: bool,
}

impl Rules<'_> {
    /// Whether a client's header is not for the upstream, whatever its connection says of it.
    fn refuse(&self, name: &HeaderName) -> bool {
        // A pod runs what its user likes: it gets neither tokens nor passwords, and asks for none.
        let secret = || *name == header::AUTHORIZATION || name == TOKEN_HEADER;
        // Other servers take `X_Real_IP` for `X-Real-IP`, and a pod trusts a header `broadcast_cookie`.
        name.as_str().contains('_')
            || (!self.client.trusted && FORWARDED.contains(&name.as_str()))
            || self.trail.replaces(name)
            || (self.route.leads_to_a_desktop() && secret())
    }

    /// Whether what a client says gives way to what we say.
    fn replaces(&self, name: &HeaderName) -> bool {
        *name == header::HOST
            || *name == header::CONTENT_LENGTH
            || *name == header::TRANSFER_ENCODING
            || *name == FORWARDED_FOR
            || *name == REAL_IP
            || (*name == self.route.headers.certificate
                && !(self.tells_certificate() && self.client.trusted))
    }

    /// Whether the upstream is told the client's certificate: verified here, or told by a trusted proxy.
    /// What anybody else says would let him in as another.
    fn tells_certificate(&self) -> bool {
        self.route.headers.tells_certificate && !self.route.leads_to_a_desktop()
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Writes the head for the upstream, whose body is of this length: of the client's what the upstream may
/// have, then what we say.
pub(super) fn to_upstream(
    out: &mut BytesMut,
    request: &RequestHeader,
    length: Length,
    rules: &Rules<'_>,
) -> Result<(), Error> {
    let lines = Lines::begin(out, &request.method, rules.target).ok_or(Error::InvalidRequest)?;
    let mut lines = Kept { lines, removed: &rules.route.headers.remove };
    lines.always(&header::HOST, rules.sent.as_bytes());
    frame(&mut lines, &request.headers, length);
    let named: Vec<_> = options(&request.headers).collect();
    for (name, value) in &request.headers {
        if is_hop_by_hop(name, &named) || rules.refuse(name) || rules.replaces(name) {
            continue;
        }
        match *name {
            header::COOKIE => {}
            header::REFERER => {
                // The address of a `/container/<token>/...` page holds the token, and each server keeps a
                // log. What is left may be decoded, so it may hold ends of lines; then the header is left out.
                let referer = String::from_utf8_lossy(value.as_bytes());
                lines.header(name, redact::scrub(&referer).as_bytes());
            }
            _ => lines.header(name, value.as_bytes()),
        }
    }
    if pods::keeps_cookies(rules.route) {
        cookies(&mut lines, &request.headers, &named);
    }
    if rules.upgrade {
        lines.header(&header::CONNECTION, b"upgrade");
        lines.header(&header::UPGRADE, b"websocket");
    }
    forwarded(&mut lines, request, rules);
    rules.trail.write(|name, value| lines.header(name, value));
    if let Some(text) = rules.client.certificate.as_ref().filter(|_| rules.tells_certificate()) {
        lines.always(&rules.route.headers.certificate, text.as_bytes());
    }
    lines.lines.end();
    Ok(())
}

/// The lines of a head, without those that its route takes out.
struct Kept<'a> {
    lines: Lines<'a>,
    removed: &'a [HeaderName],
}

impl Kept<'_> {
    fn header(&mut self, name: &HeaderName, value: &[u8]) {
        if !self.removed.contains(name) {
            self.lines.header(name, value);
        }
    }

    /// Writes a line that no route takes out.
    fn always(&mut self, name: &HeaderName, value: &[u8]) {
        self.lines.header(name, value);
    }
}

/// Says how long the body is, in the one way that HTTP/1.1 has for it.
fn frame(lines: &mut Kept<'_>, headers: &HeaderMap, length: Length) {
    match length {
        Length::Known(0) if !headers.contains_key(header::CONTENT_LENGTH) => {}
        Length::Known(length) => {
            lines.always(&header::CONTENT_LENGTH, length.to_string().as_bytes());
        }
        Length::Chunks | Length::UntilEnd => lines.always(&header::TRANSFER_ENCODING, b"chunked"),
    }
}

/// One field for all cookies: HTTP/2 clients send several, which HTTP/1 does not know (RFC 9113
/// section 8.2.3).
fn cookies(lines: &mut Kept<'_>, headers: &HeaderMap, named: &[&[u8]]) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    if is_hop_by_hop(&header::COOKIE, named) {
        return;
    }
    let mut joined = Cow::Borrowed(first.as_bytes());
    for cookie in cookies {
        joined.to_mut().extend([b"; ", cookie.as_bytes()].concat());
    }
    lines.header(&header::COOKIE, &joined);
}

/// What the rules for a response depend on.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) route: &'a Route,
    /// `http` or `https`, as the client came to us or to a trusted proxy.
    pub(super) scheme: &'a str,
    /// The host that the client asked for.
    pub(super) public: Option<&'a str>,
    /// The `Host` that the upstream got.
    pub(super) sent: &'a str,
    /// What was taken off the front of the path.
    pub(super) prefix: Option<&'a str>,
}

/// Turns the upstream's response head into the client's, in place.
pub(super) fn to_client(head: &mut Parts, answer: &Answer<'_>) {
    let upgrade = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    let keeps = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let connection = head.headers.contains_key(header::CONNECTION);
    let named = |name: &HeaderName| {
        let mut named = options(&head.headers).take(MOST_OPTIONS);
        !keeps.contains(name) && named.any(|option| option.eq_ignore_ascii_case(name.as_ref()))
    };
    let inert: Vec<_> = head
        .headers
        .keys()
        // Orders to a proxy: a pod could redirect a request inside of us.
        .filter(|name| {
            name.as_str().starts_with("x-accel-")
                || *name == header::SERVER
                || (!upgrade
                    && (HOP_BY_HOP.contains(&name.as_str()) || (connection && named(name))))
        })
        .cloned()
        .collect();
    for name in inert {
        head.headers.remove(&name);
    }
    pods::strip(head, answer.route);
    if head.status.is_informational() || head.status == http::StatusCode::NO_CONTENT {
        // They have no body to frame (RFC 9110 section 8.6, RFC 9112 section 6.1).
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::TRANSFER_ENCODING);
    }
    if let Some(public) = answer.public {
        let Answer { scheme, sent, prefix, .. } = *answer;
        let places = Places { scheme, public, sent, prefix };
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let value = head.headers.get(&name).and_then(|value| value.to_str().ok());
            let rewritten = value.and_then(|value| location::rewrite(value, &places));
            // What was made of a header's value and a host fits into a header.
            if let Some(value) = rewritten.and_then(|text| HeaderValue::try_from(text).ok()) {
                head.headers.insert(name, value);
            }
        }
    }
    if head.status.is_informational() {
        return; // An upgrade is no page.
    }
    for (name, value) in &answer.route.headers.response {
        if *name == header::CONTENT_SECURITY_POLICY && answer.route.leads_to_a_desktop() {
            // Lest a pod undo it: of several policies the browser takes what all allow (CSP 3 section 8.1).
            head.headers.append(name, value.clone());
        } else {
            head.headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// Whether a request asks for a WebSocket in the right way (RFC 6455 §4.2.1); `None` if it asks for none.
pub(super) fn is_websocket_upgrade(head: &RequestHeader) -> Option<bool> {
    let upgrades = || head.headers.get_all(header::UPGRADE).iter();
    let named = |line: &HeaderValue| {
        let mut names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name.eq_ignore_ascii_case(b"websocket"))
    };
    upgrades().find(|line| named(line))?;
    let mut upgrades = upgrades();
    let upgrade = upgrades.next()?;
    let connection = options(&head.headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    Some(
        head.method == http::Method::GET
            && head.version == http::Version::HTTP_11
            && connection
            && upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
            && upgrades.next().is_none()
            && head.headers.get("sec-websocket-key").is_some()
            && head.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
            && !head.headers.contains_key(header::TRANSFER_ENCODING),
    )
}

/// The client's `Host`, or the authority of its request target (HTTP/2, absolute form).
pub(super) fn host_of(head: &RequestHeader) -> Option<Cow<'_, HeaderValue>> {
    let authority = || {
        let authority = head.uri.authority()?;
        HeaderValue::from_str(authority.as_str()).ok().map(Cow::Owned)
    };
    head.headers.get(header::HOST).map(Cow::Borrowed).or_else(authority)
}

/// The host that the client asked for: what a trusted proxy says, which may have changed it, else
/// [`host_of`].
pub(super) fn public_host(head: &RequestHeader, trusted: bool) -> Option<Cow<'_, HeaderValue>> {
    let said = || {
        let said = head.headers.get(&FORWARDED_HOST)?.as_bytes();
        let first = said.split(|byte| *byte == b',').next()?.trim_ascii();
        HeaderValue::from_bytes(first).ok().filter(is_valid_host).map(Cow::Owned)
    };
    trusted.then(said).flatten().or_else(|| host_of(head))
}

/// Options of `Connection` that are looked at: each is compared with each header.
const MOST_OPTIONS: usize = 32;

/// What a connection's own header names.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::CONNECTION).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// Whether `Connection` names only what a client may have taken off: not what routes the request or
/// says who asks, and not more than a proxy should have to look at (RFC 9110 section 7.6.1).
pub(super) fn connection_is_sound(head: &RequestHeader) -> bool {
    let mut named = options(&head.headers);
    let mut count = 0;
    named.all(|token| {
        count += 1;
        let is_token = token.is_empty() || HeaderName::from_bytes(token).is_ok();
        let is_host = token.eq_ignore_ascii_case(b"host");
        let speaks = FORWARDED.iter().any(|name| token.eq_ignore_ascii_case(name.as_bytes()));
        is_token && !is_host && !speaks && count <= MOST_OPTIONS
    })
}

/// Whether a header belongs to the client's connection, which names these in `Connection`.
fn is_hop_by_hop(name: &HeaderName, named: &[&[u8]]) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
        // Never what frames or routes the message, whatever `Connection` claims.
        || (named.iter().any(|option| option.eq_ignore_ascii_case(name.as_ref()))
            && name != header::HOST
            && name != header::CONTENT_LENGTH
            && name != header::TRANSFER_ENCODING)
}

/// `X-Forwarded-*` and `X-Real-IP`: ours, or a trusted proxy's with the proxy added to the list. The list
/// begins with the client as it was judged: pyos takes its first entry for access lists and bans, and what
/// stood before that one, the client itself may have written.
fn forwarded(lines: &mut Kept<'_>, request: &RequestHeader, rules: &Rules<'_>) {
    let (client, headers) = (rules.client, &request.headers);
    if let Some(peer) = client.peer {
        let peer = plain(peer);
        let mut list = String::new();
        for hop in &client.via {
            list.push_str(&plain(*hop));
            list.push_str(", ");
        }
        list.push_str(&peer);
        lines.header(&FORWARDED_FOR, list.as_bytes());
        let address = client.address.filter(|address| client.peer != Some(*address));
        lines.header(&REAL_IP, address.map_or(peer, plain).as_bytes());
    }
    let passed = |name| client.trusted && headers.contains_key(name);
    if !passed(FORWARDED_PROTO) {
        lines.header(&FORWARDED_PROTO, client.scheme.as_bytes());
    }
    if !passed(FORWARDED_HOST)
        && let Some(host) = host_of(request)
    {
        lines.header(&FORWARDED_HOST, host.as_bytes());
    }
}

/// The `Host` for the upstream, by the row's header set.
pub(super) fn upstream_host(route: &Route, port: u16, public: Option<&str>) -> Arc<str> {
    match (route.headers.host, public, &route.authority) {
        (HostRule::Client, Some(host), _) => without_port(host).into(),
        (_, _, Some(authority)) => Arc::clone(authority),
        (_, _, None) => Route::authority_of_a_pod(port),
    }
}

#[cfg(test)]
mod tests;

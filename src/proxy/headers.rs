//! Header rules: what of a request reaches an upstream, what of a response reaches the client.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::client::Client;
use super::location::{self, Places};
use super::trail::Trail;
use crate::config::{HostRule, Upstream};
use crate::redact;
use crate::route::{Destination, Route};

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
}

/// Turns the client's request head into the upstream's, in place.
pub(super) fn to_upstream(head: &mut RequestHeader, rules: &Rules<'_>) -> Result<()> {
    let host = host_of(head);
    let named: Vec<_> = tokens(&head.headers, &header::CONNECTION).collect();
    remove_all(head, |name| is_hop_by_hop(name, &named) || rules.refuse(name));
    if rules.upgrade {
        head.insert_header(header::CONNECTION, "upgrade")?;
        head.insert_header(header::UPGRADE, "websocket")?;
    }
    join_cookies(head)?;
    forwarded(head, rules, host.as_ref())?;
    rules.trail.write(head)?;
    for name in &rules.route.headers.remove {
        head.remove_header(name);
    }
    certificate(head, rules)?;
    if rules.route.leads_to_a_desktop() {
        scrub_referer(head)?;
    }
    head.insert_header(header::HOST, rules.sent)?;
    head.set_raw_path(rules.target.as_bytes())
}

/// One field for all cookies: HTTP/2 clients send several, which HTTP/1 does not know (RFC 9113
/// section 8.2.3).
fn join_cookies(head: &mut RequestHeader) -> Result<()> {
    let cookies: Vec<_> = head.headers.get_all(header::COOKIE).iter().collect();
    if cookies.len() > 1 {
        let joined =
            cookies.iter().map(|cookie| cookie.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            head.insert_header(header::COOKIE, joined)?;
        }
    }
    Ok(())
}

/// What the rules for a response depend on.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) route: &'a Route,
    /// `http` or `https`, as the client came to us or to a trusted proxy.
    pub(super) scheme: &'a str,
    /// The client's `Host`.
    pub(super) public: Option<&'a str>,
    /// The `Host` that the upstream got.
    pub(super) sent: &'a str,
    /// What was taken off the front of the path.
    pub(super) prefix: Option<&'a str>,
}

/// Turns the upstream's response head into the client's, in place.
pub(super) fn to_client(head: &mut ResponseHeader, answer: &Answer<'_>) -> Result<()> {
    let upgrade = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    let named: Vec<_> = tokens(&head.headers, &header::CONNECTION)
        .filter(|name| !["content-length", "transfer-encoding"].contains(&name.as_str()))
        .collect();
    let inert: Vec<_> = head
        .headers
        .keys()
        // Orders to a proxy: a pod could redirect a request inside of us.
        .filter(|name| {
            name.as_str().starts_with("x-accel-")
                || *name == header::SERVER
                || (!upgrade
                    && (HOP_BY_HOP.contains(&name.as_str())
                        || named.iter().any(|token| token == name.as_str())))
        })
        .cloned()
        .collect();
    for name in inert {
        head.remove_header(&name);
    }
    pods::strip(head, answer.route);
    if head.status.is_informational() || head.status == http::StatusCode::NO_CONTENT {
        // They have no body to frame (RFC 9110 section 8.6, RFC 9112 section 6.1).
        head.remove_header(&header::CONTENT_LENGTH);
        head.remove_header(&header::TRANSFER_ENCODING);
    }
    if let Some(public) = answer.public {
        let Answer { scheme, sent, prefix, .. } = *answer;
        let places = Places { scheme, public, sent, prefix };
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let value = head.headers.get(&name).and_then(|value| value.to_str().ok());
            if let Some(rewritten) = value.and_then(|value| location::rewrite(value, &places)) {
                head.insert_header(name, rewritten)?;
            }
        }
    }
    if head.status.is_informational() {
        return Ok(()); // An upgrade is no page.
    }
    for (name, value) in &answer.route.headers.response {
        if !head.headers.contains_key(name) {
            head.insert_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// Whether a request asks for a WebSocket (RFC 6455 §4.2.1); `None` if it asks for no upgrade.
pub(super) fn is_websocket_upgrade(head: &RequestHeader) -> Option<bool> {
    let mut upgrades = head.headers.get_all(header::UPGRADE).iter();
    let upgrade = upgrades.next()?;
    let connection = tokens(&head.headers, &header::CONNECTION).any(|token| token == "upgrade");
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
pub(super) fn host_of(head: &RequestHeader) -> Option<HeaderValue> {
    let authority = || {
        let authority = head.uri.authority()?;
        HeaderValue::from_str(authority.as_str()).ok()
    };
    head.headers.get(header::HOST).cloned().or_else(authority)
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + use<'a> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_ascii_lowercase())
}

/// Whether the client's connection shall end with this request (RFC 9112 section 9.6).
pub(super) fn asks_to_close(head: &RequestHeader) -> bool {
    let mut lines = head.headers.get_all(header::CONNECTION).iter();
    lines.any(|line| {
        line.as_bytes()
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

/// Whether `Connection` names only what a client may have taken off: not what routes the request or
/// says who asks, and not more than a proxy should have to look at (RFC 9110 section 7.6.1).
pub(super) fn connection_is_sound(head: &RequestHeader) -> bool {
    const MOST: usize = 32;
    let named = head.headers.get_all(header::CONNECTION).iter();
    let mut named = named.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut count = 0;
    named.all(|token| {
        let token = token.trim_ascii();
        count += 1;
        let is_token = token.is_empty() || HeaderName::from_bytes(token).is_ok();
        let is_host = token.eq_ignore_ascii_case(b"host");
        let speaks = FORWARDED.iter().any(|name| token.eq_ignore_ascii_case(name.as_bytes()));
        is_token && !is_host && !speaks && count <= MOST
    })
}

/// Whether a header belongs to the client's connection, which names these in `Connection`.
fn is_hop_by_hop(name: &HeaderName, named: &[String]) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
        // Never what frames or routes the message, whatever `Connection` claims.
        || (named.iter().any(|token| token == name.as_str())
            && name != header::HOST
            && name != header::CONTENT_LENGTH
            && name != header::TRANSFER_ENCODING)
}

fn remove_all(head: &mut RequestHeader, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<_> = head.headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
}

/// `X-Forwarded-*` and `X-Real-IP`: ours, or a trusted proxy's with the proxy added to the list.
fn forwarded(
    head: &mut RequestHeader,
    rules: &Rules<'_>,
    host: Option<&HeaderValue>,
) -> Result<()> {
    let client = rules.client;
    if let Some(peer) = client.peer {
        let mut list = String::with_capacity(40);
        let said = head.headers.get_all("x-forwarded-for").iter();
        for line in said.filter_map(|line| line.to_str().ok()) {
            list.push_str(line);
            list.push_str(", ");
        }
        let peer = peer.to_string();
        list.push_str(&peer);
        head.insert_header("X-Forwarded-For", list)?;
        let address = client.address.filter(|address| client.peer != Some(*address));
        head.insert_header("X-Real-IP", address.map_or(peer, |address| address.to_string()))?;
    }
    if !head.headers.contains_key("x-forwarded-proto") {
        head.insert_header("X-Forwarded-Proto", client.scheme.as_str())?;
    }
    match host {
        Some(host) if !head.headers.contains_key("x-forwarded-host") => {
            head.insert_header("X-Forwarded-Host", host.clone())
        }
        _ => Ok(()),
    }
}

/// The client's certificate, for upstreams that are told it: verified here, or told by a trusted proxy.
/// What anybody else says would let him in as another.
fn certificate(head: &mut RequestHeader, rules: &Rules<'_>) -> Result<()> {
    let Rules { route, client, .. } = rules;
    let told = route.headers.tells_certificate && !route.leads_to_a_desktop();
    if told && client.trusted {
        return Ok(());
    }
    head.remove_header(&route.headers.certificate);
    match &client.certificate {
        Some(text) if told => head.insert_header(route.headers.certificate.clone(), text.clone()),
        _ => Ok(()),
    }
}

/// The address of a `/container/<token>/...` page holds the token.
fn scrub_referer(head: &mut RequestHeader) -> Result<()> {
    let referer = head.headers.get(header::REFERER).map(|value| value.to_str().unwrap_or(""));
    let Some(referer) = referer else { return Ok(()) };
    let scrubbed = redact::scrub(referer);
    if scrubbed == referer {
        return Ok(());
    }
    let scrubbed = scrubbed.into_owned();
    head.insert_header(header::REFERER, scrubbed)
}

/// The `Host` for the upstream, by the row's header set.
pub(super) fn upstream_host(route: &Route, port: u16, public: Option<&str>) -> String {
    match (route.headers.host, &route.backend, public.map(without_port)) {
        (HostRule::Client, _, Some(host)) => host,
        (_, Destination::Upstream(Upstream { host, port: 80 }), _) => host.clone(),
        (_, Destination::Upstream(Upstream { host, port }), _) => format!("{host}:{port}"),
        // A pod's address is nobody's business, its own included: no pod looks at `Host`.
        _ => format!("desktop:{port}"),
    }
}

#[cfg(test)]
mod tests;

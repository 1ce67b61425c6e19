//! Sends plain requests to the https address of the same place (`listen.redirect`).

use std::sync::Arc;

use http::HeaderMap;
use pingora::http::RequestHeader;

use super::client::{Client, forwarded_scheme};
use super::headers;
pub(crate) use super::headers::is_valid_host;
use super::rooms::{Rooms, path_and_query};
use crate::config::Listen;

/// Port of https that an address does not name.
const HTTPS: u16 = 443;

/// Where a plain request is sent.
pub(super) struct Elsewhere {
    /// The address.
    pub(super) address: String,
    /// The route that it asked for here.
    pub(super) route: Arc<str>,
}

/// Where a plain request is sent; none if it is served as it came.
pub(super) fn to_https(rooms: &Rooms, head: &RequestHeader, client: &Client) -> Option<Elsewhere> {
    let listen = &rooms.listen;
    if !listen.redirect || client.scheme == "https" || is_unsure(&head.headers, client.trusted) {
        return None;
    }
    // Who asks for nothing valid is told so, here as there.
    let (path, _) = path_and_query(head).ok()?;
    let route = rooms.table.find(&path)?.route;
    if route.row.plain {
        return None;
    }
    let host = headers::public_host(head, client.trusted).filter(|host| is_valid_host(host))?;
    let target = head.uri.path_and_query().map(|target| target.as_str())?;
    let address = address(host.to_str().ok()?, target, |port| https_port(listen, port));
    Some(Elsewhere { address, route: Arc::clone(&route.name) })
}

/// Whether the client may have come over TLS to somebody before us: a redirect would lead it here
/// again, for ever. What a stranger says counts as well; whoever lies only hides from the redirect.
fn is_unsure(headers: &HeaderMap, trusted: bool) -> bool {
    match forwarded_scheme(headers) {
        Some(said) => said.eq_ignore_ascii_case(b"https"),
        None => trusted,
    }
}

/// The same place under https. `port` gives the port there for the one here.
pub(crate) fn address(host: &str, target: &str, port: impl Fn(Option<u16>) -> u16) -> String {
    let end = host.rfind(']').map_or(0, |end| end + 1);
    let colon = host.get(end..).and_then(|rest| rest.find(':')).map(|at| end + at);
    let (name, given) = host.split_at(colon.unwrap_or(host.len()));
    let given = given.strip_prefix(':').and_then(|digits| digits.parse().ok());
    let target = if target.starts_with('/') { target } else { "/" };
    match port(given) {
        HTTPS => format!("https://{name}{target}"),
        port => format!("https://{name}:{port}{target}"),
    }
}

/// Port of the public https address. A port of our own listeners leads to ours of https; behind a
/// NodePort nobody here can know it, which is what `listen.https_port` is for.
fn https_port(listen: &Listen, given: Option<u16>) -> u16 {
    let own = || {
        let given = given.filter(|given| listen.http.iter().any(|http| http.port() == *given))?;
        listen.https.first().map(|https| https.port()).filter(|_| given != 80)
    };
    listen.https_port.or_else(own).unwrap_or(HTTPS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_port_is_the_configured_one_or_the_listeners() {
        let listen = |text: &str| Config::from_text("t", text).unwrap().config.listen;
        let built_in = listen("");
        let high = listen("[listen]\nhttp = [\"0.0.0.0:8080\"]\nhttps = [\"0.0.0.0:8443\"]\n");
        let node = listen("[listen]\nhttps_port = 30444\n");
        for (listen, host, want) in [
            (&built_in, "desk.example", "https://desk.example/a?b"),
            (&built_in, "desk.example:80", "https://desk.example/a?b"),
            (&built_in, "desk.example:30443", "https://desk.example/a?b"),
            (&built_in, "[2001:db8::1]:80", "https://[2001:db8::1]/a?b"),
            (&high, "desk.example:8080", "https://desk.example:8443/a?b"),
            (&high, "desk.example", "https://desk.example/a?b"),
            (&node, "desk.example:30443", "https://desk.example:30444/a?b"),
            (&node, "desk.example", "https://desk.example:30444/a?b"),
            (&node, "[2001:db8::1]:30443", "https://[2001:db8::1]:30444/a?b"),
        ] {
            assert_eq!(address(host, "/a?b", |port| https_port(listen, port)), want, "{host}");
        }
    }

    #[test]
    fn who_may_have_come_over_tls_is_not_sent_round_in_circles() {
        for (said, trusted, unsure) in [
            (None, false, false),
            (None, true, true),
            (Some("http"), true, false),
            (Some("http"), false, false),
            (Some("https"), true, true),
            (Some("HTTPS , http"), true, true),
            (Some("http, https"), true, false),
            (Some("HTTPS"), false, true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert("x-forwarded-proto", said.parse().unwrap());
            }
            assert_eq!(is_unsure(&headers, trusted), unsure, "{said:?} {trusted}");
        }
    }
}

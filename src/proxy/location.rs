//! Keeps an upstream's redirects on the public origin.
//!
//! An upstream knows its own name, or the client's host without the port (a NodePort, say), and
//! nothing of a prefix that was taken off the path. A redirect to elsewhere is left as it is.

use http::Uri;

/// What the client and the upstream call this place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// `http` or `https`, as the client came.
    pub(super) scheme: &'a str,
    /// The host that the client asked for, with its port.
    pub(super) public: &'a str,
    /// The `Host` that the upstream got.
    pub(super) sent: &'a str,
    /// What was taken off the front of the path.
    pub(super) prefix: Option<&'a str>,
}

/// The `Location` (or `Content-Location`) for the client; none if it stays as it is.
pub(super) fn rewrite(location: &str, places: &Places<'_>) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        let path = with_prefix(location, places.prefix)?;
        return Some(path);
    }
    let uri: Uri = location.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    // `https` from a plain upstream is an order to change the scheme, and the client's to follow.
    if scheme != "http" && scheme != places.scheme {
        return None;
    }
    let named = authority.as_str();
    let is_ours = named.eq_ignore_ascii_case(places.sent)
        || named.eq_ignore_ascii_case(places.public)
        || (authority.port().is_none() && named.eq_ignore_ascii_case(without_port(places.sent)))
        || (authority.port().is_none() && named.eq_ignore_ascii_case(without_port(places.public)));
    // The same host under another scheme is another place.
    let moves = scheme != places.scheme
        && named.eq_ignore_ascii_case(without_port(places.public))
        && !named.eq_ignore_ascii_case(without_port(places.sent));
    if !is_ours || moves {
        return None;
    }
    let start = location.find(named)? + named.len();
    let rest = location.get(start..)?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let path = with_prefix(&rest, places.prefix).unwrap_or(rest);
    let rewritten = format!("{}://{}{path}", places.scheme, places.public);
    (rewritten != location).then_some(rewritten)
}

/// The path with the prefix that the client used; none if it has it already or none is missing.
fn with_prefix(path: &str, prefix: Option<&str>) -> Option<String> {
    let prefix = prefix.map(|prefix| prefix.trim_end_matches('/')).filter(|p| !p.is_empty())?;
    let has_it = path
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    (!has_it).then(|| format!("{prefix}{path}"))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBSITE: Places<'_> =
        Places { scheme: "http", public: "desk.example:30443", sent: "website", prefix: None };

    #[test]
    fn redirects_of_the_upstream_stay_on_the_public_origin() {
        for (location, want) in [
            ("http://website/a/?b#c", Some("http://desk.example:30443/a/?b#c")),
            ("http://WEBSITE", Some("http://desk.example:30443/")),
            ("http://desk.example/a", Some("http://desk.example:30443/a")),
            ("http://desk.example:30443/a", None),
            ("https://desk.example/a", None),
            ("http://elsewhere.example/a", None),
            ("/a", None),
            ("a/b", None),
            ("//elsewhere/a", None),
            ("", None),
        ] {
            assert_eq!(rewrite(location, &WEBSITE).as_deref(), want, "{location}");
        }
    }

    #[test]
    fn a_prefix_that_was_taken_off_comes_back() {
        let console = Places { sent: "console", prefix: Some("/console"), ..WEBSITE };
        for (location, want) in [
            ("http://console/y/", Some("http://desk.example:30443/console/y/")),
            ("http://desk.example:30443/y", Some("http://desk.example:30443/console/y")),
            ("http://desk.example:30443/console/y", None),
            ("http://desk.example:30444/y", None),
            ("/y/", Some("/console/y/")),
            ("/?q", Some("/console/?q")),
            ("/console/y", None),
            ("/console", None),
            ("/consoley", Some("/console/consoley")),
            ("y", None),
        ] {
            assert_eq!(rewrite(location, &console).as_deref(), want, "{location}");
        }
    }

    #[test]
    fn behind_tls_an_upstreams_plain_address_becomes_the_public_one() {
        let places = Places { scheme: "https", public: "desk.example", ..WEBSITE };
        let rewritten = rewrite("http://website/a", &places);
        assert_eq!(rewritten.as_deref(), Some("https://desk.example/a"));
        assert_eq!(rewrite("https://desk.example/a", &places), None);
        // The same port cannot be another scheme's.
        let places = Places { public: "desk.example:8443", ..places };
        let rewritten = rewrite("http://desk.example:8443/a", &places);
        assert_eq!(rewritten.as_deref(), Some("https://desk.example:8443/a"));
    }
}

//! Which pages may open a tunnel, or lead a browser to a page of a desktop: cross-site WebSocket hijacking
//! ends here (RFC 6455 section 10.2), and so do links to what another user wrote.
//!
//! The check is about pages in a user's browser. They choose no header of an upgrade: `Origin` and
//! `Sec-Fetch-Site` are the browser's, and every `X-Forwarded-*` comes from a proxy in between. So
//! those are believed here from anyone: whoever can forge them can forge `Origin`, too.

use http::Uri;

use crate::config::Origins;

/// Headers that no browser sends: something stands between it and us.
pub const PROXY_HEADERS: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// What a name ends with that only machines behind a proxy know.
const INTERNAL: [&str; 4] = [".local", ".internal", ".svc", ".localhost"];

/// Why an upgrade or a visit is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Foreign {
    /// Its page is of another origin.
    CrossOrigin,
    /// It names no page, and has to.
    NoOrigin,
    /// It is a link, from another origin, to a page of a desktop.
    Link,
}

/// What an upgrade says of its page and of the host it was sent to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site` (Fetch Metadata).
    pub site: Option<&'a str>,
    /// `Host`.
    pub host: Option<&'a str>,
    /// The first `X-Forwarded-Host`.
    pub forwarded: Option<&'a str>,
    /// Whether there is one of [`PROXY_HEADERS`].
    pub proxied: bool,
}

/// Who led a browser to a page, in a window or a frame. Programs that are no browser say nothing, nor do
/// browsers at an address without TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visit<'a> {
    /// `Sec-Fetch-Site` (Fetch Metadata): `none` is the user's own doing.
    pub site: Option<&'a str>,
    /// `Referer`.
    pub referer: Option<&'a str>,
}

/// The origins that are allowed besides the host's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    off: bool,
    allow: Vec<String>,
    absent: bool,
    links: bool,
}

impl Policy {
    /// Checks what the configuration says.
    ///
    /// # Errors
    /// What is wrong with `origins.allow`.
    pub fn new(origins: &Origins) -> Result<Self, String> {
        let mut allow = Vec::with_capacity(origins.allow.len());
        for text in &origins.allow {
            let lower = text.to_ascii_lowercase();
            if lower != "null" && parse(&lower).is_none() {
                return Err(format!("`{text}` is no origin: https://host or https://host:port"));
            }
            allow.push(lower);
        }
        let Origins { check, absent, links, .. } = *origins;
        Ok(Self { off: !check, allow, absent, links })
    }

    /// Whether the page may open a tunnel.
    ///
    /// # Errors
    /// Why it may not.
    pub fn judge(&self, asked: &Asked<'_>) -> Result<(), Foreign> {
        if self.off {
            return Ok(());
        }
        let Some(origin) = asked.origin else {
            // A browser that says where the page is, and not which one, is none.
            let browser = asked.site.is_some_and(|site| site != "none");
            return if self.absent && !browser { Ok(()) } else { Err(Foreign::NoOrigin) };
        };
        let origin = origin.to_ascii_lowercase();
        let listed = self.allow.contains(&origin);
        let own = || match asked.site {
            // The browser compared both addresses before a proxy could change one.
            Some("same-origin") => true,
            Some("cross-site") => false,
            Some(_) | None => parse(&origin).is_some_and(|origin| asked.is_own(&origin)),
        };
        if listed || own() { Ok(()) } else { Err(Foreign::CrossOrigin) }
    }

    /// Whether a browser may be led to a page of a desktop.
    ///
    /// # Errors
    /// If a page of another origin leads there that is not listed.
    pub fn judge_visit(&self, visit: &Visit<'_>) -> Result<(), Foreign> {
        let foreign = matches!(visit.site, Some("cross-site" | "same-site"));
        let listed = || visit.referer.and_then(origin_of).is_some_and(|o| self.allow.contains(&o));
        let allowed = self.off || self.links || !foreign || listed();
        if allowed { Ok(()) } else { Err(Foreign::Link) }
    }
}

impl Asked<'_> {
    fn is_own(&self, origin: &Place<'_>) -> bool {
        let mut hosts = [self.forwarded, self.host].into_iter().flatten();
        if hosts.any(|host| self.is_at(host, origin)) {
            return true;
        }
        // A proxy that puts an address or an inner name in place of the client's host, and does not
        // say which it was: there is nothing to compare with.
        self.proxied && self.forwarded.is_none() && self.host.is_some_and(is_internal)
    }

    /// Whether a host, as a request names it, is that of an origin.
    fn is_at(&self, host: &str, origin: &Place<'_>) -> bool {
        let (name, port) = split(host);
        if !name.eq_ignore_ascii_case(origin.name) {
            return false;
        }
        match port {
            Some(port) if is_default(port) => is_default(origin.port),
            Some(port) => port == origin.port,
            // Browsers name every port that is not their scheme's. A proxy may not (nginx's `$host`).
            None => self.proxied || is_default(origin.port),
        }
    }
}

/// Host and port of an origin.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    name: &'a str,
    port: u16,
}

/// An origin as RFC 6454 section 6.2 writes it: scheme, host, and a port unless it is the scheme's.
fn parse(origin: &str) -> Option<Place<'_>> {
    let (scheme, host) = origin.split_once("://")?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    // No path, no user: what is left after the scheme is a host and a port.
    let uri: Uri = host.parse().ok()?;
    let whole = uri.authority().is_some_and(|authority| authority.as_str() == host);
    if !whole || host.contains('@') || host.ends_with(':') {
        return None;
    }
    let (name, port) = split(host);
    Some(Place { name, port: port.unwrap_or(default) })
}

/// The origin of an address, in lower case.
fn origin_of(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{host}").to_ascii_lowercase())
}

/// A host and its port.
fn split(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        // The last colon of a bracketed IPv6 address is not a port's.
        Some((name, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (host, None),
        },
        _ => (host, None),
    }
}

/// TLS ends at a proxy as often as not, so 80 and 443 are one.
fn is_default(port: u16) -> bool {
    matches!(port, 80 | 443)
}

/// Whether no page in a browser outside can have this host: an address, a bare name, or one of the
/// suffixes that are reserved for inner networks.
fn is_internal(host: &str) -> bool {
    let (name, _) = split(host);
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let address = name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok();
    address || !name.contains('.') || INTERNAL.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], absent: bool) -> Policy {
        let allow = allow.iter().map(|text| (*text).to_owned()).collect();
        Policy::new(&Origins { check: true, allow, absent, links: false }).unwrap()
    }

    #[test]
    fn a_page_of_the_host_that_was_asked_for_may() {
        let policy = policy(&[], true);
        for (origin, host, allowed) in [
            ("https://desk.example", "desk.example", true),
            ("http://desk.example", "desk.example", true),
            ("https://desk.example", "Desk.Example:443", true),
            ("https://desk.example", "desk.example:80", true),
            ("http://desk.example:30443", "desk.example:30443", true),
            ("http://[2001:db8::1]:30443", "[2001:db8::1]:30443", true),
            ("http://10.0.0.1", "10.0.0.1", true),
            ("https://evil.example", "desk.example", false),
            ("https://desk.example.evil.example", "desk.example", false),
            ("https://evil-desk.example", "desk.example", false),
            ("https://sub.desk.example", "desk.example", false),
            ("http://desk.example:8080", "desk.example", false),
            ("http://desk.example:8080", "desk.example:30443", false),
            ("https://desk.example", "desk.example:30443", false),
            ("http://[2001:db8::2]:30443", "[2001:db8::1]:30443", false),
            ("http://evil.example", "10.0.0.1", false),
            ("null", "desk.example", false),
            ("null", "null", false),
            ("", "desk.example", false),
            ("https://", "desk.example", false),
            ("file://desk.example", "desk.example", false),
            ("https://desk.example/", "desk.example", false),
            ("https://evil@desk.example", "desk.example", false),
            ("https://desk.example:", "desk.example", false),
            ("https://desk.example, https://evil.example", "desk.example", false),
            ("chrome-extension://desk.example", "desk.example", false),
        ] {
            let asked = Asked { origin: Some(origin), host: Some(host), ..Asked::default() };
            assert_eq!(policy.judge(&asked).is_ok(), allowed, "{origin} at {host}");
        }
        let nowhere = Asked { origin: Some("https://desk.example"), ..Asked::default() };
        assert_eq!(policy.judge(&nowhere), Err(Foreign::CrossOrigin));
    }

    #[test]
    fn behind_a_proxy_what_it_says_of_the_host_counts() {
        let policy = policy(&[], true);
        for (origin, host, forwarded, allowed) in [
            ("https://desk.example", "10.0.0.5:30443", Some("desk.example"), true),
            ("https://desk.example:8443", "router", Some("desk.example:8443"), true),
            ("https://desk.example:8443", "desk.example", None, true), // nginx's $host
            ("https://desk.example", "desk.example", None, true),
            ("https://evil.example", "10.0.0.5:30443", Some("desk.example"), false),
            ("https://evil.example", "desk.example", None, false),
            ("https://desk.example", "desk.example", Some("inner.example"), true),
            // The host was changed and nobody says what it was.
            ("https://desk.example", "10.0.0.5:30443", None, true),
            ("https://desk.example", "[fd00::5]:30443", None, true),
            ("https://desk.example", "nginx_router", None, true),
            ("https://desk.example", "http.abcdesktop.svc.cluster.local", None, true),
            ("https://desk.example", "http.abcdesktop.svc", None, true),
        ] {
            let (origin, host) = (Some(origin), Some(host));
            let asked = Asked { origin, host, forwarded, proxied: true, site: None };
            assert_eq!(policy.judge(&asked).is_ok(), allowed, "{asked:?}");
            if forwarded.is_none() && allowed {
                let foreign = Asked { site: Some("cross-site"), ..asked };
                assert_eq!(policy.judge(&foreign), Err(Foreign::CrossOrigin), "{asked:?}");
            }
        }
    }

    #[test]
    fn the_browsers_own_word_counts_most() {
        let policy = policy(&["https://portal.example"], true);
        let asked = |origin, site| Asked {
            origin: Some(origin),
            site: Some(site),
            host: Some("inner.example"),
            ..Asked::default()
        };
        assert!(policy.judge(&asked("https://desk.example", "same-origin")).is_ok());
        assert!(policy.judge(&asked("https://inner.example", "same-site")).is_ok());
        for site in ["cross-site", "same-site", "none"] {
            let judged = policy.judge(&asked("https://desk.example", site));
            assert_eq!(judged, Err(Foreign::CrossOrigin), "{site}");
        }
        let pretends = policy.judge(&asked("https://inner.example", "cross-site"));
        assert_eq!(pretends, Err(Foreign::CrossOrigin));
        assert!(policy.judge(&asked("https://Portal.example", "cross-site")).is_ok());
    }

    #[test]
    fn programs_without_an_origin_are_allowed_unless_told_otherwise() {
        let asked = Asked { host: Some("desk.example"), ..Asked::default() };
        assert!(policy(&[], true).judge(&asked).is_ok());
        assert_eq!(policy(&[], false).judge(&asked), Err(Foreign::NoOrigin));
        let stripped = Asked { site: Some("cross-site"), ..asked };
        assert_eq!(policy(&[], true).judge(&stripped), Err(Foreign::NoOrigin));
    }

    #[test]
    fn a_page_of_another_origin_leads_to_no_desktop() {
        let policy = policy(&["https://portal.example"], true);
        let visit = |site, referer| Visit { site, referer };
        for site in [Some("same-origin"), Some("none"), None] {
            assert!(policy.judge_visit(&visit(site, None)).is_ok(), "{site:?}");
        }
        let open = |check, links| {
            Policy::new(&Origins { check, allow: vec![], absent: true, links }).unwrap()
        };
        for site in ["cross-site", "same-site"].map(Some) {
            for referer in [None, Some("https://evil.example/https://portal.example/")] {
                let judged = policy.judge_visit(&visit(site, referer));
                assert_eq!(judged, Err(Foreign::Link), "{site:?} {referer:?}");
            }
            for listed in ["https://portal.example/", "https://Portal.example/a?b#c"] {
                assert!(policy.judge_visit(&visit(site, Some(listed))).is_ok(), "{listed}");
            }
            assert!(open(true, true).judge_visit(&visit(site, None)).is_ok());
            assert!(open(false, false).judge_visit(&visit(site, None)).is_ok());
        }
        // Links alone: a foreign page opens no tunnel.
        let foreign = Asked { origin: Some("https://evil.example"), ..Asked::default() };
        assert_eq!(open(true, true).judge(&foreign), Err(Foreign::CrossOrigin));
    }

    #[test]
    fn an_allow_list_is_checked_and_a_check_can_be_off() {
        for text in ["portal.example", "https://portal.example/x", "*", "https://a b", "wss://x"] {
            let allow = vec![text.to_owned()];
            let origins = Origins { check: true, allow, absent: true, links: false };
            assert!(Policy::new(&origins).unwrap_err().contains(text));
        }
        let origins = Origins { check: false, allow: vec![], absent: false, links: false };
        let off = Policy::new(&origins).unwrap();
        assert!(off.judge(&Asked::default()).is_ok());
        assert!(
            policy(&["null"], true)
                .judge(&Asked { origin: Some("null"), ..Asked::default() })
                .is_ok()
        );
    }
}

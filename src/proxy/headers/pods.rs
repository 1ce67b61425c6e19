//! What a pod and a browser may not say to each other: a pod runs what its user likes, at the address of
//! the whole site.

use http::header::{self, HeaderName};
use http::response::Parts;

use crate::config::CookieRule;
use crate::route::Route;

/// What holds for more than the answer that it is part of: for other pages of the site, for other
/// users of the browser, or for a year. `WWW-Authenticate` is an order to ask for a password that no
/// pod ever gets.
const OF_THE_SITE: [&str; 18] = [
    "accept-ch",
    "alt-svc",
    "clear-site-data",
    "critical-ch",
    "expect-ct",
    "nel",
    "origin-agent-cluster",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "sec-session-registration",
    "secure-session-registration",
    "service-worker-allowed",
    "set-login",
    "shared-storage-write",
    "strict-transport-security",
    "use-as-dictionary",
    "www-authenticate",
];

/// Whether cookies pass between the browser and a route's backend. Those of the browser are the site's, and
/// who opens a link with another user's token would give them to that user's pod.
pub(super) fn keeps_cookies(route: &Route) -> bool {
    match route.row.cookies {
        Some(rule) => rule == CookieRule::Pass,
        None => !route.leads_to_a_desktop(),
    }
}

/// Takes out of a response what its route's backend has no right to say.
pub(super) fn strip(head: &mut Parts, route: &Route) {
    let of_a_desktop = route.leads_to_a_desktop();
    let keeps = keeps_cookies(route);
    let unwanted = |name: &HeaderName| {
        (!keeps && *name == header::SET_COOKIE)
            || (of_a_desktop && OF_THE_SITE.contains(&name.as_str()))
    };
    let names: Vec<_> = head.headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        head.headers.remove(&name);
    }
}

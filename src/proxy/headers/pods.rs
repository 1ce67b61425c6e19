//! What a pod may not say to a browser: a pod runs what its user likes, at the address of the whole site.

use http::header::{self, HeaderName};
use http::response::Parts;

use crate::config::CookieRule;
use crate::route::Route;

/// What holds for more than the answer that it is part of: for other pages of the site, for other
/// users of the browser, or for a year. `WWW-Authenticate` is an order to ask for a password that no
/// pod ever gets.
const OF_THE_SITE: [&str; 14] = [
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
    "service-worker-allowed",
    "set-login",
    "strict-transport-security",
    "www-authenticate",
];

/// Takes out of a response what its route's backend has no right to say.
pub(super) fn strip(head: &mut Parts, route: &Route) {
    let of_a_desktop = route.leads_to_a_desktop();
    let strips = route.row.cookies.map_or(of_a_desktop, |rule| rule == CookieRule::Strip);
    let unwanted = |name: &HeaderName| {
        (strips && *name == header::SET_COOKIE)
            || (of_a_desktop && OF_THE_SITE.contains(&name.as_str()))
    };
    let names: Vec<_> = head.headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        head.headers.remove(&name);
    }
}

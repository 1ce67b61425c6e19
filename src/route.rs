//! The route table: rows checked and compiled once, searched once per request.
//!
//! Pure functions on values. The order of choice is nginx's: an exact row wins, then the first
//! pattern in file order, then the longest prefix.

use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::config::{self, Backend, Config, HostRule, Layered, TokenPlace};

mod matcher;
mod path;
mod rewrite;

use matcher::Matcher;
use rewrite::Rewrite;

pub use matcher::Captures;
pub use path::{InvalidPath, NormalPath};

/// All routes of one configuration.
#[derive(Clone, Debug)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    /// Of each byte that may follow the first slash of a path, the rows that may match, in file order.
    by_byte: Vec<Vec<Arc<Route>>>,
}

/// A compiled row.
#[derive(Clone, Debug)]
pub struct Route {
    /// The row as configured.
    pub row: config::Route,
    /// The row's name, for what outlives the table.
    pub name: Arc<str>,
    /// Who answers, with names resolved to ports and hosts.
    pub backend: Destination,
    /// The row's header set.
    pub headers: HeaderRules,
    /// What the backend takes for its own `Host`; none if the port is one of the path.
    pub authority: Option<Arc<str>>,
    matcher: Matcher,
    rewrite: Option<Rewrite>,
}

/// A [`Backend`] whose names were looked up in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The user's pod on a fixed port.
    Desktop(u16),
    /// The user's pod on the captured port, if it is one of these.
    DesktopPorts(Vec<config::PortRange>),
    /// A fixed service.
    Upstream(config::Upstream),
    /// The files of this folder.
    Files(PathBuf),
    /// This text, from deskgate itself.
    Text(String),
    /// The token's desktop's tunnels are renewed.
    Renew,
}

/// A [`config::HeaderSet`] whose names and values were parsed.
#[derive(Clone, Debug)]
pub struct HeaderRules {
    /// The `Host` that the upstream sees.
    pub host: HostRule,
    /// Request headers that do not reach the upstream.
    pub remove: Vec<HeaderName>,
    /// Request header for the client's certificate.
    pub certificate: HeaderName,
    /// Whether the upstream gets it.
    pub tells_certificate: bool,
    /// Response headers for the client, unless the upstream sent its own.
    pub response: Vec<(HeaderName, HeaderValue)>,
    /// Whether they take a page's origin away, as `Content-Security-Policy: sandbox` does.
    pub takes_the_origin: bool,
}

impl HeaderRules {
    /// Parses a set; the error is for the operator.
    fn new(set: &config::HeaderSet, certificate: HeaderName) -> Result<Self, String> {
        let name = |text: &str| {
            text.parse::<HeaderName>().map_err(|_| format!("\"{text}\" is no header name"))
        };
        let mut response = Vec::with_capacity(set.response.len());
        for (key, value) in &set.response {
            let value = HeaderValue::from_str(value);
            response.push((name(key)?, value.map_err(|_| format!("{key}: not a header value"))?));
        }
        let takes_the_origin =
            set.response.iter().any(|(key, value)| is_policy(key) && is_sandbox(value));
        let remove = set.remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
        Ok(Self {
            host: set.host,
            remove,
            certificate,
            tells_certificate: set.certificate,
            response,
            takes_the_origin,
        })
    }
}

fn is_policy(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-security-policy")
}

/// Whether a policy has the directive `sandbox` without the word that gives the origin back (HTML, sandboxing
/// flag set).
fn is_sandbox(policy: &str) -> bool {
    policy.split([';', ',']).any(|directive| {
        let mut words = directive.split_ascii_whitespace();
        words.next().is_some_and(|name| name.eq_ignore_ascii_case("sandbox"))
            && !words.any(|word| word.eq_ignore_ascii_case("allow-same-origin"))
    })
}

/// A route found for a path.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t, 'p> {
    /// The row.
    pub route: &'t Arc<Route>,
    /// The parts of the path that the row names.
    pub captures: Captures<'p>,
}

impl Table {
    /// Checks and compiles every row.
    ///
    /// # Errors
    /// Every fault of every row, with its line and key.
    pub fn new(layered: &Layered) -> Result<Self, Vec<config::Fault>> {
        let config = &layered.config;
        let mut faults = Vec::new();
        let mut routes = Vec::with_capacity(config.routes.len());
        for row in &config.routes {
            match compile(row, config) {
                Ok(route) => routes.push(Arc::new(route)),
                Err(wrong) => faults.extend(wrong.into_iter().map(|(key, message)| {
                    layered.fault(&format!("route.{}.{key}", row.name), message)
                })),
            }
        }
        let name = &config.tls.client_certificate_header;
        if name.parse::<HeaderName>().is_err() {
            let message = format!("\"{name}\" is no header name");
            faults.push(layered.fault("tls.client_certificate_header", message));
        }
        for (index, row) in config.routes.iter().enumerate() {
            let key = format!("route.{}", row.name);
            let mut earlier = config.routes.iter().take(index);
            if earlier.any(|other| other.name == row.name) {
                faults.push(layered.fault(&key, "two rows have this name"));
            } else if config.routes.iter().take(index).any(|other| other.matches == row.matches) {
                faults.push(layered.fault(&key, "an earlier row has the same match"));
            }
        }
        if faults.is_empty() { Ok(Self::of(routes)) } else { Err(faults) }
    }

    fn of(routes: Vec<Arc<Route>>) -> Self {
        let rows = |byte| {
            let may_match = |route: &&Arc<Route>| route.matcher.may_follow(byte);
            routes.iter().filter(may_match).cloned().collect()
        };
        let by_byte = (0..=u8::MAX).map(rows).collect();
        Self { routes, by_byte }
    }

    /// The row that answers a path, if any.
    #[must_use]
    pub fn find<'t, 'p>(&'t self, path: &'p NormalPath) -> Option<Found<'t, 'p>> {
        // A path without a second byte goes with those that no path has.
        let second = path.as_str().as_bytes().get(1).copied().unwrap_or_default();
        Self::best_of(self.by_byte.get(usize::from(second))?, path)
    }

    fn best_of<'t, 'p>(rows: &'t [Arc<Route>], path: &'p NormalPath) -> Option<Found<'t, 'p>> {
        let mut best: Option<Found<'t, 'p>> = None;
        for route in rows {
            if best.is_some_and(|best| best.route.precedence() >= route.precedence()) {
                continue;
            }
            if let Some(captures) = route.matcher.captures(path.as_str()) {
                best = Some(Found { route, captures });
            }
        }
        best
    }

    /// The rows in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(AsRef::as_ref)
    }
}

impl Route {
    /// How strongly a match of this row claims a path; among equals the first row wins.
    fn precedence(&self) -> (u8, usize) {
        match &self.matcher {
            Matcher::Exact(_) => (2, 0),
            Matcher::Pattern(_) => (1, 0),
            Matcher::Prefix(prefix) => (0, prefix.len()),
        }
    }

    /// The `Host` of a pod: its address is nobody's business, its own included, and no pod looks at it.
    #[must_use]
    pub fn authority_of_a_pod(port: u16) -> Arc<str> {
        format!("desktop:{port}").into()
    }

    /// Whether the backend is about a user's pod, so that a token decides which one.
    #[must_use]
    pub fn leads_to_a_desktop(&self) -> bool {
        matches!(
            self.backend,
            Destination::Desktop(_) | Destination::DesktopPorts(_) | Destination::Renew
        )
    }

    /// Whether the answer is a fixed text, such as a health check's.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self.backend, Destination::Text(_))
    }
}

impl Found<'_, '_> {
    /// The request target for the upstream. `query` must be without its token.
    #[must_use]
    pub fn upstream_target(&self, path: &NormalPath, query: Option<&str>) -> String {
        let rule = self.route.row.query;
        match &self.route.rewrite {
            Some(rewrite) => rewrite::target(&rewrite.apply(&self.captures), rule, query),
            None => rewrite::target(path.as_str(), rule, query),
        }
    }

    /// The part of the public path that is missing upstream: what a path in the upstream's
    /// redirects must get back. None if the row sends the path as it is, or replaces it.
    #[must_use]
    pub fn public_prefix<'p>(&self, path: &'p NormalPath) -> Option<&'p str> {
        let stripped = self.route.rewrite.as_ref().is_some_and(Rewrite::is_bare_rest);
        path.as_str().strip_suffix(self.captures.rest).filter(|_| stripped)
    }

    /// The port of the user's pod, or of the upstream; none if the captured port is not allowed.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.route.backend {
            Destination::Desktop(port) => Some(*port),
            Destination::Upstream(upstream) => Some(upstream.port),
            Destination::DesktopPorts(allowed) => {
                let port = self.captures.port?.parse().ok()?;
                allowed.iter().any(|range| range.contains(port)).then_some(port)
            }
            Destination::Files(_) | Destination::Renew | Destination::Text(_) => None,
        }
    }
}

/// Compiles one row, or says everything that is wrong with it as `(key, message)`.
fn compile(row: &config::Route, config: &Config) -> Result<Route, Vec<(&'static str, String)>> {
    let mut wrong = Vec::new();
    let matcher = Matcher::new(&row.matches).map_err(|e| wrong.push(("match", e))).ok();
    let backend = destination(row, config).map_err(|e| wrong.push(("backend", e))).ok();
    let headers = match config.headers.get(&row.headers) {
        Some(set) => match config.tls.client_certificate_header.parse() {
            Ok(name) => HeaderRules::new(set, name).map_err(|e| wrong.push(("headers", e))).ok(),
            // Told once, by the table.
            Err(_) => return Err(wrong),
        },
        None => {
            wrong.push(("headers", format!("no set \"{}\" under [headers]", row.headers)));
            None
        }
    };
    let rewrite = row
        .rewrite
        .as_deref()
        .and_then(|text| Rewrite::new(text).map_err(|e| wrong.push(("rewrite", e))).ok());
    let captures = |name| matcher.as_ref().is_none_or(|matcher| matcher.has_capture(name));
    if row.name.is_empty() || !row.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        wrong.push(("name", "may hold only letters, digits and -".to_owned()));
    }
    if row.token == Some(TokenPlace::Path) && !captures("token") {
        wrong.push(("token", "\"path\" needs a pattern that captures (?<token>...)".to_owned()));
    }
    if matches!(row.backend, Backend::DesktopPorts(_)) && !captures("port") {
        wrong.push(("backend", "desktop_ports needs a pattern that captures (?<port>...)".into()));
    }
    match (matcher, backend, headers) {
        (Some(matcher), Some(backend), Some(headers)) if wrong.is_empty() => {
            let name = Arc::from(row.name.as_str());
            let authority = match &backend {
                Destination::Upstream(config::Upstream { host, port: 80 }) => {
                    Some(host.as_str().into())
                }
                Destination::Upstream(config::Upstream { host, port }) => {
                    Some(format!("{host}:{port}").into())
                }
                Destination::Desktop(port) => Some(Route::authority_of_a_pod(*port)),
                Destination::DesktopPorts(_)
                | Destination::Files(_)
                | Destination::Renew
                | Destination::Text(_) => None,
            };
            let row = row.clone();
            let route = Route { row, name, backend, headers, authority, matcher, rewrite };
            match (route.leads_to_a_desktop(), route.row.token) {
                (true, None) => Err(vec![("token", "a desktop backend needs a token".to_owned())]),
                (false, Some(_)) => {
                    Err(vec![("token", "only desktop backends take a desktop token".to_owned())])
                }
                _ => Ok(route),
            }
        }
        _ => Err(wrong),
    }
}

/// Looks up the names in a row's backend.
fn destination(row: &config::Route, config: &Config) -> Result<Destination, String> {
    match &row.backend {
        Backend::Desktop(name) => match config.desktop.ports.get(name) {
            Some(0) => Err(format!("desktop.ports.{name} is 0")),
            Some(port) => Ok(Destination::Desktop(*port)),
            None => Err(format!("no port \"{name}\" under [desktop.ports]")),
        },
        Backend::DesktopPorts(ranges) if ranges.is_empty() => Err("no port is allowed".to_owned()),
        Backend::DesktopPorts(ranges) => Ok(Destination::DesktopPorts(ranges.clone())),
        Backend::Upstream(name) => match config.upstreams.get(name) {
            Some(upstream) if upstream.port == 0 => Err(format!("upstreams.{name}.port is 0")),
            Some(upstream) => Ok(Destination::Upstream(upstream.clone())),
            None => Err(format!("no service \"{name}\" under [upstreams]")),
        },
        Backend::Files(folder) if folder.is_absolute() => Ok(Destination::Files(folder.clone())),
        Backend::Files(folder) => Err(format!("{} is no absolute path", folder.display())),
        Backend::Text(text) => {
            Ok(Destination::Text(text.replace("{node}", &config.server.node_name)))
        }
        Backend::Renew => Ok(Destination::Renew),
    }
}

#[cfg(test)]
mod tests;

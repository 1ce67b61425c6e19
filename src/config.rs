//! The configuration: the file and the environment as one typed value, parsed once.
//!
//! Imports nothing of this crate. Three layers are merged, later ones winning: the built-in
//! `conf/deskgate.toml`, the operator's file, the environment (see [`env::OVERRIDES`]). What the
//! values *mean* is checked by building the rooms from them; here they only become types.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod decode;
pub mod env;
mod layers;
mod lint;
mod origin;
mod ports;

pub use lint::warnings;
pub use origin::{Fault, Layered, Origin};
pub use ports::PortRange;

/// The shipped configuration, complete and commented: what runs when nothing else is given.
pub const BUILT_IN: &str = include_str!("../conf/deskgate.toml");

/// A shipped set of rows, for one generation of abcdesktop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// In place of `oc.nginx`: deskgate is the web server of the client, too.
    #[serde(rename = "abcdesktop-3")]
    Abcdesktop3,
    /// In place of `route`: the web client, the console and more stand behind.
    #[serde(rename = "abcdesktop-4")]
    Abcdesktop4,
}

impl Profile {
    /// Name in the configuration, and of the file in `conf/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Abcdesktop3 => "abcdesktop-3",
            Self::Abcdesktop4 => "abcdesktop-4",
        }
    }

    /// The shipped rows.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Abcdesktop3 => include_str!("../conf/abcdesktop-3.toml"),
            Self::Abcdesktop4 => include_str!("../conf/abcdesktop-4.toml"),
        }
    }
}

/// Everything an operator can set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The shipped rows that are laid under the operator's file.
    pub profile: Profile,
    /// Where clients connect.
    pub listen: Listen,
    /// The process.
    pub server: Server,
    /// Logging.
    pub log: Log,
    /// Desktop tokens.
    pub auth: Auth,
    /// The users' pods.
    pub desktop: Desktop,
    /// Named fixed services: `pyos`, `website`, ...
    pub upstreams: BTreeMap<String, Upstream>,
    /// Name resolution.
    pub dns: Dns,
    /// Named header sets, which rows choose from.
    pub headers: BTreeMap<String, HeaderSet>,
    /// The routes, in file order.
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
}

/// Where clients connect and whose word about the client's address counts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Addresses of the plain HTTP listeners.
    pub http: Vec<SocketAddr>,
    /// Networks of proxies in front whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Networks of load balancers whose connections begin with a PROXY protocol header (v1 or v2).
    /// From them it is demanded; from anyone else it is not understood.
    pub proxy_protocol: Vec<IpNet>,
    /// How long an idle client connection is kept open for another request.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// Longest time for a request's whole head, from its first byte.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Largest head of a request; a larger one is answered 431.
    pub max_head: ByteSize,
    /// Longest line of a head: 414 for the request line, in which tokens travel, 431 for a header.
    pub max_line: ByteSize,
    /// Most headers of a request, 256 at most; more are answered 431.
    pub max_headers: usize,
    /// Longest wait for the next bytes of a request's body.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// Longest wait for a client to take the next bytes of a response.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
}

/// The process.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Worker threads; 0 means one per available core.
    pub threads: usize,
    /// What `/node` answers: the Kubernetes node this instance runs on.
    pub node_name: String,
    /// How long SIGTERM waits for requests and tunnels under way.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Idle connections to upstreams that are kept, per worker.
    pub upstream_keepalive: usize,
}

/// Logging.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Least severe level written for deskgate's own events.
    pub level: Level,
    /// Form of every line.
    pub format: LogFormat,
}

/// Severity, least severe last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Only failures of deskgate itself.
    Error,
    /// Also what an operator should look at.
    Warn,
    /// Also one line per request and life-cycle events.
    Info,
    /// Also decisions taken for each request.
    Debug,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Requests as nginx's `combined` format, other events as text.
    Combined,
}

/// Desktop tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// PEM files with the public keys that verify a token's signature, tried in order.
    #[serde(deserialize_with = "layers::one_or_many")]
    pub signing_keys: Vec<PathBuf>,
    /// PEM files with the keys that open a token's `hash`; the PEM label chooses the mode.
    #[serde(deserialize_with = "layers::one_or_many")]
    pub payload_keys: Vec<PathBuf>,
    /// Accept the key pairs that are published in the `oc.nginx` repository.
    pub allow_published_keys: bool,
    /// Most verified tokens remembered at a time.
    pub cache_entries: usize,
}

/// The users' pods.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Desktop {
    /// Headless service that the pods belong to.
    pub service: String,
    /// Namespace of that service.
    pub namespace: String,
    /// Suffix of service names in this cluster.
    pub cluster_domain: String,
    /// Networks that a pod's address must lie in.
    pub cidrs: Vec<IpNet>,
    /// Ports of a pod's services, by the name that rows use.
    pub ports: BTreeMap<String, u16>,
}

impl Desktop {
    /// The domain that holds every pod's name: `desktop.<namespace>.svc.cluster.local`.
    #[must_use]
    pub fn domain(&self) -> String {
        format!("{}.{}.{}", self.service, self.namespace, self.cluster_domain)
    }
}

/// A fixed service behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Host name or address. A name without a dot is looked up in the search domains.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Name resolution.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Name servers as `address` or `address:port`; none means the system's.
    #[serde(deserialize_with = "layers::one_or_many")]
    pub servers: Vec<String>,
    /// Domains for names without a dot; none means the system's.
    pub search: Vec<String>,
    /// Names answered from here, never asked: for development and tests.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// Wait for one answer of one server.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Times a question is asked before it has failed.
    pub attempts: usize,
    /// Shortest time an answer is used.
    #[serde(with = "humantime_serde")]
    pub min_ttl: Duration,
    /// Longest time an answer is used.
    #[serde(with = "humantime_serde")]
    pub max_ttl: Duration,
    /// Time for which "no such name" is remembered.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// Time an expired answer still serves while no server answers.
    #[serde(with = "humantime_serde")]
    pub stale: Duration,
}

/// One row of the route table. A row states only what differs from the defaults.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique name, seen in logs, metrics and tests.
    pub name: String,
    /// Which paths.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Where the desktop token is; none for routes that need no desktop token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenPlace>,
    /// Who answers.
    pub backend: Backend,
    /// Path sent upstream, with `{rest}` for what follows a prefix or `{name}` for a capture of a
    /// pattern. None sends the path that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<String>,
    /// What becomes of the query. A desktop token in it is never forwarded.
    #[serde(default)]
    pub query: QueryRule,
    /// Which of the named header sets applies.
    #[serde(default = "Route::default_headers")]
    pub headers: String,
    /// Whether responses may be compressed on the way to the client.
    #[serde(default = "Route::default_compress")]
    pub compress: bool,
    /// For files: the file that answers, with 200, for paths at which there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Whether WebSocket upgrades are allowed.
    #[serde(default)]
    pub websocket: bool,
    /// Sizes.
    #[serde(default)]
    pub limits: Limits,
    /// Times.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Leaves the row out: how an operator's file removes a built-in row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

impl Route {
    fn default_headers() -> String {
        "upstream".to_owned()
    }

    fn default_compress() -> bool {
        true
    }
}

/// What headers of one kind of backend look like.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderSet {
    /// The `Host` that the upstream sees.
    #[serde(default)]
    pub host: HostRule,
    /// Request headers that do not reach the upstream. The desktop token never reaches a pod,
    /// whatever stands here.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Response headers that the client gets unless the upstream sent its own.
    #[serde(default)]
    pub response: BTreeMap<String, String>,
}

/// Which paths a row takes. Judged on the normalised path, in nginx's order of choice: exact, then
/// the first pattern in file order, then the longest prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// This path only.
    Exact(String),
    /// This path and everything below it, by whole segments.
    Prefix(String),
    /// A regular expression for the whole path.
    Pattern(String),
}

/// Where a route finds the desktop token (the incumbent's four rules).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenPlace {
    /// Query argument `jwt_token`, otherwise the whole raw query.
    Query,
    /// The whole raw query, always.
    BareQuery,
    /// Header `ABCAuthorization`.
    Header,
    /// A path segment, captured by the row's pattern as `token`.
    Path,
}

/// Who answers a route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The user's pod, on a port named under `[desktop.ports]`.
    Desktop(String),
    /// The user's pod, on the port captured as `port`, which must be one of these.
    DesktopPorts(Vec<PortRange>),
    /// A service named under `[upstreams]`.
    Upstream(String),
    /// deskgate itself, with the files of this folder.
    Files(PathBuf),
    /// deskgate itself, with this text; `{node}` stands for the node's name.
    Text(String),
}

/// What becomes of a request's query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryRule {
    /// Forwarded, without the desktop token.
    #[default]
    Keep,
    /// Not forwarded.
    Drop,
}

/// The `Host` header that an upstream sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostRule {
    /// The client's, without its port, in lower case (nginx's `$host`).
    Client,
    /// The upstream's own name or address.
    #[default]
    Upstream,
}

/// Sizes of one route.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body; a larger one is answered 413.
    pub body: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: ByteSize::mib(1) }
    }
}

/// Times of one route.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Longest wait for a connection to one address of the upstream.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// Longest silence of the upstream before and within a response.
    #[serde(with = "humantime_serde")]
    pub read: Duration,
    /// Longest wait for the upstream to take the next bytes of a request.
    #[serde(with = "humantime_serde")]
    pub send: Duration,
    /// Longest silence of both sides of a tunnel.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(60),
            send: Duration::from_secs(60),
            idle: Duration::from_secs(3600),
        }
    }
}

impl Config {
    /// Merges the built-in configuration, the file if there is one, and the environment.
    ///
    /// # Errors
    /// Every fault found, each with its source, line and key.
    pub fn load(file: Option<&Path>, env: &dyn env::Environment) -> Result<Layered, Vec<Fault>> {
        layers::load(file, env)
    }

    /// The same from a text instead of a file: for the demo and for tests.
    ///
    /// # Errors
    /// Every fault found.
    pub fn from_text(name: &str, text: &str) -> Result<Layered, Vec<Fault>> {
        layers::build(Some((name, text)), &env::None)
    }
}

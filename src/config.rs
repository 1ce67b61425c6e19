//! The configuration: the file and the environment as one typed value, parsed once.
//!
//! Imports nothing of this crate. Three layers are merged, later ones winning: the built-in
//! `conf/deskgate.toml`, the operator's file, the environment (see [`env::OVERRIDES`]). What the
//! values *mean* is checked by building the rooms from them; here they only become types.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod decode;
pub mod env;
mod layers;
mod limits;
mod lint;
mod network;
mod origin;
mod ports;
mod rows;

pub use limits::{Admission, Origins, Overload, Rate};
pub use lint::warnings;
pub use network::is_mapped;
pub use origin::{Fault, Layered, Origin};
pub use ports::PortRange;
pub use rows::{
    Backend, CookieRule, HeaderSet, HostRule, Lifetime, Limits, Match, QueryRule, Refusal, Route,
    Timeouts, TokenPlace, Tunnel, WebSocket,
};

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
    /// TLS, for the HTTPS listeners.
    pub tls: Tls,
    /// The process.
    pub server: Server,
    /// Logging.
    pub log: Log,
    /// Traces of requests, for a collector.
    pub tracing: Tracing,
    /// Desktop tokens.
    pub auth: Auth,
    /// The users' pods.
    pub desktop: Desktop,
    /// How pods are found.
    pub discovery: Discovery,
    /// Named fixed services: `pyos`, `website`, ...
    pub upstreams: BTreeMap<String, Upstream>,
    /// Name resolution.
    pub dns: Dns,
    /// Sockets of tunnels.
    pub tunnel: Sockets,
    /// How much is taken on.
    pub limits: Admission,
    /// What is given up as memory runs out.
    pub overload: Overload,
    /// Which pages may open tunnels.
    pub origins: Origins,
    /// The operators' interface.
    pub admin: Admin,
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
    /// Addresses of the plain HTTP listeners. `[::]` stands for every address of both families, and for those
    /// of IPv6 alone where one of IPv4 has the same port.
    pub http: Vec<SocketAddr>,
    /// Addresses of the HTTPS listeners.
    pub https: Vec<SocketAddr>,
    /// Networks of proxies in front whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Networks of load balancers whose connections begin with a PROXY protocol header (v1 or v2).
    /// From them it is demanded; from anyone else it is not understood.
    pub proxy_protocol: Vec<IpNet>,
    /// Whether plain requests are sent to the https address of the same place, but for rows with
    /// [`Route::plain`].
    pub redirect: bool,
    /// Port of the public https address, where the client's address cannot tell it: behind a NodePort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_port: Option<u16>,
    /// `max-age` of `Strict-Transport-Security` (RFC 6797) on answers over https; 0 leaves it out.
    #[serde(with = "humantime_serde")]
    pub hsts: Duration,
    /// How long an idle client connection is kept open for another request. 0 for none; then the first is waited
    /// for as long as for its head (`header_timeout`).
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

/// TLS, for the HTTPS listeners.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates; the first one is for clients that ask for no name, or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// Protocols that are offered (ALPN), the preferred one first.
    pub alpn: Vec<Alpn>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// The same for single listeners, by their address.
    pub client_certificates_at: BTreeMap<SocketAddr, ClientCertificates>,
    /// Request header that tells header sets with [`HeaderSet::certificate`] the client's certificate.
    pub client_certificate_header: String,
    /// PEM file with the issuers of clients' certificates.
    pub client_authorities: Option<PathBuf>,
    /// Longest time for a handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
}

/// A certificate of this server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// A protocol over TLS (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Alpn {
    /// HTTP/2.
    #[serde(rename = "h2")]
    Http2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http1,
}

impl Alpn {
    /// Its registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not.
    Off,
    /// They are, and may have none.
    Optional,
    /// Without one nobody is served.
    Required,
}

/// The process.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Worker threads; 0 means one per available core.
    pub threads: usize,
    /// What `/node` answers: the Kubernetes node this instance runs on.
    pub node_name: String,
    /// How long everything is served on after SIGTERM: load balancers learn late.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How long what is under way may then take to end.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How long tunnels live on after SIGQUIT, when another process has taken over.
    #[serde(with = "humantime_serde")]
    pub retire: Duration,
    /// Unix socket at which a running process hands its listening sockets to a new one.
    pub handover: Option<PathBuf>,
    /// Idle connections to upstreams that are kept, per worker.
    pub upstream_keepalive: usize,
}

/// The operators' interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Addresses of its listeners.
    pub listen: Vec<SocketAddr>,
    /// File with the token that it asks for.
    pub token: Option<PathBuf>,
    /// Path of its Unix socket.
    pub socket: Option<PathBuf>,
    /// Names that it may be asked for by, besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// Sockets of tunnels, on both sides.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sockets {
    /// Bytes not yet sent that the system takes before a writer waits; 0 leaves it to the system.
    pub unsent: ByteSize,
    /// Longest time that sent bytes stay unacknowledged, or a peer takes nothing.
    #[serde(with = "humantime_serde")]
    pub user_timeout: Duration,
    /// Silence after which the system asks the peer's system whether it is alive.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
}

/// Logging.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Least severe level written for deskgate's own events.
    pub level: Level,
    /// Form of every line.
    pub format: LogFormat,
    /// What is written of clients' addresses.
    pub addresses: Addresses,
    /// How often each open tunnel is told of; 0 for never.
    #[serde(with = "humantime_serde")]
    pub tunnels: Duration,
}

/// What is written of clients' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Addresses {
    /// All.
    Full,
    /// The network: 24 bits of IPv4, 48 of IPv6.
    Truncated,
    /// A keyed hash: the same for one address as long as the process lives.
    Hashed,
}

/// Traces of requests, for a collector (OpenTelemetry).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// Where spans are sent: OTLP over HTTP. Empty sends none.
    pub endpoint: String,
    /// Part of the traces that begin here and are recorded, from 0 to 1.
    pub ratio: f64,
    /// Most spans that wait to be sent; more are dropped.
    pub queue: usize,
    /// Longest time for one message to the collector.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Tracing {
    /// Most spans that may be configured to wait.
    const MOST: usize = 65_536;

    /// The key that is wrong, and why.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let host = self.endpoint.strip_prefix("http://").map(|rest| rest.split('/').next());
        let host = host.flatten().unwrap_or_default();
        if !self.endpoint.is_empty() && (host.is_empty() || host.contains('@')) {
            let why = "expected http://host:port/path (a collector in the cluster or beside; it may \
                       send on over TLS)";
            return Some(("tracing.endpoint", why.to_owned()));
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            return Some(("tracing.ratio", "expected a number from 0 to 1".to_owned()));
        }
        if !(1..=Self::MOST).contains(&self.queue) {
            return Some(("tracing.queue", format!("expected 1 to {}", Self::MOST)));
        }
        None
    }
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

/// How pods are found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// Who is asked.
    pub mode: DiscoveryMode,
    /// The headless service of all desktops, where it is not called as the pods' subdomain
    /// ([`Desktop::service`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What serves where the API forbids to list pods, or was never reached since the start.
    pub fallback: Fallback,
    /// What becomes of a token of which nobody knows whose address it held when it was issued.
    pub ambiguous: Ambiguous,
    /// Longest wait for a pod that is not ready.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Most that pyos's clock may be away from this one.
    #[serde(with = "humantime_serde")]
    pub skew: Duration,
    /// Host of the Kubernetes API.
    pub api_host: String,
    /// Its port.
    pub api_port: u16,
    /// File with the service account's token.
    pub token: PathBuf,
    /// File with the API's issuer; empty means plain HTTP, for development.
    pub authority: PathBuf,
    /// For `static`: the desktops' names and addresses.
    pub pods: BTreeMap<String, IpAddr>,
}

/// Who is asked for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiscoveryMode {
    /// Kubernetes inside a cluster, DNS elsewhere.
    Auto,
    /// The EndpointSlices of the desktops' service.
    Kubernetes,
    /// The name service.
    Dns,
    /// A table of the configuration.
    Static,
}

/// What serves where the API forbids to list pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// The name service, as with the incumbents.
    Dns,
    /// Nothing.
    None,
}

/// What becomes of a token of which nobody knows whose address it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ambiguous {
    /// It is refused like an expired one; pyos gives another.
    Refuse,
    /// It is believed.
    Allow,
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
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
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

impl Config {
    /// Keys that differ in the new configuration and take effect only when the process starts.
    #[must_use]
    pub fn fixed_at_start(&self, new: &Self) -> Vec<&'static str> {
        [
            ("listen.http", self.listen.http != new.listen.http),
            ("listen.https", self.listen.https != new.listen.https),
            ("admin", self.admin != new.admin),
            ("desktop.service", self.desktop.service != new.desktop.service),
            ("desktop.namespace", self.desktop.namespace != new.desktop.namespace),
            ("desktop.cluster_domain", self.desktop.cluster_domain != new.desktop.cluster_domain),
            ("server.linger", self.server.linger != new.server.linger),
            ("server.drain", self.server.drain != new.server.drain),
            ("server.retire", self.server.retire != new.server.retire),
            ("server.handover", self.server.handover != new.server.handover),
            ("discovery", self.discovery != new.discovery),
            ("tls.alpn", self.tls.alpn != new.tls.alpn),
            (
                "tls.client_certificates",
                self.tls.client_certificates != new.tls.client_certificates
                    || self.tls.client_certificates_at != new.tls.client_certificates_at
                    || self.tls.client_authorities != new.tls.client_authorities,
            ),
            ("tls.handshake_timeout", self.tls.handshake_timeout != new.tls.handshake_timeout),
            ("server.threads", self.server.threads != new.server.threads),
            (
                "server.upstream_keepalive",
                self.server.upstream_keepalive != new.server.upstream_keepalive,
            ),
            ("log.tunnels", self.log.tunnels != new.log.tunnels),
            ("log.format", self.log.format != new.log.format),
            ("log.addresses", self.log.addresses != new.log.addresses),
            ("tracing", self.tracing != new.tracing),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    /// Takes over from the configuration in use what [`fixed_at_start`](Self::fixed_at_start) compares, so that
    /// this one says what is.
    pub fn keep_fixed(&mut self, old: &Self) {
        self.listen.http.clone_from(&old.listen.http);
        self.listen.https.clone_from(&old.listen.https);
        self.admin = old.admin.clone();
        self.desktop.service.clone_from(&old.desktop.service);
        self.desktop.namespace.clone_from(&old.desktop.namespace);
        self.desktop.cluster_domain.clone_from(&old.desktop.cluster_domain);
        let node_name = std::mem::take(&mut self.server.node_name);
        self.server = Server { node_name, ..old.server.clone() };
        self.discovery = old.discovery.clone();
        self.tls.alpn = old.tls.alpn.clone();
        self.tls.client_certificates = old.tls.client_certificates;
        self.tls.client_certificates_at = old.tls.client_certificates_at.clone();
        self.tls.client_authorities = old.tls.client_authorities.clone();
        self.tls.handshake_timeout = old.tls.handshake_timeout;
        self.log.tunnels = old.log.tunnels;
        self.log.format = old.log.format;
        self.log.addresses = old.log.addresses;
        self.tracing = old.tracing.clone();
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fixed_at_the_start_is_kept_whole_and_the_rest_is_not() {
        let parse = |text| Config::from_text("test", text).unwrap().config;
        let old = parse("");
        let mut new = parse(
            "[listen]\nhttp = [\"127.0.0.1:1\"]\nhttps = [\"127.0.0.1:2\"]\nredirect = true\n\
             [server]\nlinger = \"1s\"\nnode_name = \"n\"\nthreads = 7\n\
             [log]\nformat = \"combined\"\nlevel = \"warn\"\n[tls]\nhandshake_timeout = \"1s\"\n\
             [discovery]\nmode = \"dns\"\n[desktop]\nservice = \"x\"\n",
        );
        assert_eq!(old.fixed_at_start(&new).len(), 8);
        new.keep_fixed(&old);
        assert!(old.fixed_at_start(&new).is_empty());
        assert!(new.listen.redirect && new.server.node_name == "n");
        assert_ne!(new.log.level, old.log.level);
    }
}

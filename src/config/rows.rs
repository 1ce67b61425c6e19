//! The rows of the route table and the header sets they choose from, as typed values.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PortRange;

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
    /// What becomes of cookies, the browser's and those that the backend sets. None: none to and from
    /// desktops, all others pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookies: Option<CookieRule>,
    /// Whether responses may be compressed on the way to the client.
    #[serde(default = "Route::default_compress")]
    pub compress: bool,
    /// For files: the file that answers, with 200, for paths at which there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Whether WebSocket upgrades are allowed, or asked for.
    #[serde(default)]
    pub websocket: WebSocket,
    /// Tunnels, where upgrades are allowed.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// Sizes.
    #[serde(default)]
    pub limits: Limits,
    /// Times.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Whether plain requests are served where the others are sent to https (`listen.redirect`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
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
    /// Whether the upstream is told the client's certificate (`tls.client_certificate_header`).
    #[serde(default)]
    pub certificate: bool,
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
    /// deskgate itself: moves the deadline of the tunnels to the token's desktop.
    Renew,
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

/// What becomes of cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CookieRule {
    /// They pass, both ways.
    Pass,
    /// They stay where they are: a cookie of a pod would be one of the whole site, and a cookie of the
    /// site is none of the pod's business.
    Strip,
}

/// Which requests a row takes: `false`, `true` or `"only"` in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebSocket {
    /// An upgrade is ignored.
    #[default]
    Never,
    /// Upgrades and plain requests.
    Allowed,
    /// Upgrades; a plain request is refused (426).
    Only,
}

impl WebSocket {
    /// Whether an upgrade is taken.
    #[must_use]
    pub fn is_taken(self) -> bool {
        self != Self::Never
    }
}

impl Serialize for WebSocket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never => serializer.serialize_bool(false),
            Self::Allowed => serializer.serialize_bool(true),
            Self::Only => serializer.serialize_str("only"),
        }
    }
}

impl<'de> Deserialize<'de> for WebSocket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "expected true, false or \"only\"";
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected true, false or \"only\"")]
        enum Raw {
            Allowed(bool),
            Word(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Allowed(true) => Ok(Self::Allowed),
            Raw::Allowed(false) => Ok(Self::Never),
            Raw::Word(word) if word == "only" => Ok(Self::Only),
            Raw::Word(_) => Err(de::Error::custom(EXPECTED)),
        }
    }
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

/// Tunnels of one route.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    /// Silence of a peer after which it is asked whether it is alive (a WebSocket ping); after two
    /// unanswered pings its tunnel ends. 0 asks never.
    #[serde(with = "humantime_serde")]
    pub ping: Duration,
    /// Whether a tunnel outlives its token.
    pub lifetime: Lifetime,
    /// Time after the token's expiry at which a tunnel of lifetime `token` ends, unless renewed.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How an upgrade is refused.
    pub refusal: Refusal,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(25),
            lifetime: Lifetime::Open,
            grace: Duration::from_secs(60),
            refusal: Refusal::Http,
        }
    }
}

/// How long a tunnel may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// Until one of its ends closes it, as with the incumbents.
    Open,
    /// As long as a token for its desktop is valid.
    Token,
}

/// How an upgrade is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    /// With an HTTP status, which a browser does not show to the page.
    Http,
    /// For browsers: accepted, and closed with a code that says why.
    Close,
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

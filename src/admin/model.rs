//! What the interface says and is told, as values.

use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use crate::telemetry::metrics::Series;

/// Most entries of each list of an [`Overview`].
const MAX_LIST: usize = 500;

/// Most reloads that are remembered.
const MAX_RELOADS: usize = 50;

/// Most faults of a reload that are told.
pub(super) const MAX_FAULTS: usize = 100;

/// The state of the program, for the page and for `deskgate top`. Times are seconds since 1970,
/// ages and durations seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// When this was.
    pub time: f64,
    /// What runs.
    pub build: Build,
    /// Time since the start.
    pub uptime: f64,
    /// What is missing to serve.
    pub missing: Vec<String>,
    /// Whether the process opens no tunnel any more.
    pub draining: bool,
    /// Level of the logs.
    pub log_level: LogLevel,
    /// Requests and tunnels under way.
    pub in_flight: u64,
    /// Requests and errors over time.
    pub series: Series,
    /// Tokens that were accepted.
    pub tokens_accepted: u64,
    /// Requests whose token was refused, by reason.
    pub auth_failures: Vec<Count>,
    /// Number of open tunnels.
    pub tunnels_open: u64,
    /// Open tunnels; if there are too many, those that carried most.
    pub tunnels: Vec<Tunnel>,
    /// Number of known desktops.
    pub desktops_known: u64,
    /// Desktops, the ones that are not ready first.
    pub desktops: Vec<Desktop>,
    /// TLS certificates.
    pub certificates: Vec<Certificate>,
    /// Keys of tokens.
    pub keys: Vec<Key>,
    /// Reloads, the latest first.
    pub reloads: Vec<Reload>,
    /// Discovery of pods, if it is used.
    pub discovery: Option<Discovery>,
}

impl Overview {
    /// Cuts every list to what is sent.
    pub(super) fn bounded(mut self) -> Self {
        self.missing.truncate(MAX_LIST);
        self.auth_failures.truncate(MAX_LIST);
        if self.tunnels.len() > MAX_LIST {
            self.tunnels.sort_by_key(|tunnel| std::cmp::Reverse(tunnel.bytes()));
            self.tunnels.truncate(MAX_LIST);
        }
        self.desktops.sort_by_key(|desktop| desktop.ready);
        self.desktops.truncate(MAX_LIST);
        self.certificates.truncate(MAX_LIST);
        self.keys.truncate(MAX_LIST);
        self.reloads.truncate(MAX_RELOADS);
        self.reloads.iter_mut().for_each(|reload| reload.faults.truncate(MAX_FAULTS));
        self
    }
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Version of the program.
    pub version: String,
    /// Revision of its source, if known.
    pub revision: String,
    /// Name of the node or pod that it runs on.
    pub node: String,
}

/// How often something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Fixed word for it.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// An open tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its number, in order of opening.
    pub id: u64,
    /// Name of the route.
    pub route: String,
    /// Fingerprint of the token.
    pub token: Option<String>,
    /// The pod, as operators know it.
    #[serde(serialize_with = "label")]
    pub pod: String,
    /// Address of the client.
    pub client: Option<IpAddr>,
    /// Time since it was opened.
    pub age: f64,
    /// Bytes carried from the client to the pod.
    pub to_pod: u64,
    /// Bytes carried from the pod to the client.
    pub to_client: u64,
    /// Latest time from a ping to the client's pong.
    pub rtt: Option<f64>,
    /// Time since the client last sent something.
    pub last_input: Option<f64>,
    /// Time until the token's end; negative after it.
    pub expires_in: Option<f64>,
    /// Reason of the end that it was told to come to.
    pub closing: Option<String>,
}

impl Tunnel {
    /// Bytes carried both ways.
    pub(super) fn bytes(&self) -> u64 {
        self.to_pod.saturating_add(self.to_client)
    }
}

/// The address of a pod is nobody's business; where one is given for a label, it is not sent.
fn label<S: Serializer>(label: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let is_address = label.parse::<IpAddr>().is_ok();
    serializer.serialize_str(if is_address { "unnamed" } else { label })
}

/// A desktop that discovery knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Desktop {
    /// The pod, as operators know it.
    #[serde(serialize_with = "label")]
    pub pod: String,
    /// Whether it can be connected to.
    pub ready: bool,
    /// Word for the state it is in.
    pub state: String,
    /// Time since it has been in this state.
    pub age: Option<f64>,
    /// Open tunnels to it.
    pub tunnels: u64,
}

/// A TLS certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The names it is for.
    pub name: String,
    /// Begin of its validity.
    pub not_before: f64,
    /// End of its validity.
    pub not_after: f64,
}

/// A key of tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// First digits of the public key's digest.
    pub key: String,
    /// What it is for: `signing` or `payload`.
    pub kind: String,
    /// Size in bits.
    pub bits: u32,
    /// When it was first loaded by this process.
    pub loaded: f64,
    /// Tokens that it has verified or opened.
    pub verified: u64,
}

/// A reload of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// When it was.
    pub time: f64,
    /// Whether the new configuration was taken into use.
    pub taken: bool,
    /// What asked for it: `file`, `signal` or `operator`.
    pub cause: String,
    /// Why it was refused.
    pub faults: Vec<String>,
}

/// How current the knowledge of pods is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Discovery {
    /// Word for the state it is in.
    pub state: String,
    /// Whether that is as it should be.
    pub healthy: bool,
    /// Time since the last word from the API server.
    pub age: Option<f64>,
}

/// An effective value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Its value, or a word in place of a secret.
    pub value: String,
    /// Where it came from.
    pub origin: String,
}

/// What became of a request to close a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It was told to end.
    Told,
    /// It was told before.
    Already,
    /// There is no such tunnel.
    Unknown,
}

/// What is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Revocation {
    /// The token with this fingerprint: 12 hexadecimal digits.
    Token(String),
    /// Every token of this pod, by its label.
    Pod(String),
    /// Every token of every pod; must be true.
    Everything(bool),
}

impl Revocation {
    /// Whether it could name something.
    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::Token(digits) => {
                digits.len() == 12 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }
            Self::Pod(label) => (1..=253).contains(&label.chars().count()),
            Self::Everything(really) => *really,
        }
    }
}

/// Level of the logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what needs somebody.
    Error,
    /// And what may soon.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how.
    Debug,
}

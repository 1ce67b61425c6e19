//! How much is taken on: limits on connections, requests and tunnels, overload, and pages' origins.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Limits on clients. 0 means no limit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Most connections of clients, tunnels included.
    pub connections: usize,
    /// The same for each listener.
    pub connections_per_listener: usize,
    /// The same for each client address; an IPv6 /64 is one address.
    pub connections_per_address: usize,
    /// Requests of one client address.
    pub requests_per_address: Rate,
    /// Requests with one desktop token.
    pub requests_per_token: Rate,
    /// Tunnels opened with one desktop token.
    pub new_tunnels: Rate,
    /// Most open tunnels of one desktop token.
    pub tunnels_per_token: usize,
    /// Most open tunnels to one pod.
    pub tunnels_per_pod: usize,
    /// Refused tokens of one client address. Within the burst they are answered at once; for as many
    /// again they are answered late, then with 429.
    pub failures: Rate,
    /// The longest that the answer to a refused token is held back.
    #[serde(with = "humantime_serde")]
    pub failure_delay: Duration,
    /// Least bytes per second of a request's body, once the client was waited for as long as
    /// `listen.read_timeout`.
    pub body_rate: ByteSize,
    /// Networks whose addresses are not counted one by one. Trusted proxies and load balancers with
    /// the PROXY protocol never are.
    pub exempt: Vec<IpNet>,
}

/// So many on average, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// On average; 0 for no limit.
    pub per_minute: u32,
    /// At once, after a pause.
    pub burst: u32,
}

/// What is given up as memory runs out, each from a share of the limit in percent; 0 for never.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Overload {
    /// Folder of the cgroup that limits the memory; empty means this process's own.
    pub cgroup: PathBuf,
    /// No tunnel is opened.
    pub no_tunnels: u8,
    /// Tunnels read in small pieces.
    pub small_buffers: u8,
    /// No connection is kept for another request.
    pub no_keepalive: u8,
    /// No request is served but fixed texts, such as `/healthz`.
    pub no_requests: u8,
}

/// Which pages may open tunnels, or lead to a page of a desktop.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Origins {
    /// Whether the `Origin` of an upgrade that carries a desktop token is judged.
    pub check: bool,
    /// Whether pages of any origin may lead a browser to a page of a desktop.
    pub links: bool,
    /// Origins that are allowed besides the one that the client asked for: `https://host[:port]`.
    pub allow: Vec<String>,
    /// Whether an upgrade without an `Origin` is allowed: it comes from no browser.
    pub absent: bool,
}

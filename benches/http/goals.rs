//! What was hoped for, by work.

/// A bound on one figure of deskgate.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) run: Kind,
    /// The name of a work of HTTP, or a load of the tunnels.
    pub(crate) load: &'static str,
    pub(crate) measure: &'static str,
    pub(crate) against: Against,
    pub(crate) most: f64,
}

/// Which bench measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Tunnels,
}

/// What the bound is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// The same figure of this candidate.
    Candidate(&'static str),
    /// Nothing: it is in this unit.
    Unit(&'static str),
}

const REQUEST: &str = "CPU per request";
const CONNECTION: &str = "CPU per connection";
const COLD: &str = "CPU per new token, all in";
const WAIT: &str = "longest wait beside new tokens";
const MESSAGE: &str = "CPU per message";
const P99: &str = "p99";
const KEYS: &str = "p99, beside the picture";
const BULK: &str = "CPU per GB";
const LOAD: &str = "CPU per second of load";
const TUNNEL: &str = "PSS per tunnel";

const NGINX: Against = Against::Candidate("nginx");
const BUFFERS: Against = Against::Candidate("nginx-buffers");
const INCUMBENT: Against = Against::Candidate("nginx-incumbent");
const HAPROXY: Against = Against::Candidate("haproxy");
const NGINX_64K: Against = Against::Candidate("nginx-64k");
const MICROS: Against = Against::Unit(" µs");
const KIB: Against = Against::Unit(" KiB");
const MIB: Against = Against::Unit(" MiB");
const MILLIS: Against = Against::Unit(" ms");

const fn http(load: &'static str, measure: &'static str, against: Against, most: f64) -> Goal {
    Goal { run: Kind::Http, load, measure, against, most }
}

const fn tunnel(load: &'static str, measure: &'static str, against: Against, most: f64) -> Goal {
    Goal { run: Kind::Tunnels, load, measure, against, most }
}

pub(crate) const GOALS: &[Goal] = &[
    http("api-1", REQUEST, INCUMBENT, 0.35),
    http("api-1", REQUEST, NGINX, 1.0),
    http("api-2", REQUEST, INCUMBENT, 0.35),
    http("api-2", REQUEST, NGINX, 1.0),
    http("pod-1", REQUEST, INCUMBENT, 0.35),
    http("pod-1", REQUEST, NGINX, 1.0),
    http("token", "CPU beyond a route without", MICROS, 3.0),
    http("cold-1024-a", COLD, MICROS, 300.0),
    http("cold-1024-b", COLD, MICROS, 300.0),
    http("cold-2048-a", COLD, MICROS, 350.0),
    http("cold-2048-b", COLD, MICROS, 350.0),
    http("cold-4096-a", COLD, MICROS, 1600.0),
    http("cold-4096-b", COLD, MICROS, 1600.0),
    http("cold-2048-b", WAIT, MICROS, 1000.0),
    http("cold-4096-b", WAIT, MICROS, 1000.0),
    http("bodies", REQUEST, BUFFERS, 0.7),
    http("bodies", REQUEST, NGINX, 0.7),
    http("connections", REQUEST, NGINX, 1.2),
    http("tls-api", REQUEST, NGINX, 1.1),
    http("tls-full", CONNECTION, NGINX, 1.0),
    http("tls-resumed", CONNECTION, NGINX, 1.0),
    http("static-1k", REQUEST, NGINX, 0.85),
    http("static-20k", REQUEST, NGINX, 0.95),
    http("static-200k", REQUEST, NGINX, 1.05),
    http("static-tls-20k", REQUEST, NGINX, 0.9),
    http("static-tls-200k", REQUEST, NGINX, 0.55),
    http("static-compressed", REQUEST, NGINX, 0.3),
    http("idle", "PSS per connection", KIB, 20.0),
    http("upload", BULK, NGINX, 1.0),
    http("upload", "most RSS beyond the start", MIB, 16.0),
    http("start", "start to first answer", MILLIS, 100.0),
    http("start", "program", MIB, 25.0),
    http("start", "RSS", MIB, 15.0),
    tunnel("bulk, 1 stream, plain", BULK, NGINX, 0.4),
    tunnel("bulk, 1 stream, plain", BULK, HAPROXY, 0.8),
    tunnel("bulk, 64 streams, plain", BULK, NGINX, 0.4),
    tunnel("bulk, 64 streams, plain", BULK, HAPROXY, 0.8),
    tunnel("bulk, 1 stream, TLS", BULK, NGINX, 0.27),
    tunnel("bulk, 1 stream, TLS", BULK, NGINX_64K, 0.55),
    tunnel("bulk, 1 stream, TLS", BULK, HAPROXY, 0.5),
    tunnel("bulk, 64 streams, TLS", BULK, NGINX, 0.27),
    tunnel("bulk, 64 streams, TLS", BULK, NGINX_64K, 0.55),
    tunnel("bulk, 64 streams, TLS", BULK, HAPROXY, 0.5),
    tunnel("echo, 1 connection, plain", MESSAGE, NGINX, 1.0),
    tunnel("echo, 1 connection, plain", P99, NGINX, 1.0),
    tunnel("echo, 16 connections, plain", MESSAGE, NGINX, 1.0),
    tunnel("echo, 16 connections, plain", P99, NGINX, 1.0),
    tunnel("echo, 1 connection, TLS", MESSAGE, NGINX, 1.0),
    tunnel("echo, 1 connection, TLS", P99, NGINX, 1.0),
    tunnel("echo, 16 connections, TLS", MESSAGE, NGINX, 1.0),
    tunnel("echo, 16 connections, TLS", P99, NGINX, 1.0),
    tunnel("64 desktops, plain", LOAD, NGINX, 0.45),
    tunnel("64 desktops, TLS", LOAD, NGINX, 0.4),
    tunnel("keystrokes, plain", KEYS, NGINX, 1.0),
    tunnel("keystrokes, TLS", KEYS, NGINX, 1.0),
    tunnel("5000 idle tunnels, plain", TUNNEL, KIB, 3.0),
    tunnel("5000 idle tunnels, TLS", TUNNEL, KIB, 15.0),
];

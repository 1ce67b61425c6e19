//! Behaviour of the real binary over real sockets.
//!
//! Every test starts `deskgate` with a configuration of its own, speaks to it as clients do and
//! looks at what the client got, what the upstream got and what was logged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a test may end at the first surprise, and has no other clock than the system's"
)]

mod support;

/// What operators see and can do.
mod admin;
/// Which room of the source may import which.
mod architecture;
/// Which token opens which pod, and the one answer to all others.
mod auth;
/// Request and response bodies, upstream connections, broken upstreams.
mod bodies;
/// Certificates of clients: who is asked, and who is told.
mod certificates;
/// Faults around the gateway, and what users see of them.
mod chaos;
/// Tokens that cost a lot to open.
mod cold;
/// Every command of the command line.
mod commands;
/// The contract with what stands around a gateway, one fact a row.
mod conformance;
/// What happens before a request is one: PROXY headers, limits of a head.
mod connection;
/// The picture of the pods, through everything an API server can do.
mod discovery;
/// What `deskgate doctor` finds in good and broken worlds.
mod doctor;
/// The README against the program.
mod documents;
/// Real desktops and a real browser.
#[allow(unreachable_pub, reason = "written to stand alone as well")]
mod e2e;
/// What of a request's head reaches an upstream, what of a response's reaches the client.
mod headers;
/// Pods that answer with whatever harms.
mod hostile_pod;
/// HTTP/2 by its frames.
mod http2;
/// Bodies at their true sizes.
mod large;
/// Start, drain and end of the process.
mod lifecycle;
/// What is taken on, and how the rest is refused.
mod limits;
/// Access log lines, and that no token is in them or anywhere else.
mod logs;
/// The operators' interface against its own description.
mod openapi;
/// Which pod a token opens when addresses change hands.
mod pods;
/// The way from plain HTTP to HTTPS.
mod redirects;
/// New configuration, keys and levels while serving.
mod reload;
/// Redirects, compression, files.
mod responses;
/// A rolling update behind a load balancer.
mod rollout;
/// New keys beside old ones, and which of them is still in use.
mod rotation;
/// Which upstream gets a path, and what it gets.
mod routing;
/// What a scanner finds of TLS.
mod scan;
/// Requests that two servers could read in two ways.
mod smuggling;
/// A long day with everything at once.
mod soak;
/// A hundred reloads under load.
mod swaps;
/// HTTPS: certificates, HTTP/2, tunnels over TLS.
mod tls;
/// Spans of requests for a collector.
mod traces;
/// Request ids and traces: whose count, and who gets them.
mod trails;
/// Tunnels through everything that happens to them.
mod tunnels;
/// Tunnels.
mod websocket;

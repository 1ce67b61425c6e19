//! deskgate: the edge of per-user desktops.
//!
//! A request for a desktop brings a token that names one pod; deskgate verifies the token, finds
//! the pod and relays HTTP or WebSocket to it. Beside that it routes the API, the speed test and
//! the web client. A request in eight hops:
//!
//! 1. a worker of [`server`] accepts and reads a head, which [`http1`] parses and judges;
//! 2. [`proxy`] opens the access log record and asks, in this order:
//! 3. [`route`]: which row takes the normalised path?
//! 4. [`auth`]: which desktop does the token open? (locate, verify, open, confine)
//! 5. [`upstream`]: which addresses does it have?
//! 6. [`proxy`] rewrites the head by its header rules;
//! 7. [`upstream`] connects, or has a connection kept from before;
//! 8. [`tunnel`] relays the bytes of an upgrade, [`proxy`] the bodies of plain HTTP.
//!
//! An error at any hop goes to [`respond`], the one room that chooses a status.
//!
//! [`config`], [`route`] and [`auth`] are plain synchronous Rust without sockets, files or clocks:
//! every decision about security is made there. [`server`] composes the rooms.
#![deny(missing_docs)]

pub mod admin;
pub mod admission;
pub mod auth;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod discovery;
pub mod doctor;
pub mod error;
pub mod files;
pub mod http1;
pub mod proxy;
mod redact;
pub mod respond;
pub mod route;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod tls;
pub mod transport;
pub mod tunnel;
pub mod upstream;

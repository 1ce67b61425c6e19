//! The operator's side: probes, metrics, and an HTTP interface with a page to look at.
//!
//! It knows nothing of the rest of the program but [`Operations`], which whoever composes the
//! program implements. Probes and metrics are open; everything else asks for a token, unless the
//! request came over the socket file or to a loopback address without a token (see [`Listeners`]).

use std::future::Future;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry::metrics::Metrics;

mod answer;
mod connection;
mod guard;
mod listeners;
mod model;
mod page;
mod routes;

pub use connection::serve;
pub use listeners::{Listeners, SocketError, Token, TokenError};
pub use model::{
    Build, Certificate, Closing, Count, Desktop, Discovery, Key, LogLevel, Overview, Reload,
    Revocation, Setting, Tunnel,
};

/// What can be asked of the running program. No answer may hold a token, a key or a pod's address.
pub trait Operations: Send + Sync + 'static {
    /// Whether the process can still do its work; if not, it is to be restarted.
    fn is_alive(&self) -> bool {
        true
    }

    /// Names of what is missing to serve; empty if the process is ready.
    fn missing(&self) -> Vec<String>;

    /// Everything that is counted, as [`Metrics::exposition`] writes it.
    fn metrics(&self) -> String;

    /// Everything that the page shows. Lists are cut to what is sent.
    fn overview(&self) -> Overview;

    /// All open tunnels.
    fn tunnels(&self) -> Vec<Tunnel>;

    /// One open tunnel.
    fn tunnel(&self, id: u64) -> Option<Tunnel>;

    /// Tells a tunnel to end.
    fn close(&self, id: u64) -> Closing;

    /// Withdraws a token or all tokens of a pod; returns how many tunnels were told to end.
    fn revoke(&self, what: &Revocation) -> usize;

    /// From now on the process is not ready and opens no tunnel.
    fn drain(&self);

    /// The level of the logs.
    fn level(&self) -> LogLevel;

    /// Changes the level of the logs.
    fn set_level(&self, level: LogLevel);

    /// Every effective value of the configuration and where it came from, without secrets.
    fn config(&self) -> Vec<Setting>;

    /// Reads the configuration anew.
    ///
    /// # Errors
    /// The faults for which it was refused.
    fn reload(&self) -> impl Future<Output = Result<(), Vec<String>>> + Send;
}

/// Samples the counters once a second, for ever.
pub async fn sample(metrics: Metrics) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        metrics.sample();
    }
}

#[cfg(test)]
mod tests;

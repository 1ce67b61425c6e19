//! One line per request, written once, whatever becomes of the request.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tracing::info;

use super::metrics::Metrics;
use super::privacy;
use super::traces::{self, Place};
use crate::auth::Fingerprint;

/// nginx's code for "the client left before there was a response".
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Counts the requests and tunnels under way.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    count: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    leaving: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
    metrics: Metrics,
}

impl InFlight {
    /// Counts one more until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Entered {
        self.count.fetch_add(1, Ordering::Relaxed);
        Entered { count: Arc::clone(&self.count), metrics: self.metrics.clone() }
    }

    /// Counts one more connection until the guard is dropped.
    #[must_use]
    pub fn connect(&self) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(&self.connections))
    }

    /// How many clients are connected, tunnels not counted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Where requests are counted when they have ended.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// From now on the process is not ready, and no connection is kept for another request.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// From now on no tunnel is opened.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether only what is under way is served.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// One connection of a client.
#[derive(Debug)]
pub struct Connected(Arc<AtomicUsize>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request or tunnel under way.
#[derive(Debug)]
pub struct Entered {
    count: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one request was and what became of it. The line is written when the record is dropped, so
/// a request whose task is cancelled has its line too.
#[derive(Debug)]
pub struct Record {
    /// Start of the request.
    pub start: Instant,
    /// Its id, which the client and the upstream have, too.
    pub id: String,
    /// Its place in a distributed trace, if it has one.
    pub trace: Option<Place>,
    /// Address of the client, by the rule for trusted proxies.
    pub client: Option<IpAddr>,
    /// Method.
    pub method: String,
    /// Path and query, without tokens.
    pub target: String,
    /// Protocol version.
    pub version: &'static str,
    /// `Host` that the client asked for.
    pub host: String,
    /// `Referer`, without tokens.
    pub referer: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// Name of the route, empty if none was found.
    pub route: String,
    /// Fingerprint of the desktop token, if the route has one.
    pub token: Option<Fingerprint>,
    /// Status sent to the client; 499 if it left before there was one (nginx's code for that).
    pub status: u16,
    /// Bytes of the request's body, or from the client through the tunnel.
    pub received: u64,
    /// Bytes of the response's body, or to the client through the tunnel.
    pub sent: u64,
    /// Fixed name of the failure, or of the end of a tunnel.
    pub reason: &'static str,
    /// Counts the request as under way until its line is written.
    pub under_way: Entered,
}

impl Record {
    /// Notes that its token was accepted.
    pub fn accepted(&self) {
        self.under_way.metrics.token_accepted();
    }

    /// The record of a request that begins now and of which nothing is known yet.
    #[must_use]
    pub fn empty(client: Option<IpAddr>, id: String, under_way: Entered) -> Self {
        Self {
            start: Instant::now(),
            id,
            trace: None,
            client,
            method: String::new(),
            target: String::new(),
            version: "",
            host: String::new(),
            referer: String::new(),
            user_agent: String::new(),
            route: String::new(),
            token: None,
            status: CLIENT_CLOSED_REQUEST,
            received: 0,
            sent: 0,
            reason: "",
            under_way,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let client = self.client.map(privacy::told).unwrap_or_default();
        let token = self.token.map(|fingerprint| fingerprint.to_string()).unwrap_or_default();
        let trace =
            self.trace.map(|trace| format!("{:032x}", trace.context.trace)).unwrap_or_default();
        let duration = self.start.elapsed().as_secs_f64();
        self.under_way.metrics.request(&self.route, self.status, duration, self.reason);
        traces::record(self);
        info!(
            target: "access",
            request_id = self.id,
            trace_id = trace,
            client,
            method = self.method,
            uri = self.target,
            version = self.version,
            host = self.host,
            status = self.status,
            received = self.received,
            sent = self.sent,
            duration,
            route = self.route,
            token,
            reason = self.reason,
            referer = self.referer,
            user_agent = self.user_agent,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_way_counts() {
        let in_flight = InFlight::default();
        let watcher = in_flight.clone();
        let (first, second) = (in_flight.enter(), in_flight.enter());
        assert_eq!(watcher.count(), 2);
        drop(first);
        assert_eq!(watcher.count(), 1);
        drop(second);
        assert_eq!(watcher.count(), 0);
    }
}

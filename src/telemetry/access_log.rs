//! One line per request, written once, whatever becomes of the request.

use std::borrow::Cow;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::metrics::Metrics;
use super::traces::{self, Place};
use crate::auth::Fingerprint;

/// nginx's code for "the client left before there was a response".
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Counts the requests and tunnels under way. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    count: AtomicUsize,
    connections: AtomicUsize,
    leaving: AtomicBool,
    draining: AtomicBool,
    metrics: Metrics,
}

impl InFlight {
    /// Counts one more until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Entered {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Entered(self.clone())
    }

    /// Counts one more connection until the guard is dropped.
    #[must_use]
    pub fn connect(&self) -> Connected {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self.clone())
    }

    /// How many clients are connected, tunnels not counted; a listener that still accepts counts as one.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Where requests are counted when they have ended.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// From now on the process is not ready, and no connection is kept for another request.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// From now on no tunnel is opened.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether only what is under way is served.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }
}

/// One connection of a client.
#[derive(Debug)]
pub struct Connected(InFlight);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request or tunnel under way.
#[derive(Debug)]
pub struct Entered(InFlight);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one request was and what became of it. The line is written when the record is dropped, so
/// a request whose task is cancelled has its line too.
#[derive(Debug)]
pub struct Record {
    /// Start of the request.
    pub start: Instant,
    /// Its id, which the client and the upstream have, too.
    pub id: Arc<str>,
    /// Its place in a distributed trace, if it has one.
    pub trace: Option<Place>,
    /// Address of the client, by the rule for trusted proxies.
    pub client: Option<IpAddr>,
    /// Method.
    pub method: Cow<'static, str>,
    /// Path and query, without tokens.
    pub target: Box<str>,
    /// Protocol version.
    pub version: &'static str,
    /// `Host` that the client asked for.
    pub host: Box<str>,
    /// `Referer`, without tokens.
    pub referer: Box<str>,
    /// `User-Agent`.
    pub user_agent: Box<str>,
    /// Name of the route, if one was found.
    pub route: Option<Arc<str>>,
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
    /// Whether a tunnel was opened: its end is no failure of its request, whatever its name.
    pub tunnel: bool,
    /// Whether its token was accepted, and is not counted yet.
    accepted: bool,
    /// Counts the request as under way until its line is written.
    pub under_way: Entered,
}

impl Record {
    /// Notes that its token was accepted. It is counted at the end: until its pod is found, it may turn out
    /// that it was withdrawn, or expire.
    pub fn accepted(&mut self) {
        self.accepted = true;
    }

    /// Counts its token now, if it was accepted: a tunnel's end may be days away.
    pub fn count_token(&mut self) {
        if mem::take(&mut self.accepted) {
            self.under_way.0.metrics().token_accepted();
        }
    }

    /// Name of the route; empty if none was found.
    #[must_use]
    pub fn route(&self) -> &str {
        self.route.as_deref().unwrap_or_default()
    }

    /// The record of a request of which nothing is known but when it began.
    #[must_use]
    pub fn empty(client: Option<IpAddr>, id: Arc<str>, under_way: Entered, start: Instant) -> Self {
        Self {
            start,
            id,
            trace: None,
            client,
            method: Cow::Borrowed(""),
            target: Box::default(),
            version: "",
            host: Box::default(),
            referer: Box::default(),
            user_agent: Box::default(),
            route: None,
            token: None,
            status: CLIENT_CLOSED_REQUEST,
            received: 0,
            sent: 0,
            reason: "",
            tunnel: false,
            accepted: false,
            under_way,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.start.elapsed();
        let failure = if self.tunnel { "" } else { self.reason };
        if failure.is_empty() || !self.under_way.0.metrics().refuses_token(failure) {
            self.count_token();
        }
        let metrics = self.under_way.0.metrics();
        metrics.request(self.route(), self.status, duration.as_secs_f64(), failure);
        traces::record(self, duration);
        super::write(self, duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Kind;

    #[test]
    fn the_end_of_a_tunnel_is_no_failure_of_its_request() {
        let in_flight = InFlight::default();
        in_flight.metrics().add_reasons(Kind::Auth, ["revoked"]);
        for tunnel in [true, false] {
            let mut record = Record::empty(None, "id".into(), in_flight.enter(), Instant::now());
            (record.status, record.reason, record.tunnel) = (101, "revoked", tunnel);
            drop(record);
            let counted = [("revoked".to_owned(), u64::from(!tunnel))];
            assert_eq!(in_flight.metrics().auth_failures(), counted);
        }
    }

    #[test]
    fn a_token_is_counted_once_as_what_became_of_it() {
        let in_flight = InFlight::default();
        let metrics = in_flight.metrics().clone();
        metrics.add_reasons(Kind::Auth, ["revoked"]);
        metrics.add_reasons(Kind::Upstream, ["connect_timeout"]);
        // Refused after it was accepted; a pod that is not there; a tunnel that was ended; nothing wrong.
        let cases = [
            ("revoked", false, 0),
            ("connect_timeout", false, 1),
            ("revoked", true, 2),
            ("", false, 3),
        ];
        for (reason, tunnel, accepted) in cases {
            let mut record = Record::empty(None, "id".into(), in_flight.enter(), Instant::now());
            (record.reason, record.tunnel) = (reason, tunnel);
            record.accepted();
            drop(record);
            assert_eq!(metrics.tokens_accepted(), accepted, "{reason}");
        }
        assert_eq!(metrics.auth_failures(), [("revoked".to_owned(), 1)]);
        let mut record = Record::empty(None, "id".into(), in_flight.enter(), Instant::now());
        record.accepted();
        record.count_token();
        assert_eq!(metrics.tokens_accepted(), 4, "at once");
        drop(record);
        assert_eq!(metrics.tokens_accepted(), 4, "not again");
        drop(Record::empty(None, "id".into(), in_flight.enter(), Instant::now()));
        assert_eq!(metrics.tokens_accepted(), 4, "there was none");
    }

    #[test]
    fn a_record_is_small() {
        // A tunnel keeps it for days.
        assert!(size_of::<Record>() <= 320, "{} bytes", size_of::<Record>());
    }

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

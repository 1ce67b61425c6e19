//! Counts what happens, for Prometheus and for the dashboard.
//!
//! The hot path is [`Metrics::request`]: two look-ups in tables that are filled from the
//! configuration, and a few additions to numbers that the thread has almost for itself. What lives
//! elsewhere (open tunnels, caches) is handed in at each scrape as a [`State`]. The number of
//! series is bounded: names that no table knows are counted as `other`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

mod cells;
mod exposition;
mod process;
mod series;
mod table;

pub use exposition::{CONTENT_TYPE, Cache, Discovery, Limits, State};
pub use series::{RouteSeries, Series};

use cells::{Histogram, RouteCells, Striped};
use series::Samples;
use table::Table;

/// Most routes that are told apart; the configuration may name more over time by reloads.
const MAX_ROUTES: usize = 256;

/// Most reasons that are told apart.
const MAX_REASONS: usize = 128;

/// Name of everything that no table knows.
const OTHER: &str = "other";

/// Status of a request that became a tunnel.
const SWITCHING_PROTOCOLS: u16 = 101;

/// What a failed request's reason in the access log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request failed.
    Failure,
    /// The request failed because its token was refused.
    Auth,
    /// The request failed because of its upstream.
    Upstream,
}

/// What runs.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Version of the program.
    pub version: &'static str,
    /// Revision of its source, if known.
    pub revision: &'static str,
}

struct Reason {
    kind: Kind,
    /// Requests that failed with it.
    requests: Striped,
    /// Tries that failed with it and were made good by another one.
    tries: AtomicU64,
}

impl Reason {
    fn new(kind: Kind) -> Self {
        Self { kind, requests: Striped::default(), tries: AtomicU64::new(0) }
    }
}

struct Counts {
    build: Build,
    routes: Table<RouteCells>,
    reasons: Table<Reason>,
    tokens_accepted: Striped,
    rtt: Histogram,
    dropped_by_reload: AtomicU64,
    reloads_taken: AtomicU64,
    reloads_refused: AtomicU64,
    last_reload_refused: AtomicBool,
    /// Seconds since 1970, as the bits of a float; 0 for never.
    last_reload_success: AtomicU64,
    samples: Mutex<Samples>,
}

/// The counters. Clones are the same counters.
#[derive(Clone)]
pub struct Metrics(Arc<Counts>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Build { version: env!("CARGO_PKG_VERSION"), revision: "" })
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Counters that know no names yet.
    #[must_use]
    pub fn new(build: Build) -> Self {
        Self(Arc::new(Counts {
            build,
            routes: Table::new(MAX_ROUTES, RouteCells::default()),
            reasons: Table::new(MAX_REASONS, Reason::new(Kind::Failure)),
            tokens_accepted: Striped::default(),
            rtt: Histogram::default(),
            dropped_by_reload: AtomicU64::new(0),
            reloads_taken: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            last_reload_refused: AtomicBool::new(false),
            last_reload_success: AtomicU64::new(0),
            samples: Mutex::default(),
        }))
    }

    /// Tells these routes apart from now on. To be called at start and at each reload; routes that
    /// are gone keep their counts.
    pub fn add_routes<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.0.routes.insert(name, RouteCells::default());
        }
    }

    /// Tells these reasons apart from now on.
    pub fn add_reasons<'a>(&self, kind: Kind, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.0.reasons.insert(name, Reason::new(kind));
        }
    }

    /// Counts a request that ended. `reason` is why it failed, empty if it did not. How long a
    /// tunnel (status 101) was open is not taken for the duration of a request.
    pub fn request(&self, route: &str, status: u16, seconds: f64, reason: &str) {
        let cells = self.0.routes.get_or_other(route);
        cells.count(status, (status != SWITCHING_PROTOCOLS).then_some(seconds));
        if !reason.is_empty() {
            self.0.reasons.get_or_other(reason).requests.add(1);
        }
    }

    /// Whether this reason says that the token was refused.
    pub(super) fn refuses_token(&self, reason: &str) -> bool {
        self.0.reasons.get(reason).is_some_and(|reason| reason.kind == Kind::Auth)
    }

    /// Counts a token that was accepted. Refused ones are counted as requests with their reason.
    pub fn token_accepted(&self) {
        self.0.tokens_accepted.add(1);
    }

    /// Counts a try that failed and was made good by another, so that no request tells of it.
    pub fn upstream_retried(&self, reason: &str) {
        self.0.reasons.get_or_other(reason).tries.fetch_add(1, Relaxed);
    }

    /// Counts a tunnel that was opened.
    pub fn tunnel_opened(&self, route: &str) {
        self.0.routes.get_or_other(route).tunnels_opened.fetch_add(1, Relaxed);
    }

    /// Notes the time between a ping and its pong.
    pub fn tunnel_rtt(&self, seconds: f64) {
        self.0.rtt.observe(seconds);
    }

    /// Counts tunnels that a reload has cut. There is no code path that does; a test, or whoever
    /// adds one, has this to say so.
    pub fn tunnels_dropped_by_reload(&self, count: u64) {
        self.0.dropped_by_reload.fetch_add(count, Relaxed);
    }

    /// Counts a reload, at `now` in seconds since 1970.
    pub fn reloaded(&self, taken: bool, now: f64) {
        let count = if taken { &self.0.reloads_taken } else { &self.0.reloads_refused };
        count.fetch_add(1, Relaxed);
        self.0.last_reload_refused.store(!taken, Relaxed);
        if taken {
            self.0.last_reload_success.store(now.to_bits(), Relaxed);
        }
    }

    /// Everything in the format of OpenMetrics ([`CONTENT_TYPE`]).
    #[must_use]
    pub fn exposition(&self, state: State) -> String {
        exposition::text(self, state)
    }

    /// Notes the counters for [`series`](Self::series). To be called once a second, by one task.
    pub fn sample(&self) {
        let mut samples = self.0.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.take(&self.0.routes);
    }

    /// Requests and errors of the last ten minutes: of the `most` busiest routes, and of the rest
    /// together; each value is the sum over `step` seconds.
    #[must_use]
    pub fn series(&self, step: usize, most: usize) -> Series {
        let samples = self.0.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.series(&self.0.routes, step, most)
    }

    /// Requests that failed because their token was refused, by reason.
    #[must_use]
    pub fn auth_failures(&self) -> Vec<(String, u64)> {
        let reasons = self.0.reasons.sorted();
        let auth = reasons.into_iter().filter(|(_, reason)| reason.kind == Kind::Auth);
        auth.map(|(name, reason)| (name.to_owned(), reason.requests.sum())).collect()
    }

    /// Tokens accepted so far.
    #[must_use]
    pub fn tokens_accepted(&self) -> u64 {
        self.0.tokens_accepted.sum()
    }
}

#[cfg(test)]
mod tests;

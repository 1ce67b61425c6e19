//! How current the known pods are, for readiness, metrics and the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api::Fault;

/// How current the known pods are. `age` is the time since they were last proved to be all there
/// are: by a list, an event or a bookmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No list has been read yet.
    Unsynced,
    /// Changes are seen as they happen.
    Synced {
        /// At most a watch's length in a healthy cluster.
        age: Duration,
    },
    /// Changes are not seen; the last known pods are served.
    Degraded {
        /// What failed last.
        reason: Fault,
        /// Since the last proof.
        age: Duration,
    },
    /// The API refuses this service account. Retried; the last known pods, if any, are served.
    Forbidden {
        /// Since the last proof, if there was one.
        age: Option<Duration>,
    },
}

/// What has happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lists read.
    pub lists: u64,
    /// Watches that the server has taken.
    pub watches: u64,
    /// Events of slices.
    pub events: u64,
    /// Bookmarks.
    pub bookmarks: u64,
    /// Pods reported as gone.
    pub departed: u64,
    /// Failures of a list or a watch.
    pub faults: BTreeMap<Fault, u64>,
}

/// Everything that readiness and metrics show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How current the known pods are.
    pub condition: Condition,
    /// What failed last, even if it works again.
    pub last_fault: Option<Fault>,
    /// How many pods are listed.
    pub pods: usize,
    /// The API server's clock minus this one, as its last list said: to half a second.
    pub clock_offset_ms: Option<i64>,
    /// Since the start.
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    Failed(Fault),
}

#[derive(Debug)]
struct Inner {
    standing: Standing,
    proof: Option<Instant>,
    last_fault: Option<Fault>,
    clock_offset_ms: Option<i64>,
    counters: Counters,
}

/// Failures after which they are believed: a role that was just granted takes a moment.
const DENIALS: u32 = 2;

/// Written by the watch, read by anyone. Not on the path of requests.
#[derive(Debug)]
pub(super) struct Health {
    inner: Mutex<Inner>,
    /// Lists that failed, as long as none was answered.
    denials: AtomicU32,
}

impl Health {
    pub(super) fn new() -> Self {
        let inner = Inner {
            standing: Standing::Good,
            proof: None,
            last_fault: None,
            clock_offset_ms: None,
            counters: Counters::default(),
        };
        Self { inner: Mutex::new(inner), denials: AtomicU32::new(0) }
    }

    pub(super) fn status(&self, pods: usize, now: Instant) -> Status {
        let inner = self.inner();
        let age = inner.proof.map(|proof| now.saturating_duration_since(proof));
        let condition = match (inner.standing, age) {
            (Standing::Failed(Fault::Forbidden | Fault::Unauthorized), age) => {
                Condition::Forbidden { age }
            }
            (_, None) => Condition::Unsynced,
            (Standing::Good, Some(age)) => Condition::Synced { age },
            (Standing::Failed(reason), Some(age)) => Condition::Degraded { reason, age },
        };
        Status {
            condition,
            last_fault: inner.last_fault,
            pods,
            clock_offset_ms: inner.clock_offset_ms,
            counters: inner.counters.clone(),
        }
    }

    /// Whether the API never once let this process look, and was asked several times: it forbids it, or
    /// cannot be reached.
    pub(super) fn is_blind(&self) -> bool {
        self.denials.load(Ordering::Relaxed) >= DENIALS
    }

    /// Whether this service account was refused something that nothing has worked since.
    pub(super) fn is_refused(&self) -> bool {
        let standing = self.inner().standing;
        matches!(standing, Standing::Failed(Fault::Forbidden | Fault::Unauthorized))
    }

    /// A failure that leaves the known pods to age. Logged when it is another than before.
    pub(super) fn failed(&self, fault: Fault) {
        self.count_fault(fault);
        if self.inner().proof.is_none() {
            self.denials.fetch_add(1, Ordering::Relaxed);
        }
        let before = std::mem::replace(&mut self.inner().standing, Standing::Failed(fault));
        if before != Standing::Failed(fault) {
            tracing::warn!(reason = fault.reason(), "pods are not being watched: {fault}");
        }
    }

    /// A failure that is part of normal operation, if what follows succeeds.
    pub(super) fn count_fault(&self, fault: Fault) {
        let mut inner = self.inner();
        inner.last_fault = Some(fault);
        *inner.counters.faults.entry(fault).or_default() += 1;
    }

    /// The server does what it should.
    pub(super) fn works(&self) {
        let before = std::mem::replace(&mut self.inner().standing, Standing::Good);
        if before != Standing::Good {
            tracing::info!("pods are being watched again");
        }
    }

    /// The known pods were all there were at this moment.
    pub(super) fn proved(&self, at: Instant) {
        let mut inner = self.inner();
        inner.proof = inner.proof.max(Some(at));
        self.denials.store(0, Ordering::Relaxed);
    }

    pub(super) fn offset(&self, milliseconds: i64) {
        self.inner().clock_offset_ms = Some(milliseconds);
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Counters)) {
        add(&mut self.inner().counters);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

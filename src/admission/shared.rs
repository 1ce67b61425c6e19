//! The counts and tables, which outlive a configuration.

use std::collections::HashMap;
use std::fmt;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Limit;
use super::bucket::Buckets;
use super::pressure::Gauge;
use super::tally::Tally;

/// What outlives a configuration.
pub(super) struct Shared {
    /// Keyed at random, so that nobody can choose keys that collide.
    pub(super) hasher: RandomState,
    pub(super) since: Instant,
    pub(super) connections: AtomicUsize,
    pub(super) listeners: Mutex<HashMap<SocketAddr, Arc<AtomicUsize>>>,
    pub(super) by_address: Tally,
    pub(super) tunnels: Tally,
    pub(super) requests: Buckets,
    pub(super) tokens: Buckets,
    pub(super) new_tunnels: Buckets,
    pub(super) failures: Buckets,
    pub(super) sleepers: AtomicUsize,
    pub(super) farewells: AtomicUsize,
    pub(super) refused: [AtomicU64; Limit::ALL.len()],
    pub(super) delayed: AtomicU64,
    pub(super) pressure: Gauge,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            since: Instant::now(),
            connections: AtomicUsize::new(0),
            listeners: Mutex::default(),
            by_address: Tally::default(),
            tunnels: Tally::default(),
            requests: Buckets::default(),
            tokens: Buckets::default(),
            new_tunnels: Buckets::default(),
            failures: Buckets::default(),
            sleepers: AtomicUsize::new(0),
            farewells: AtomicUsize::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            delayed: AtomicU64::new(0),
            pressure: Gauge::default(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("connections", &self.connections).finish_non_exhaustive()
    }
}

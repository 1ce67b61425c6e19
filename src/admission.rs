//! Whom deskgate takes on: how many connections, requests and tunnels, from whom, and how fast.
//!
//! It is asked before anything costs much, and answers from tables of bounded size: what is counted
//! under a key is there as long as something holds it (`tally`), and rates are kept in slots that are
//! given on (`bucket`). It knows no request and no socket; the time is an argument. Settings
//! change with the configuration, the tables stay.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

mod bucket;
mod limit;
pub mod origin;
pub mod pace;
pub mod pressure;
mod seat;
mod settings;
mod shared;
mod tally;

pub use limit::{Limit, Refusal};
pub use seat::{Farewell, Listener, Place, Seat, Sleeper, TunnelSeat};

use crate::config::Overload;
use origin::Policy;
use pressure::{Level, Memory};
use shared::Shared;

/// Most answers to refused tokens that are held back at a time.
const SLEEPERS: usize = 512;

/// Most refused connections that are told so at a time; the others are just closed.
const FAREWELLS: usize = 256;

/// Retry-After where nobody can know, in seconds.
const SOON: u32 = 2;

/// Retry-After where memory or places must become free.
const LATER: u32 = 10;

/// Decides what is taken on. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Admission {
    limits: crate::config::Admission,
    overload: Overload,
    origins: Policy,
    /// Networks whose addresses are not counted one by one.
    exempt: Vec<IpNet>,
    shared: Arc<Shared>,
}

/// What becomes of a request whose token was refused.
#[derive(Debug)]
pub enum Failure {
    /// It is told so.
    Told,
    /// It is told so after this time, while the sleeper is kept.
    Delayed(Duration, Sleeper),
}

impl Admission {
    /// Where the connections of a listening address are counted, on whichever thread.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> Listener {
        let mut listeners = self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        Listener(Arc::clone(listeners.entry(address).or_default()))
    }

    /// A seat for a connection that was just accepted.
    ///
    /// # Errors
    /// If there are too many.
    pub fn connect(&self, listener: &Listener) -> Result<Seat, Refusal> {
        let all = Place::take(self, |shared| &shared.connections, self.limits.connections);
        let all = all.ok_or_else(|| self.refuse(Limit::Connections, SOON))?;
        let most = self.limits.connections_per_listener;
        match listener.take(most) {
            Some(listener) => Ok(Seat { all, listener, address: None }),
            None => Err(self.refuse(Limit::ListenerConnections, SOON)),
        }
    }

    /// Counts a connection under its client's address, once that is known.
    ///
    /// # Errors
    /// If there are too many of that address.
    pub fn identify(&self, seat: &mut Seat, client: IpAddr) -> Result<(), Refusal> {
        let Some(key) = self.key_of(client) else { return Ok(()) };
        if !self.shared.by_address.enter(key, self.limits.connections_per_address) {
            return Err(self.refuse(Limit::AddressConnections, LATER));
        }
        seat.address = Some(key);
        Ok(())
    }

    /// Counts a request under its client's address.
    ///
    /// # Errors
    /// If that asks too fast, or there is no memory for any request.
    pub fn request(&self, client: Option<IpAddr>, now: Instant) -> Result<(), Refusal> {
        if self.pressure() >= Level::NoRequests {
            return Err(self.refuse(Limit::OverloadRequests, LATER));
        }
        let rate = self.limits.requests_per_address;
        if rate.per_minute == 0 {
            return Ok(());
        }
        let Some(key) = client.and_then(|client| self.key_of(client)) else { return Ok(()) };
        let charged = self.shared.requests.charge(key, rate, 1, self.clock(now));
        charged.map(drop).map_err(|wait| self.refuse(Limit::AddressRequests, seconds(wait)))
    }

    /// Counts a request with a good token.
    ///
    /// # Errors
    /// If the token is used too fast.
    pub fn token(&self, token: impl Hash, now: Instant) -> Result<(), Refusal> {
        let rate = self.limits.requests_per_token;
        if rate.per_minute == 0 {
            return Ok(());
        }
        let key = self.shared.hasher.hash_one(token);
        let charged = self.shared.tokens.charge(key, rate, 1, self.clock(now));
        charged.map(drop).map_err(|wait| self.refuse(Limit::TokenRequests, seconds(wait)))
    }

    /// Counts a request whose token was refused: slow first, then none at all. To be asked only then,
    /// so that a good token from the same address is never held back.
    ///
    /// # Errors
    /// If the address has brought too many.
    pub fn failure(&self, client: Option<IpAddr>, now: Instant) -> Result<Failure, Refusal> {
        let rate = self.limits.failures;
        let Some(key) = client.and_then(|client| self.key_of(client)) else {
            return Ok(Failure::Told);
        };
        let charged = self.shared.failures.charge(key, rate, 2, self.clock(now));
        let debt = charged.map_err(|wait| self.refuse(Limit::Failures, seconds(wait)))?;
        let burst = bucket::burst(rate);
        let late = debt.saturating_sub(burst);
        if late.is_zero() || self.limits.failure_delay.is_zero() {
            return Ok(Failure::Told);
        }
        let sleeper = Place::take(self, |shared| &shared.sleepers, SLEEPERS);
        let sleeper = sleeper.ok_or_else(|| self.refuse(Limit::Failures, seconds(late)))?;
        self.shared.delayed.fetch_add(1, Relaxed);
        let share = late.as_secs_f64() / burst.as_secs_f64();
        Ok(Failure::Delayed(self.limits.failure_delay.mul_f64(share.clamp(0.0, 1.0)), sleeper))
    }

    /// Whether any tunnel may be opened now.
    ///
    /// # Errors
    /// If memory is short.
    pub fn tunnels(&self) -> Result<(), Refusal> {
        if self.pressure() >= Level::NoTunnels {
            return Err(self.refuse(Limit::OverloadTunnels, LATER));
        }
        Ok(())
    }

    /// A seat for a tunnel of a token to a pod. Others need none.
    ///
    /// # Errors
    /// If the token or the pod has too many, or the token opens them too fast.
    pub fn tunnel(&self, token: impl Hash, pod: &str, now: Instant) -> Result<TunnelSeat, Refusal> {
        let hasher = &self.shared.hasher;
        let mut seat = TunnelSeat::default();
        // Told apart, since both are counted in one table.
        let token = hasher.hash_one(("token", token));
        let pod = hasher.hash_one(("pod", pod));
        for (key, most, limit) in [
            (token, self.limits.tunnels_per_token, Limit::TokenTunnels),
            (pod, self.limits.tunnels_per_pod, Limit::PodTunnels),
        ] {
            if !self.shared.tunnels.enter(key, most) {
                return Err(self.refuse(limit, LATER));
            }
            seat.hold(&self.shared, key);
        }
        let charged =
            self.shared.new_tunnels.charge(token, self.limits.new_tunnels, 1, self.clock(now));
        charged.map(|_| seat).map_err(|wait| self.refuse(Limit::NewTunnels, seconds(wait)))
    }

    /// Which pages may open tunnels.
    #[must_use]
    pub fn origins(&self) -> &Policy {
        &self.origins
    }

    /// Least bytes of a body per second; 0 for any.
    #[must_use]
    pub fn body_rate(&self) -> u64 {
        self.limits.body_rate.as_u64()
    }

    /// Leave to say a last word to a connection that is refused; none if too many get one already.
    #[must_use]
    pub fn farewell(&self) -> Option<Farewell> {
        Place::take(self, |shared| &shared.farewells, FAREWELLS)
    }

    /// Counts a connection that could only be closed, as there was no descriptor for it.
    #[must_use]
    pub fn without_descriptor(&self) -> Refusal {
        self.refuse(Limit::Descriptors, SOON)
    }

    /// What the cgroup says of memory now; returns the level if it is another one.
    pub fn note_memory(&self, memory: Option<Memory>) -> Option<Level> {
        self.shared.pressure.note(memory, &self.overload)
    }

    /// How short memory is.
    #[must_use]
    pub fn pressure(&self) -> Level {
        self.shared.pressure.level()
    }

    /// The shares of memory at which something is given up, and whose memory it is.
    #[must_use]
    pub fn overload(&self) -> &Overload {
        &self.overload
    }

    /// Figures for metrics.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let refused = |limit: &Limit| {
            let count = self.shared.refused.get(*limit as usize);
            (limit.reason(), count.map_or(0, |count| count.load(Relaxed)))
        };
        Figures {
            refused: Limit::ALL.iter().map(refused).collect(),
            delayed: self.shared.delayed.load(Relaxed),
            connections: self.shared.connections.load(Relaxed) as u64,
            pressure: self.pressure(),
            memory: self.shared.pressure.memory(),
        }
    }

    fn refuse(&self, limit: Limit, after: u32) -> Refusal {
        if let Some(count) = self.shared.refused.get(limit as usize) {
            count.fetch_add(1, Relaxed);
        }
        Refusal { limit, after }
    }

    /// What an address is counted under; none if it is not.
    fn key_of(&self, client: IpAddr) -> Option<u64> {
        let client = client.to_canonical();
        if self.exempt.iter().any(|net| net.contains(&client)) {
            return None;
        }
        // Whoever has an IPv6 address has the 2^64 of its network.
        let network = match client {
            IpAddr::V4(address) => (4, u64::from(address.to_bits())),
            IpAddr::V6(address) => (6, (address.to_bits() >> 64) as u64),
        };
        Some(self.shared.hasher.hash_one(network))
    }

    /// The tables' clock.
    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.shared.since)
    }
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Refusals, by the name of the limit.
    pub refused: Vec<(&'static str, u64)>,
    /// Answers to refused tokens that were held back.
    pub delayed: u64,
    /// Connections, tunnels included.
    pub connections: u64,
    /// How short memory is.
    pub pressure: Level,
    /// Memory of the cgroup, if it has a limit.
    pub memory: Option<Memory>,
}

/// Whole seconds until then, at least one.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;

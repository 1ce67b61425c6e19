//! Every live tunnel: what it carries, and a way to end it from outside.
//!
//! A tunnel's relay writes its figures into atomics of its own; nobody waits for anybody. The map
//! is cut into shards by pod, each behind a lock that is held for one look-up or one walk: the
//! relay takes it when a tunnel opens and ends, and what concerns one pod (renewals, revocations)
//! walks one shard instead of all tunnels.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ends::End;
use crate::telemetry::metrics::Metrics;

const SHARDS: usize = 64;

/// Stands for "none" in an atomic number.
const NONE: u64 = u64::MAX;

/// What a tunnel is, as known when it opens.
#[derive(Clone, Debug)]
pub struct Info {
    /// Name of the route.
    pub route: Arc<str>,
    /// Fingerprint of the token, never the token.
    pub token: Option<Box<str>>,
    /// The pod, as operators know it. Equal labels mean the same pod.
    pub pod: Arc<str>,
    /// The pod's uid, where it is known.
    pub uid: Option<Arc<str>>,
    /// Address of the client.
    pub client: Option<IpAddr>,
    /// When the tunnel has to end. It may be moved later, see [`Registry::renew`].
    pub deadline: Option<Instant>,
    /// How long after its token's expiry that is.
    pub grace: Duration,
}

/// Figures of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Bytes delivered, without frames of our own.
    pub bytes: u64,
    /// WebSocket frames received, without pongs to our own pings.
    pub frames: u64,
}

#[derive(Debug, Default)]
struct FlowCell {
    bytes: AtomicU64,
    frames: AtomicU64,
}

impl FlowCell {
    fn set(&self, flow: Flow) {
        self.bytes.store(flow.bytes, Relaxed);
        self.frames.store(flow.frames, Relaxed);
    }

    fn get(&self) -> Flow {
        Flow { bytes: self.bytes.load(Relaxed), frames: self.frames.load(Relaxed) }
    }
}

/// A tunnel's entry. Times are microseconds since `opened`.
#[derive(Debug)]
struct Live {
    id: u64,
    info: Info,
    opened: Instant,
    to_pod: FlowCell,
    to_client: FlowCell,
    last_input: AtomicU64,
    /// Microseconds.
    rtt: AtomicU64,
    deadline: AtomicU64,
    /// The end that was asked for; 0 for none.
    asked: AtomicU8,
    /// The end that came; 0 for none yet.
    ended: AtomicU8,
    waker: AtomicWaker,
}

impl Live {
    fn since_opened(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.opened).as_micros();
        u64::try_from(micros).unwrap_or(NONE).min(NONE - 1)
    }

    /// Tells the relay to end the tunnel; false if it was told before.
    fn close(&self, end: End) -> bool {
        let told = self.asked.compare_exchange(0, end as u8, Relaxed, Relaxed).is_ok();
        if told {
            // Orders the store above before the relay's next look.
            self.waker.wake();
        }
        told
    }

    /// Moves the deadline to the grace after `expiry` if that is later; false if it is not, there is
    /// none, or the tunnel is about to end.
    fn renew(&self, expiry: Instant) -> bool {
        if self.asked.load(Relaxed) != 0 {
            return false;
        }
        let deadline = self.since_opened(expiry + self.info.grace);
        // No deadline is the largest number, so this leaves it alone.
        self.deadline.fetch_max(deadline, Relaxed) < deadline
    }

    /// When the token is over that keeps it open; none if it needs none.
    fn expiry(&self) -> Option<Instant> {
        let deadline = self.deadline.load(Relaxed);
        let at = self.opened + Duration::from_micros(deadline).saturating_sub(self.info.grace);
        (deadline != NONE).then_some(at)
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let age = self.since_opened(now);
        let some = |cell: &AtomicU64| Some(cell.load(Relaxed)).filter(|value| *value != NONE);
        Snapshot {
            id: self.id,
            route: Arc::clone(&self.info.route),
            token: self.info.token.clone(),
            pod: Arc::clone(&self.info.pod),
            client: self.info.client,
            age: seconds(age),
            to_pod: self.to_pod.get(),
            to_client: self.to_client.get(),
            rtt: some(&self.rtt).map(seconds),
            last_input: some(&self.last_input).map(|at| seconds(age.saturating_sub(at))),
            expires_in: some(&self.deadline).map(|at| seconds(at) - seconds(age)),
            closing: End::from_u8(self.asked.load(Relaxed)).map(End::reason),
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// A tunnel as it was at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Number of the tunnel, in order of opening.
    pub id: u64,
    /// Name of the route.
    #[serde(serialize_with = "text")]
    pub route: Arc<str>,
    /// Fingerprint of the token.
    pub token: Option<Box<str>>,
    /// The pod.
    #[serde(serialize_with = "text")]
    pub pod: Arc<str>,
    /// Address of the client.
    pub client: Option<IpAddr>,
    /// Seconds since it was opened.
    pub age: f64,
    /// From the client to the pod.
    pub to_pod: Flow,
    /// From the pod to the client.
    pub to_client: Flow,
    /// Latest time in seconds from a ping to the client's pong.
    pub rtt: Option<f64>,
    /// Seconds since a data frame began to arrive from the client.
    pub last_input: Option<f64>,
    /// Seconds until its deadline; negative after it.
    pub expires_in: Option<f64>,
    /// Reason of the end that it was told to come to.
    pub closing: Option<&'static str>,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tunnels opened.
    pub opened: u64,
    /// Tunnels ended, in the order of [`End::ALL`].
    pub closed: [u64; End::ALL.len()],
    /// From clients to pods, with what live tunnels carried so far.
    pub to_pod: Flow,
    /// From pods to clients, likewise.
    pub to_client: Flow,
}

impl Totals {
    fn add(&mut self, live: &Live) {
        for (sum, flow) in
            [(&mut self.to_pod, live.to_pod.get()), (&mut self.to_client, live.to_client.get())]
        {
            sum.bytes += flow.bytes;
            sum.frames += flow.frames;
        }
    }
}

#[derive(Debug, Default)]
struct Shard {
    live: HashMap<u64, Arc<Live>>,
    /// Of tunnels that are gone.
    past: Totals,
}

#[derive(Debug)]
struct Shared {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    opened: AtomicU64,
    len: AtomicUsize,
    emptied: Notify,
    metrics: Metrics,
}

/// Every live tunnel. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

impl Default for Registry {
    fn default() -> Self {
        Self::counting(Metrics::default())
    }
}

impl Registry {
    /// An empty registry; what is opened and measured is counted there.
    #[must_use]
    pub fn counting(metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            metrics,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            opened: AtomicU64::new(0),
            len: AtomicUsize::new(0),
            emptied: Notify::new(),
        }))
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Enters a tunnel. It leaves when the returned guard is dropped.
    #[must_use]
    pub fn open(&self, info: Info) -> Tunnel {
        let opened = Instant::now();
        let live = Live {
            id: self.0.opened.fetch_add(1, Relaxed) + 1,
            opened,
            to_pod: FlowCell::default(),
            to_client: FlowCell::default(),
            last_input: AtomicU64::new(NONE),
            rtt: AtomicU64::new(NONE),
            deadline: AtomicU64::new(NONE),
            asked: AtomicU8::new(0),
            ended: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            info,
        };
        if let Some(deadline) = live.info.deadline {
            live.deadline.store(live.since_opened(deadline), Relaxed);
        }
        let live = Arc::new(live);
        self.0.metrics.tunnel_opened(&live.info.route);
        self.0.len.fetch_add(1, Relaxed);
        if let Some(shard) = self.shard(&live.info.pod) {
            let mut shard = lock(shard);
            if live.info.deadline.is_some() {
                // Its pod's tunnels may have been renewed since its token was looked at.
                let others = shard.live.values().filter(|other| other.info.pod == live.info.pod);
                others.filter_map(|other| other.expiry()).for_each(|expiry| {
                    live.renew(expiry);
                });
            }
            shard.live.insert(live.id, Arc::clone(&live));
        }
        Tunnel { live, registry: self.clone() }
    }

    /// Where the tunnels of `pod` are.
    fn shard(&self, pod: &str) -> Option<&Mutex<Shard>> {
        let hash = self.0.hasher.hash_one(pod) as usize;
        self.0.shards.get(hash % SHARDS)
    }

    fn find(&self, id: u64) -> Option<Arc<Live>> {
        self.0.shards.iter().find_map(|shard| lock(shard).live.get(&id).map(Arc::clone))
    }

    /// Calls `act` for tunnels of one shard after the other, outside the locks.
    fn each(&self, mut act: impl FnMut(&Live)) {
        for shard in &self.0.shards {
            let live: Vec<_> = lock(shard).live.values().map(Arc::clone).collect();
            live.iter().for_each(|live| act(live));
        }
    }

    /// All tunnels, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Snapshot> {
        let now = Instant::now();
        let mut list = Vec::with_capacity(self.len());
        self.each(|live| list.push(live.snapshot(now)));
        list.sort_unstable_by_key(|tunnel| tunnel.id);
        list
    }

    /// One tunnel.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Snapshot> {
        self.find(id).map(|live| live.snapshot(Instant::now()))
    }

    /// Ends a tunnel; false if there is none, or it was told to end before.
    #[must_use]
    pub fn close(&self, id: u64, end: End) -> bool {
        self.find(id).is_some_and(|live| live.close(end))
    }

    /// Ends the tunnels that `which` chooses; returns how many were told so by this call.
    pub fn close_where(&self, which: impl Fn(&Info) -> bool, end: End) -> usize {
        let mut told = 0;
        self.each(|live| told += usize::from(which(&live.info) && live.close(end)));
        told
    }

    /// Moves the deadlines of a pod's tunnels to those of a token that expires at `expiry`, each by
    /// its own grace, unless they are later or there is none; returns how many were moved.
    pub fn renew(&self, pod: &str, expiry: Instant) -> usize {
        self.shard(pod).map_or(0, |shard| {
            let shard = lock(shard);
            let of_pod = shard.live.values().filter(|live| *live.info.pod == *pod);
            of_pod.filter(|live| live.renew(expiry)).count()
        })
    }

    /// How long ago each tunnel's user did something: sent a data frame, or opened the tunnel.
    pub(super) fn quiet(&self) -> Vec<(u64, Duration)> {
        let now = Instant::now();
        let mut all = Vec::with_capacity(self.len());
        self.each(|live| all.push((live.id, quiet(live, now))));
        all
    }

    /// The same for one tunnel.
    pub(super) fn quiet_of(&self, id: u64) -> Option<Duration> {
        self.find(id).map(|live| quiet(&live, Instant::now()))
    }

    /// Number of live tunnels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len.load(Relaxed)
    }

    /// Whether there is no live tunnel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until there is no live tunnel.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Sums for metrics. They never fall.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { opened: self.0.opened.load(Relaxed), ..Totals::default() };
        for shard in &self.0.shards {
            let shard = lock(shard);
            for (sum, flow) in [
                (&mut totals.to_pod, shard.past.to_pod),
                (&mut totals.to_client, shard.past.to_client),
            ] {
                sum.bytes += flow.bytes;
                sum.frames += flow.frames;
            }
            for (sum, past) in totals.closed.iter_mut().zip(shard.past.closed) {
                *sum += past;
            }
            shard.live.values().for_each(|live| totals.add(live));
        }
        totals
    }
}

fn quiet(live: &Live, now: Instant) -> Duration {
    let last = Some(live.last_input.load(Relaxed)).filter(|at| *at != NONE).unwrap_or(0);
    Duration::from_micros(live.since_opened(now).saturating_sub(last))
}

/// A live tunnel, as its relay sees it. Dropping it takes it off the registry.
#[derive(Debug)]
pub struct Tunnel {
    live: Arc<Live>,
    registry: Registry,
}

impl Tunnel {
    /// Number of the tunnel, in order of opening.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.live.id
    }

    /// The end it was told to come to. The waker is woken when that changes.
    pub(super) fn poll_asked(&self, waker: &Waker) -> Option<End> {
        self.live.waker.register(waker);
        End::from_u8(self.live.asked.load(Relaxed))
    }

    /// When it has to end.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline = self.live.deadline.load(Relaxed);
        (deadline != NONE).then(|| self.live.opened + Duration::from_micros(deadline))
    }

    /// Notes what was carried so far.
    pub(super) fn carried(&self, to_pod: Flow, to_client: Flow) {
        self.live.to_pod.set(to_pod);
        self.live.to_client.set(to_client);
    }

    /// Notes a data frame from the client.
    pub(super) fn input(&self, now: Instant) {
        self.live.last_input.store(self.live.since_opened(now), Relaxed);
    }

    /// Notes the time between a ping and its pong.
    pub(super) fn answered(&self, rtt: Duration) {
        self.registry.0.metrics.tunnel_rtt(rtt.as_secs_f64());
        let rtt = u64::try_from(rtt.as_micros()).unwrap_or(NONE - 1);
        self.live.rtt.store(rtt, Relaxed);
    }

    /// Notes that it comes to an end by itself: nobody moves that any more.
    pub(super) fn ending(&self, end: End) {
        let _told: bool = self.live.close(end);
    }

    /// Notes how it ended, and takes it off the list. One that is dropped without counts as
    /// [`End::Shutdown`].
    pub(super) fn ended(&self, end: End) {
        if self.live.ended.compare_exchange(0, end as u8, Relaxed, Relaxed).is_err() {
            return;
        }
        if let Some(shard) = self.registry.shard(&self.live.info.pod) {
            // Out of the live ones and into the past in one step, so that sums never fall.
            let mut shard = lock(shard);
            shard.live.remove(&self.live.id);
            shard.past.add(&self.live);
            if let Some(closed) = shard.past.closed.get_mut(end as usize - 1) {
                *closed += 1;
            }
        }
        if self.registry.0.len.fetch_sub(1, Relaxed) == 1 {
            self.registry.0.emptied.notify_waiters();
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.ended(End::Shutdown);
    }
}

#[cfg(test)]
mod tests;

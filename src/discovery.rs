//! Which pod a desktop token opens now: a live picture of the service's pods.
//!
//! One task lists and watches the EndpointSlices of one service; [`Pods::judge`] compares a token
//! with what it saw. A request never waits for the API: an outage leaves the last known pods in
//! use, for new tokens (`BELIEVED`), and [`Pods::status`] says how old they are.
//!
//! ```text
//! api (bytes) -> slices (pods) -> identity (who owned what when) -> Pods (judge, wait, report)
//!        \---------- watch (the loop), book (its state), health, proof -------/
//! ```

mod api;
mod book;
mod health;
pub mod identity;
mod proof;
pub mod slices;
mod survey;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

pub use api::{Fault, Server, Transport};
pub use health::{Condition, Counters, Status};
pub use identity::{Endpoint, Host, Readiness, Verdict};
pub use survey::{Survey, survey};

use api::Api;
use book::Book;
use health::Health;
use identity::{History, Issue};
use proof::Proofs;

/// Age up to which a token of an unknown pod is worth a wait: its pod may not be listed yet. An
/// older one is of a pod that is gone.
const FRESH: Duration = Duration::from_secs(15);

/// Longest that tokens of any age are judged by a picture that nothing has proved since. After it only
/// tokens of addresses are believed, and only if they are younger than this.
///
/// An address may be given on while nobody tells us, and a token from before opens the next owner's pod
/// for as long as the token lives. A new one comes from pyos, which knows whose address it is now. Of a name
/// only the picture knows the address, so no token makes up for its age. So an
/// outage keeps no desktop from a page that renews its token, and shuts an old one out. A healthy server
/// proves the picture in every watch, which is given up after 35 s: a minute is nearly twice that.
const BELIEVED: Duration = Duration::from_secs(60);

/// A wall clock that gained or lost this many milliseconds on the monotonic one was set.
const STEP: i64 = 2_000;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Time since the Unix epoch.
    pub wall: Duration,
    /// The same moment on the monotonic clock.
    pub mono: Instant,
}

impl Moment {
    fn millis(self) -> i64 {
        millis(self.wall)
    }

    /// Milliseconds by which the wall clock was set, if at all, between an earlier moment and this one.
    fn set_since(self, earlier: Self) -> i64 {
        let walked = millis(self.mono.saturating_duration_since(earlier.mono))
            .saturating_sub(millis(earlier.mono.saturating_duration_since(self.mono)));
        self.millis().saturating_sub(earlier.millis()).saturating_sub(walked)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Reads both clocks.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Kubernetes API.
    pub server: Server,
    /// The service's namespace.
    pub namespace: String,
    /// The service that all desktops belong to.
    pub service: String,
    /// Length of one watch; whole seconds. A silent server is noticed five seconds later.
    pub watch_timeout: Duration,
    /// How long owners of an address are remembered: a token's longest life, or more.
    pub memory: Duration,
    /// Most that the clock of the tokens' issuer may be away from this one.
    pub skew: Duration,
}

/// A pod, for people. Without its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: Arc<str>,
    /// Its uid.
    pub uid: Arc<str>,
    /// Whether it takes connections.
    pub readiness: Readiness,
    /// For how long it has been known.
    pub age: Duration,
}

type GoneCallback = Box<dyn Fn(&Arc<str>) + Send + Sync>;

/// What is known, by which clock, and since when it is not proved. Published as one.
struct Picture {
    history: Arc<History>,
    /// When the clocks were last compared. The history's times are those of the wall clock of then.
    compared: Moment,
    /// When the pods were last proved to be all there are.
    proof: Option<Instant>,
}

impl Picture {
    /// Whether this was proved not long ago.
    fn is_proved(&self, now: Moment) -> bool {
        self.proof.is_some_and(|proof| now.mono.saturating_duration_since(proof) <= BELIEVED)
    }

    /// Whether this is too old for a token of that age: its address may be another pod's by now.
    fn is_too_old(&self, host: Host<'_>, issue: Issue, now: Moment) -> bool {
        let young = now.millis().saturating_sub(millis(BELIEVED));
        !self.is_proved(now) && (matches!(host, Host::Name(_)) || issue.may_precede(young))
    }
}

/// What the watch writes and everybody reads.
struct Shared {
    picture: ArcSwap<Picture>,
    /// Counts publications; wakes those who wait for one.
    changes: signal::Sender<u64>,
    health: Health,
    gone: Mutex<Vec<GoneCallback>>,
    proofs: Proofs,
    clock: Clock,
    /// In milliseconds.
    skew: i64,
}

impl Shared {
    fn tell_gone(&self, uid: &Arc<str>) {
        for callback in self.gone.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            callback(uid);
        }
    }
}

/// The pods of one service, kept current for as long as one copy of this exists.
#[derive(Clone)]
pub struct Pods {
    shared: Arc<Shared>,
    _watch: Arc<Watching>,
}

/// The task; ends with its last owner.
struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pods {
    /// Begins to watch, on the current tokio runtime. Nothing is known at first.
    #[must_use]
    pub fn start(settings: Settings, clock: Clock) -> Self {
        let Settings { server, namespace, service, watch_timeout, .. } = &settings;
        let api = || Api::new(server.clone(), namespace, service, *watch_timeout);
        let watcher = api();
        let history = Arc::new(History::new(millis(settings.memory)));
        let picture = Picture { history, compared: clock(), proof: None };
        let shared = Arc::new(Shared {
            picture: ArcSwap::from_pointee(picture),
            changes: signal::Sender::new(0),
            health: Health::new(),
            gone: Mutex::new(Vec::new()),
            proofs: Proofs::new(api),
            clock,
            skew: millis(settings.skew),
        });
        let book = Book::new(Arc::clone(&shared));
        let task = tokio::spawn(watch::run(watcher, book));
        Self { shared, _watch: Arc::new(Watching(task)) }
    }

    /// What a token for this host, issued at this Unix time in seconds, means at `now`. For every request;
    /// takes a lock only where nothing but the pod's own word helps.
    #[must_use]
    pub fn judge(&self, host: Host<'_>, issued: Option<u64>, now: Moment) -> Verdict {
        let picture = self.shared.picture.load();
        // A token's time says nothing about intervals that were measured before the clock was set.
        let set = now.set_since(picture.compared).saturating_abs() > STEP;
        let issued = issued.filter(|_| !set);
        let issue = Issue { issued, now: now.millis(), skew: self.shared.skew };
        let proved = |uid: &Arc<str>, address, seen| self.shared.proofs.since(uid, address, seen);
        let verdict = picture.history.judge_by(host, issue, &proved);
        if let Verdict::Allow(endpoint) = &verdict
            && picture.is_too_old(host, issue, now)
        {
            return Verdict::Ambiguous(endpoint.clone());
        }
        verdict
    }

    /// Like [`Pods::judge`], but waits up to `limit` for a pod that may yet take connections: it is
    /// not ready, or the token is so new that it may not be listed. Released by the event itself.
    pub async fn wait_ready(
        &self,
        host: Host<'_>,
        issued: Option<u64>,
        limit: Duration,
    ) -> Verdict {
        // Before the first look, so that no change falls between the two.
        let mut changes = self.shared.changes.subscribe();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let now = (self.shared.clock)();
            let verdict = self.judge(host, issued, now);
            let waits = match verdict {
                Verdict::NotReady(_) | Verdict::Unsynced => true,
                Verdict::NotFound => issued
                    .is_some_and(|at| Duration::from_secs(at).saturating_add(FRESH) > now.wall),
                Verdict::Allow(_) | Verdict::Ending | Verdict::Reused | Verdict::Ambiguous(_) => {
                    false
                }
            };
            if !waits || !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return verdict;
            }
        }
    }

    /// Like [`Pods::judge`], for a token that may be from before its pod was known: first asks the pod since
    /// when it has had its address, if that helps, and waits up to `limit` for its turn to. None if there is no
    /// answer: it may be worth another try.
    pub async fn prove(
        &self,
        host: Host<'_>,
        issued: Option<u64>,
        limit: Duration,
    ) -> Option<Verdict> {
        let now = (self.shared.clock)();
        let picture = self.shared.picture.load_full();
        let issue = Issue { issued, now: now.millis(), skew: self.shared.skew };
        let helps =
            picture.is_proved(now) && now.set_since(picture.compared).saturating_abs() <= STEP;
        if let Some((pod, seen)) = helps.then(|| picture.history.doubtful(host, issue)).flatten() {
            let turn = tokio::time::Instant::now() + limit;
            self.shared.proofs.ask(&pod, seen, turn).await?;
        }
        Some(self.judge(host, issued, (self.shared.clock)()))
    }

    /// Whether what is known was proved not long ago. Without that a pod's name and uid may be its
    /// predecessor's.
    #[must_use]
    pub fn is_proved(&self, now: Moment) -> bool {
        self.shared.picture.load().is_proved(now)
    }

    /// Calls `callback` with the uid of each pod that has left the service: at once if its address
    /// was given on, otherwise after the moment in which it may only have been moved. A pod
    /// that is terminating has not left: its tunnels may live as long as it does.
    ///
    /// The callback runs on the watch's task and must not block or register others.
    pub fn on_gone(&self, callback: impl Fn(&Arc<str>) + Send + Sync + 'static) {
        let mut gone = self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.push(Box::new(callback));
    }

    /// Whether the API never let this process look at pods: it forbids it, or cannot be reached.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.shared.health.is_blind()
    }

    /// Whether the pod is listed. Ask after registering a tunnel for [`Pods::on_gone`]: the pod may
    /// have left before.
    #[must_use]
    pub fn lists(&self, uid: &str) -> bool {
        self.shared.picture.load().history.lists(uid)
    }

    /// Whether the pod is listed, and the only one at its address. Ask once connected to it: a connection
    /// that took its time may have been taken by the next owner.
    #[must_use]
    pub fn owns(&self, uid: &str) -> bool {
        self.shared.picture.load().history.owns(uid)
    }

    /// Every listed pod, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PodView> {
        let now = (self.shared.clock)().millis();
        let history = Arc::clone(&self.shared.picture.load().history);
        let view = |(pod, since): (&identity::Pod, i64)| PodView {
            name: Arc::clone(&pod.name),
            uid: Arc::clone(&pod.uid),
            readiness: pod.readiness,
            age: Duration::from_millis(u64::try_from(now.saturating_sub(since)).unwrap_or(0)),
        };
        let mut list: Vec<_> = history.pods().map(view).collect();
        list.sort_unstable_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        list
    }

    /// How current all this is.
    #[must_use]
    pub fn status(&self) -> Status {
        let pods = self.shared.picture.load().history.len();
        self.shared.health.status(pods, (self.shared.clock)().mono)
    }
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods").field("status", &self.status()).finish_non_exhaustive()
    }
}

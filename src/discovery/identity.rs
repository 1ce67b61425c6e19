//! Which pod owned an address or a name when a token was issued.
//!
//! A desktop token names a host and the second of its issue, but not the pod. Addresses are given to
//! other pods, and names can be, so a host alone must not open a desktop: the [`History`] knows
//! since when each pod has owned its hosts, and [`History::judge`] compares.
//!
//! Names are judged like addresses: issuers shorten long user names and number anonymous users with
//! few digits, so a pod made anew under an old name need not be the same user's.
//!
//! All times are milliseconds of the gateway's wall clock. What the judgement rests on:
//!
//! - The clock that judges is the one that measured: whoever finds that it was set calls
//!   [`History::distrust`], and until then gives no time of issue.
//! - A pod is listed at most `LAG` after it got its address, and pods that are never listed get
//!   no tokens.
//! - The clocks of the token's issuer and of this host differ by at most the `skew` given.
//! - A pod that stays listed keeps its hosts (a pod's uid and address end together).
//! - So do the issuer's and that of a pod's node, by which the pod tells since when it runs; at worst a pod
//!   has had an address since it was made, by the API server's clock.
//! - What was seen last still holds. While the API is out of reach this grows old, for an address
//!   given on meanwhile too; how old it is, the caller weighs (`Pods::judge`).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// Longest time from a pod's address to its entry in a slice: the API server and the endpoint
/// controller together take tens of milliseconds, more under load.
pub(super) const LAG: i64 = 5_000;

/// A pod that is listed again within this time, with nobody else on its host, never left: the
/// controller may move an endpoint between slices, or a service may be made anew.
const LINGER: i64 = 5_000;

/// Most departed owners remembered in all.
const MAX_DEPARTED: usize = 65_536;

/// Most departed owners remembered of one host.
const MAX_DEPARTED_OF_HOST: usize = 16;

/// Milliseconds between two searches for owners to forget.
const SWEEP: i64 = 60_000;

/// What a token names. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// A pod's address.
    Address(IpAddr),
    /// The first label of a name below the desktop domain.
    Name(&'a str),
}

impl fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readiness {
    /// Takes connections.
    Ready,
    /// Exists, and does not take connections yet, or not now.
    NotReady,
    /// Is being deleted.
    Terminating,
}

/// One pod, as all slices together describe it. `Debug` does not show its addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Pod {
    /// Never given twice.
    pub uid: Arc<str>,
    /// Unique among the pods that exist at one time.
    pub name: Arc<str>,
    /// The pod's own host name, if it has one and its subdomain is the service.
    pub hostname: Option<Arc<str>>,
    /// In order, without duplicates; the first is used for names. Not empty.
    pub addresses: Vec<IpAddr>,
    /// The worst that any slice says.
    pub readiness: Readiness,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("uid", &self.uid)
            .field("name", &self.name)
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// One difference between two sets of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The pod is new, or described differently.
    Present(Pod),
    /// No slice lists the pod of this uid any more.
    Gone(Arc<str>),
}

/// A pod to connect to. `Debug` does not show its address.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// Whoever connects belongs to this pod and to no later one.
    pub uid: Arc<str>,
    /// For logs.
    pub name: Arc<str>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("uid", &self.uid)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a token's host means now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod that owned the host when the token was issued, and it takes connections.
    Allow(Endpoint),
    /// The host's pod does not take connections yet. Never connect to it.
    NotReady(Endpoint),
    /// The host's pod is being deleted.
    Ending,
    /// The host's pod got it after the token was issued: the token is for another pod.
    Reused,
    /// Whether the host's pod owned it when the token was issued cannot be told.
    Ambiguous(Endpoint),
    /// No pod of the service has this host.
    NotFound,
    /// The pods are not known yet.
    Unsynced,
}

impl Verdict {
    /// Fixed name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::NotReady(_) => "not_ready",
            Self::Ending => "ending",
            Self::Reused => "reused",
            Self::Ambiguous(_) => "ambiguous",
            Self::NotFound => "not_found",
            Self::Unsynced => "unsynced",
        }
    }
}

/// Since when the pod of a uid, first seen with an address at a time, has had it, where it has told.
pub(super) type Proved<'a> = &'a dyn Fn(&Arc<str>, IpAddr, i64) -> Option<i64>;

/// When a token was issued, and when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Issue {
    /// The token's issue time: Unix time in whole seconds, rounded down.
    pub issued: Option<u64>,
    /// This moment.
    pub now: i64,
    /// Most that the issuer's clock may be away from this one, in milliseconds.
    pub skew: i64,
}

impl Issue {
    /// The earliest and the latest moment at which the token can have been issued.
    ///
    /// Both ends give way by the skew, so an unknown offset of the clocks, in either direction,
    /// makes a judgement doubtful and never wrong.
    fn window(self) -> Option<(i64, i64)> {
        let from = i64::try_from(self.issued?).ok()?.checked_mul(1000)?;
        let window = (from.checked_sub(self.skew)?, from.checked_add(self.skew + 999)?);
        // A token from the future: the clocks differ by more than was assumed.
        (window.0 <= self.now).then_some(window)
    }

    /// Whether the token may have been issued before this moment.
    pub(super) fn may_precede(self, moment: i64) -> bool {
        self.window().is_none_or(|(earliest, _)| earliest < moment)
    }
}

/// A pod's ownership of one host. It began in (`lo`, `hi`].
#[derive(Clone, Debug)]
struct Claim {
    pod: Arc<Pod>,
    address: IpAddr,
    /// Not yet the owner at this moment.
    lo: i64,
    /// The owner at this moment.
    hi: i64,
    /// Not the owner after this moment; `None` while it is listed.
    until: Option<i64>,
    /// Owns a name as its host name, which goes before pod names.
    by_hostname: bool,
}

impl Claim {
    fn live(&self) -> bool {
        self.until.is_none() && self.pod.readiness != Readiness::Terminating
    }

    fn may_cover(&self, (earliest, latest): (i64, i64)) -> bool {
        self.lo < latest && self.until.is_none_or(|until| until >= earliest)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.address,
            uid: Arc::clone(&self.pod.uid),
            name: Arc::clone(&self.pod.name),
        }
    }
}

/// All claims to each host. Copies share what has not changed.
#[derive(Clone, Debug)]
struct Index<K>(HashMap<K, Arc<Vec<Claim>>>);

impl<K: Hash + Eq> Index<K> {
    fn of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[Claim]
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map_or(&[], |claims| claims.as_slice())
    }

    /// Begins, continues or resumes a claim. Returns the end of one that was forgotten for it.
    fn open(&mut self, key: K, claim: Claim) -> Option<i64> {
        let claims = Arc::make_mut(self.0.entry(key).or_default());
        let known = claims.iter().rposition(|known| known.pod.uid == claim.pod.uid);
        let left = known.and_then(|at| claims.get(at)).and_then(|known| known.until);
        let resumes = left.is_none_or(|left| {
            claim.hi.saturating_sub(left) <= LINGER
                && !claims.iter().any(|other| {
                    other.pod.uid != claim.pod.uid && other.until.is_none_or(|until| until > left)
                })
        });
        match known.and_then(|at| claims.get_mut(at)) {
            Some(known) if resumes => {
                *known = Claim { lo: known.lo, hi: known.hi, ..claim };
                None
            }
            _ => {
                claims.push(claim);
                trim(claims)
            }
        }
    }

    fn close<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, uid: &str, at: i64)
    where
        K: Borrow<Q>,
    {
        let Some(claims) = self.0.get_mut(key) else { return };
        let open = |claim: &&mut Claim| claim.until.is_none() && &*claim.pod.uid == uid;
        if let Some(claim) = Arc::make_mut(claims).iter_mut().find(open) {
            claim.until = Some(at);
        }
    }

    /// Drops the claims that ended before `line`; returns how many departed ones remain, and the
    /// latest end of those that were dropped.
    fn forget(&mut self, line: i64) -> (usize, Option<i64>) {
        let (mut departed, mut forgotten) = (0, None);
        self.0.retain(|_, claims| {
            if claims.iter().any(|claim| claim.until.is_some()) {
                Arc::make_mut(claims).retain(|claim| {
                    let ended = claim.until.filter(|until| *until < line);
                    forgotten = forgotten.max(ended);
                    ended.is_none()
                });
                departed += claims.iter().filter(|claim| claim.until.is_some()).count();
            }
            !claims.is_empty()
        });
        (departed, forgotten)
    }

    fn distrust(&mut self, at: i64) {
        for claims in self.0.values_mut() {
            for claim in Arc::make_mut(claims) {
                (claim.lo, claim.hi) = (i64::MIN, at);
                claim.until = claim.until.map(|until| until.max(at));
            }
        }
    }
}

/// Keeps a host's departed owners within their bound.
fn trim(claims: &mut Vec<Claim>) -> Option<i64> {
    let departed = claims.iter().filter(|claim| claim.until.is_some()).count();
    if departed <= MAX_DEPARTED_OF_HOST {
        return None;
    }
    let until = claims.iter().filter_map(|claim| claim.until).min();
    claims.retain(|claim| claim.until.is_none() || claim.until != until);
    until
}

/// A pod that is listed.
#[derive(Clone, Debug)]
struct Present {
    pod: Arc<Pod>,
    /// When it was first seen.
    since: i64,
}

/// Who owned which host when, as far as it was observed. A copy is cheap.
#[derive(Clone, Debug)]
pub struct History {
    addresses: Index<IpAddr>,
    names: Index<Arc<str>>,
    present: HashMap<Arc<str>, Present>,
    /// When the listed pods were last proved to be all there are; `None` before the first list.
    current: Option<i64>,
    /// Up to here an owner may have been missed, or was forgotten.
    blind: i64,
    /// How long departed owners are remembered.
    memory: i64,
    departed: usize,
    swept: i64,
}

impl History {
    /// Knows nothing yet. Departed owners are remembered for `memory` milliseconds.
    ///
    /// Any `memory` is safe, since a token issued in a time of which something was forgotten is no
    /// longer attributed by elimination; with less than a token's longest life some become
    /// ambiguous that need not be.
    #[must_use]
    pub fn new(memory: i64) -> Self {
        Self {
            addresses: Index(HashMap::new()),
            names: Index(HashMap::new()),
            present: HashMap::new(),
            current: None,
            blind: i64::MIN,
            memory,
            departed: 0,
            swept: i64::MIN,
        }
    }

    /// What is different in this whole set of pods.
    #[must_use]
    pub fn differences(&self, pods: Vec<Pod>) -> Vec<Change> {
        let mut absent: HashMap<_, _> =
            self.present.iter().map(|(uid, present)| (uid, &present.pod)).collect();
        let mut changes = Vec::new();
        for pod in pods {
            let known = absent.remove(&pod.uid);
            if known.is_none_or(|known| **known != pod) {
                changes.push(Change::Present(pod));
            }
        }
        // Departures first, so that an address given on is not contested.
        let gone = absent.into_keys().cloned().map(Change::Gone);
        gone.chain(changes).collect()
    }

    /// Differences to a whole set of pods, which was asked for at `asked` and complete at `at`.
    /// Pods may have come and gone unseen since the set was last known to be current.
    pub fn synced(&mut self, asked: i64, at: i64, differences: &[Change]) {
        self.changed(at, differences);
        self.blind = self.blind.max(at);
        self.current = Some(self.current.map_or(asked, |current| current.max(asked)));
    }

    /// Differences seen at `at`, in an unbroken succession of events.
    pub fn changed(&mut self, at: i64, changes: &[Change]) {
        let lo = self.current.map_or(i64::MIN, |current| current.min(at).saturating_sub(LAG));
        for change in changes {
            match change {
                Change::Present(pod) => self.put(Arc::new(pod.clone()), lo, at),
                Change::Gone(uid) => self.take(uid, at),
            }
        }
        if at >= self.swept.saturating_add(SWEEP) {
            self.forget(at, at.saturating_sub(self.memory));
        }
        if self.departed > MAX_DEPARTED {
            self.forget(at, i64::MAX);
        }
    }

    /// Proof that every change up to `at` has been seen.
    pub fn confirm(&mut self, at: i64) {
        if let Some(current) = &mut self.current {
            *current = at.max(*current);
        }
    }

    /// The clock was set: what it said before means nothing any more.
    pub fn distrust(&mut self, at: i64) {
        self.addresses.distrust(at);
        self.names.distrust(at);
        for present in self.present.values_mut() {
            present.since = present.since.min(at);
        }
        self.current = self.current.map(|_| at);
        self.blind = at;
        self.swept = at;
    }

    /// What a token for this host means now.
    #[must_use]
    pub fn judge(&self, host: Host<'_>, issue: Issue) -> Verdict {
        self.judge_by(host, issue, &|_, _, _| None)
    }

    /// The same, with what pods have told of themselves.
    pub(super) fn judge_by(&self, host: Host<'_>, issue: Issue, proved: Proved<'_>) -> Verdict {
        if self.current.is_none() {
            return Verdict::Unsynced;
        }
        let claims = match host {
            Host::Address(address) => self.addresses.of(&address),
            Host::Name(name) => self.names.of(name),
        };
        let live = claims.iter().filter(|claim| claim.live());
        let contested = live.clone().nth(1).is_some();
        let Some(claim) = live.max_by_key(|claim| (claim.by_hostname, claim.hi)) else {
            let listed = claims.iter().any(|claim| claim.until.is_none());
            return if listed { Verdict::Ending } else { Verdict::NotFound };
        };
        let contested = contested || self.replaced(&claim.pod);
        let endpoint = claim.endpoint();
        match self.owned(claim, claims, issue, proved) {
            Some(false) => Verdict::Reused,
            _ if claim.pod.readiness == Readiness::NotReady => Verdict::NotReady(endpoint),
            // Two pods that both own it (host networking, a host name given twice).
            Some(true) if !contested => Verdict::Allow(endpoint),
            _ => Verdict::Ambiguous(endpoint),
        }
    }

    /// Whether this claim covers the token's issue, if that can be told.
    fn owned(
        &self,
        claim: &Claim,
        claims: &[Claim],
        issue: Issue,
        proved: Proved<'_>,
    ) -> Option<bool> {
        let window = issue.window()?;
        let (earliest, latest) = window;
        if latest <= claim.lo {
            return Some(false);
        }
        if earliest >= claim.hi {
            return Some(true);
        }
        // By elimination: somebody owned the host, and nobody else can have. Without this the first
        // token of a desktop, issued while its pod is being listed, would be refused.
        let others = claims.iter().filter(|other| other.pod.uid != claim.pod.uid);
        let alone = !others.into_iter().any(|other| other.may_cover(window));
        if earliest > self.blind && alone {
            return Some(true);
        }
        let since = proved(&claim.pod.uid, claim.address, claim.hi)?;
        (earliest >= since).then_some(true)
    }

    /// The pod whose word would tell whether it owned the host then, and when it was first seen with it. None
    /// where that is known, or would not help.
    pub(super) fn doubtful(&self, host: Host<'_>, issue: Issue) -> Option<(Endpoint, i64)> {
        issue.window()?;
        let claims = match host {
            Host::Address(address) => self.addresses.of(&address),
            Host::Name(name) => self.names.of(name),
        };
        let mut live = claims.iter().filter(|claim| claim.live());
        let claim = live.next().filter(|claim| !self.replaced(&claim.pod))?;
        let alone = live.next().is_none();
        let unknown = self.owned(claim, claims, issue, &|_, _, _| None).is_none();
        (alone && unknown).then(|| (claim.endpoint(), claim.hi))
    }

    /// How many pods are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether no pod is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// The listed pods and when each was first seen.
    pub fn pods(&self) -> impl Iterator<Item = (&Pod, i64)> {
        self.present.values().map(|present| (&*present.pod, present.since))
    }

    /// When the listed pods were last proved to be all there are.
    #[must_use]
    pub fn current(&self) -> Option<i64> {
        self.current
    }

    /// Whether the pod is listed.
    #[must_use]
    pub fn lists(&self, uid: &str) -> bool {
        self.present.contains_key(uid)
    }

    /// Whether the pod is listed, and the only one at its addresses.
    #[must_use]
    pub fn owns(&self, uid: &str) -> bool {
        self.pod(uid).is_some_and(|pod| !self.replaced(pod))
    }

    /// Whether another live pod now owns an address which this one had.
    #[must_use]
    pub fn replaced(&self, pod: &Pod) -> bool {
        let mut claims = pod.addresses.iter().flat_map(|address| self.addresses.of(address));
        claims.any(|claim| claim.live() && claim.pod.uid != pod.uid)
    }

    /// The pod of this uid, if it is listed.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.present.get(uid).map(|present| &present.pod)
    }

    fn put(&mut self, pod: Arc<Pod>, lo: i64, at: i64) {
        let Some(first) = pod.addresses.first().copied() else { return };
        let since = match self.present.get(&pod.uid).cloned() {
            Some(old) => {
                self.close(&old.pod, Some(&pod), at);
                old.since
            }
            None => at,
        };
        let claim = Claim {
            pod: Arc::clone(&pod),
            address: first,
            lo,
            hi: at,
            until: None,
            by_hostname: false,
        };
        let mut forgotten = None;
        for address in &pod.addresses {
            let claim = Claim { address: *address, ..claim.clone() };
            forgotten = forgotten.max(self.addresses.open(*address, claim));
        }
        for (name, by_hostname) in names(&pod) {
            let claim = Claim { by_hostname, ..claim.clone() };
            forgotten = forgotten.max(self.names.open(Arc::clone(name), claim));
        }
        self.blind = forgotten.map_or(self.blind, |end| end.max(self.blind));
        self.present.insert(Arc::clone(&pod.uid), Present { pod, since });
    }

    fn take(&mut self, uid: &str, at: i64) {
        if let Some(old) = self.present.remove(uid) {
            self.close(&old.pod, None, at);
        }
    }

    /// Ends the claims of `old` that `new` does not continue.
    fn close(&mut self, old: &Pod, new: Option<&Pod>, at: i64) {
        for address in &old.addresses {
            if !new.is_some_and(|new| new.addresses.contains(address)) {
                self.addresses.close(address, &old.uid, at);
                self.departed += 1;
            }
        }
        for (name, _) in names(old) {
            if !new.is_some_and(|new| names(new).any(|(kept, _)| kept == name)) {
                self.names.close(&**name, &old.uid, at);
                self.departed += 1;
            }
        }
    }

    /// Forgets who left before `line`, and with it the certainty about that time.
    fn forget(&mut self, at: i64, line: i64) {
        let (addresses, end) = self.addresses.forget(line);
        let (names, other) = self.names.forget(line);
        self.departed = addresses + names;
        self.blind = end.max(other).map_or(self.blind, |end| end.max(self.blind));
        self.swept = at;
    }
}

/// The names a pod answers to; the flag marks the host name.
fn names(pod: &Pod) -> impl Iterator<Item = (&Arc<str>, bool)> {
    let name = (pod.hostname.as_ref() != Some(&pod.name)).then_some((&pod.name, false));
    pod.hostname.iter().map(|hostname| (hostname, true)).chain(name)
}

#[cfg(test)]
mod tests;

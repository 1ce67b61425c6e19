//! What operators can ask of the running program: the rooms' answers, put together.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::acceptors::Acceptors;
use super::reload::Ask;
use crate::admin::{self, Closing, LogLevel, Operations, Overview, Revocation};
use crate::admission::Admission;
use crate::auth::{Fingerprint, Now, TargetPolicy};
use crate::config::{Layered, Level};
use crate::discovery::{Condition, Host, Moment, Pods, Readiness, Verdict};
use crate::proxy::{Gateway, clock};
use crate::telemetry;
use crate::telemetry::metrics::{Cache, Discovery, Limits, Metrics, State};
use crate::tunnel::ends::End;
use crate::tunnel::registry::Snapshot;
use crate::upstream::desktops::Desktops;

/// Reloads that are remembered.
const RELOADS: usize = 50;

/// Seconds that one value of a chart stands for, and routes that are told apart in it.
const STEP: usize = 5;
const ROUTES: usize = 7;

/// States of discovery, as metrics name them.
const STATES: &[&str] = &["unsynced", "synced", "degraded", "forbidden"];

/// What changes with a reload, for those who ask.
#[derive(Debug)]
pub(super) struct Journal {
    settings: ArcSwap<Vec<admin::Setting>>,
    level: ArcSwap<Level>,
    reloads: Mutex<VecDeque<admin::Reload>>,
    /// The domain of the desktops' names, which no reload changes.
    domain: String,
}

impl Journal {
    /// The settings that the process starts with.
    pub(super) fn new(layered: &Layered) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings(layered)),
            level: ArcSwap::from_pointee(layered.config.log.level),
            reloads: Mutex::default(),
            domain: layered.config.desktop.domain(),
        }
    }

    /// Notes that a configuration was taken into use.
    pub(super) fn settings(&self, layered: &Layered) {
        self.settings.store(Arc::new(settings(layered)));
        self.set_level(layered.config.log.level);
    }

    /// Notes what became of a reload.
    pub(super) fn reloaded(&self, cause: &str, faults: Vec<String>) {
        let mut reloads = self.reloads();
        reloads.truncate(RELOADS - 1);
        reloads.push_front(admin::Reload {
            time: clock::now().wall.as_secs_f64(),
            taken: faults.is_empty(),
            cause: cause.to_owned(),
            faults,
        });
    }

    fn reloads(&self) -> MutexGuard<'_, VecDeque<admin::Reload>> {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_level(&self, level: Level) {
        telemetry::set_level(level);
        self.level.store(Arc::new(level));
    }
}

fn settings(layered: &Layered) -> Vec<admin::Setting> {
    let effective = layered.effective().into_iter();
    let setting = |(key, value, origin): (_, _, _)| admin::Setting {
        key,
        value,
        origin: format!("{origin}"),
    };
    effective.map(setting).collect()
}

/// The rooms that answer.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) gateway: Gateway,
    pub(super) tls: Option<Acceptors>,
    pub(super) journal: Arc<Journal>,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) started: Instant,
    pub(super) node: String,
    /// Those of this process.
    pub(super) runtimes: Vec<Handle>,
}

impl Control {
    fn counters(&self) -> &Metrics {
        self.gateway.in_flight.metrics()
    }

    fn condition(&self) -> Option<Condition> {
        match &self.gateway.desktops {
            Desktops::Kubernetes(watched) => Some(watched.pods.status().condition),
            Desktops::Dns | Desktops::Static(_) => None,
        }
    }

    fn certificates(&self) -> Vec<admin::Certificate> {
        let known = self.tls.iter().flat_map(Acceptors::describe);
        let certificate = |of: crate::tls::Description| admin::Certificate {
            name: of.names.first().cloned().unwrap_or(of.file),
            not_before: of.not_before as f64,
            not_after: of.not_after as f64,
        };
        known.map(certificate).collect()
    }

    fn desktops(&self, tunnels: &[Snapshot]) -> Vec<admin::Desktop> {
        let mut open: HashMap<&str, u64> = HashMap::new();
        for tunnel in tunnels {
            *open.entry(&tunnel.pod).or_default() += 1;
        }
        match &self.gateway.desktops {
            Desktops::Kubernetes(watched) => {
                let pods = watched.pods.list().into_iter();
                let desktop = |pod: crate::discovery::PodView| admin::Desktop {
                    tunnels: open.get(&*pod.name).copied().unwrap_or_default(),
                    pod: pod.name.to_string(),
                    ready: pod.readiness == Readiness::Ready,
                    state: format!("{:?}", pod.readiness).to_lowercase(),
                    age: Some(pod.age.as_secs_f64()),
                };
                pods.map(desktop).collect()
            }
            Desktops::Dns | Desktops::Static(_) => Vec::new(),
        }
    }

    /// Every label by which a pod may be known, of which one is given. Where DNS has served until the pods could
    /// be watched, tunnels are listed by the fingerprints that they were opened under.
    fn labels(&self, pod: &str) -> HashSet<String> {
        let mut labels = HashSet::from([pod.to_owned()]);
        if let Desktops::Kubernetes(watched) = &self.gateway.desktops
            && watched.announced.load(Ordering::Relaxed)
        {
            for known in watched.pods.list() {
                let mut others = fingerprints(&watched.pods, &known.name, &self.journal.domain);
                if *known.name == *pod || others.iter().any(|label| label == pod) {
                    others.push(known.name.to_string());
                    labels.extend(others);
                }
            }
        }
        labels
    }
}

/// What a pod is called where its name is not known: a fingerprint of its address, or of its name in the
/// desktop domain, as its tokens hold either. Of a pod that is being deleted the address is not told.
fn fingerprints(pods: &Pods, name: &str, domain: &str) -> Vec<String> {
    let Now { wall, mono } = clock::now();
    let address = match pods.judge(Host::Name(name), None, Moment { wall, mono }) {
        Verdict::Allow(of) | Verdict::NotReady(of) | Verdict::Ambiguous(of)
            if *of.name == *name =>
        {
            Some(of.address.to_canonical())
        }
        Verdict::Allow(_)
        | Verdict::NotReady(_)
        | Verdict::Ambiguous(_)
        | Verdict::Ending
        | Verdict::Reused
        | Verdict::NotFound
        | Verdict::Unsynced => None,
    };
    let networks = address.map(IpNet::from).into_iter().collect();
    let Ok(policy) = TargetPolicy::new(Some(domain), networks) else { return Vec::new() };
    let texts = [Some(format!("{name}.{domain}")), address.map(|address| address.to_string())];
    let targets = texts.into_iter().flatten().map(|text| policy.confine(text.as_bytes()));
    targets.filter_map(|target| Some(target.ok()?.label())).collect()
}

/// Word for a state of discovery, whether it is as it should be, and the age of what it knows.
fn told(condition: Condition) -> (&'static str, bool, Option<f64>) {
    match condition {
        Condition::Unsynced => ("unsynced", false, None),
        Condition::Synced { age } => ("synced", true, Some(age.as_secs_f64())),
        Condition::Degraded { age, .. } => ("degraded", false, Some(age.as_secs_f64())),
        Condition::Forbidden { age } => ("forbidden", false, age.map(|age| age.as_secs_f64())),
    }
}

fn limits(admission: &Admission) -> Limits {
    let figures = admission.figures();
    Limits {
        refused: figures.refused,
        auth_delayed: figures.delayed,
        connections: figures.connections,
        pressure: figures.pressure as u8,
        memory: figures.memory.map(|memory| (memory.used, memory.limit)),
    }
}

fn tunnel(of: &Snapshot) -> admin::Tunnel {
    admin::Tunnel {
        id: of.id,
        route: of.route.to_string(),
        token: of.token.as_deref().map(ToOwned::to_owned),
        pod: of.pod.to_string(),
        client: of.client,
        age: of.age,
        to_pod: of.to_pod.bytes,
        to_client: of.to_client.bytes,
        rtt: of.rtt,
        last_input: of.last_input,
        expires_in: of.expires_in,
        closing: of.closing.map(ToOwned::to_owned),
    }
}

impl Operations for Control {
    fn missing(&self) -> Vec<String> {
        let leaving = self.gateway.in_flight.is_leaving().then(|| "leaving".to_owned());
        // What DNS serves meanwhile is degraded by choice.
        let unsynced = match (&self.gateway.desktops, self.condition()) {
            (
                Desktops::Kubernetes(watched),
                Some(Condition::Unsynced | Condition::Forbidden { age: None }),
            ) => !(watched.falls_back && watched.pods.is_blind()),
            _ => false,
        };
        leaving.into_iter().chain(unsynced.then(|| "discovery".to_owned())).collect()
    }

    fn metrics(&self) -> String {
        let totals = self.gateway.tunnels.totals();
        let mut open: HashMap<Arc<str>, u64> = HashMap::new();
        for route in self.gateway.rooms().table.iter() {
            open.insert(Arc::clone(&route.name), 0);
        }
        for tunnel in self.gateway.tunnels.list() {
            *open.entry(tunnel.route).or_default() += 1;
        }
        let (entries, hits, misses) = self.gateway.rooms().authenticator.cache_figures();
        // Several may be for one name; the first to end is worth an alarm.
        let mut certificates = BTreeMap::new();
        for of in self.certificates() {
            let earliest = certificates.entry(of.name).or_insert(of.not_after);
            *earliest = earliest.min(of.not_after);
        }
        let keys = self.gateway.rooms().authenticator.keys().into_iter();
        self.counters().exposition(State {
            in_flight: self.gateway.in_flight.count() as u64,
            draining: self.gateway.in_flight.is_draining(),
            tunnels_open: open.into_iter().collect(),
            tunnels_closed: End::ALL.iter().map(|end| end.reason()).zip(totals.closed).collect(),
            to_pods: totals.to_pod.bytes,
            to_clients: totals.to_client.bytes,
            cache: Cache { entries, hits, misses },
            keys: keys.map(|of| (of.kind, short(&of.digest), of.used)).collect(),
            revoked: self.gateway.revoked.len(),
            discovery: self.condition().map(|condition| {
                let (state, _, age) = told(condition);
                Discovery { age, state, states: STATES }
            }),
            certificates: certificates.into_iter().collect(),
            log_lines_dropped: telemetry::lines_lost(),
            tasks: self.runtimes.iter().map(|of| of.metrics().num_alive_tasks() as u64).sum(),
            limits: limits(&self.gateway.rooms().admission),
        })
    }

    fn overview(&self) -> Overview {
        let metrics = self.counters();
        let tunnels = self.gateway.tunnels.list();
        let desktops = self.desktops(&tunnels);
        let failures = metrics.auth_failures().into_iter();
        let loaded = self.gateway.rooms().keys_since as f64;
        Overview {
            time: clock::now().wall.as_secs_f64(),
            build: admin::Build {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: String::new(),
                node: self.node.clone(),
            },
            uptime: self.started.elapsed().as_secs_f64(),
            missing: self.missing(),
            draining: self.gateway.in_flight.is_draining(),
            log_level: self.level(),
            in_flight: self.gateway.in_flight.count() as u64,
            series: metrics.series(STEP, ROUTES),
            tokens_accepted: metrics.tokens_accepted(),
            auth_failures: failures
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| admin::Count { reason, count })
                .collect(),
            tunnels_open: tunnels.len() as u64,
            tunnels: tunnels.iter().map(tunnel).collect(),
            desktops_known: desktops.len() as u64,
            desktops,
            certificates: self.certificates(),
            keys: self
                .gateway
                .rooms()
                .authenticator
                .keys()
                .into_iter()
                .map(|of| key(of, loaded))
                .collect(),
            reloads: self.journal.reloads().iter().cloned().collect(),
            discovery: self.condition().map(|condition| {
                let (state, healthy, age) = told(condition);
                admin::Discovery { state: state.to_owned(), healthy, age }
            }),
        }
    }

    fn tunnels(&self) -> Vec<admin::Tunnel> {
        self.gateway.tunnels.list().iter().map(tunnel).collect()
    }

    fn tunnel(&self, id: u64) -> Option<admin::Tunnel> {
        self.gateway.tunnels.get(id).as_ref().map(tunnel)
    }

    fn close(&self, id: u64) -> Closing {
        match self.gateway.tunnels.get(id) {
            None => Closing::Unknown,
            Some(_) if self.gateway.tunnels.close(id, End::Operator) => Closing::Told,
            Some(_) => Closing::Already,
        }
    }

    fn revoke(&self, what: &Revocation) -> usize {
        let Gateway { revoked, tunnels, .. } = &self.gateway;
        let now = clock::now().wall;
        match what {
            Revocation::Token(token) => {
                if let Some(token) = Fingerprint::parse(token) {
                    revoked.token(token);
                }
                tunnels.close_where(|info| info.token.as_deref() == Some(token), End::Revoked)
            }
            Revocation::Pod(pod) => {
                let labels = self.labels(pod);
                labels.iter().for_each(|label| revoked.pod(label, now));
                tunnels.close_where(|info| labels.contains(&*info.pod), End::Revoked)
            }
            Revocation::Everything(_) => {
                revoked.everything(now);
                tunnels.close_where(|_| true, End::Revoked)
            }
        }
    }

    fn drain(&self) {
        self.gateway.in_flight.leave();
        self.gateway.in_flight.drain();
    }

    fn level(&self) -> LogLevel {
        match **self.journal.level.load() {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
        }
    }

    fn set_level(&self, level: LogLevel) {
        self.journal.set_level(match level {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
        });
    }

    fn config(&self) -> Vec<admin::Setting> {
        self.journal.settings.load().to_vec()
    }

    async fn reload(&self) -> Result<(), Vec<String>> {
        let (answer, outcome) = oneshot::channel();
        let gone = || vec!["nothing can be reloaded here".to_owned()];
        self.asks.send(Ask { answer }).await.map_err(|_| gone())?;
        let outcome = outcome.await.map_err(|_| gone())?;
        outcome.map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }
}

/// What of a key's digest names it.
fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn key(of: crate::auth::KeyFacts, loaded: f64) -> admin::Key {
    admin::Key {
        key: short(&of.digest),
        kind: of.kind.to_owned(),
        bits: u32::try_from(of.bits).unwrap_or_default(),
        loaded,
        verified: of.used,
    }
}

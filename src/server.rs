//! Composition root: a configuration becomes rooms, rooms become a running server.
//!
//! [`build()`] does everything that can fail for reasons of configuration; `deskgate check` is
//! exactly that and stops there. [`run`] listens: the connections are served by workers, one thread
//! and one runtime each, and the calling thread keeps what is not a request (signals, drain).

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::{self, Token};
use crate::admission::Limit;
use crate::auth;
use crate::auth::revoked::Revoked;
use crate::config::{Admin, Config, Layered};
use crate::error::Error;
use crate::proxy::{Gateway, Rooms, clock};
use crate::telemetry::access_log::InFlight;
use crate::telemetry::metrics::{Kind, Metrics};
use crate::tls::SettingsError;
use crate::tunnel;
use crate::tunnel::registry::Registry;
use crate::upstream;

mod acceptors;
mod build;
mod certificates;
mod collector;
mod connection;
mod control;
mod descriptors;
pub(crate) mod discovery;
mod handover;
mod http2;
mod lifecycle;
pub(crate) mod listeners;
mod plain;
mod pressure;
mod proxy_protocol;
mod reload;
mod stage;
mod worker;

use acceptors::Acceptors;
pub use acceptors::Secure;
pub use build::{Built, KeyTexts, build, build_authenticator};
use control::{Control, Journal};
use descriptors::Spares;
use handover::{Giver, Offer, Socket, Taken};
use lifecycle::{Lifecycle, Signals};
use listeners::{Listeners, Scheme};
use reload::Reloader;
pub use reload::{Load, Source};
use stage::{Stage, Stages};
use worker::Worker;

/// Time for workers to end what is left.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Threads of a worker for what would block it (files, names); more work waits for one of them.
const BLOCKING_THREADS: usize = 32;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address is taken, or may not be used.
    #[error("cannot listen on {address}: {error}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] SettingsError),
    /// The sockets of another process cannot be taken, or ours not be offered.
    #[error("server.handover: {0}")]
    Handover(io::Error),
    /// The operators' interface cannot be set up.
    #[error("{0}")]
    Admin(String),
    /// Traces cannot be sent.
    #[error("tracing: {0}")]
    Tracing(String),
    /// The system gives no thread, or nothing to wait with.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Serves until a signal ends the process (see `server/lifecycle.rs`).
///
/// # Errors
/// If an address cannot be listened on.
pub fn run(built: Built, layered: &Layered, source: Option<Source>) -> Result<(), ListenError> {
    let config = &layered.config;
    let workers = match config.server.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    descriptors::raise(config.limits.connections);
    let Built { rooms, tls } = built;
    let tls = acceptors(tls)?;
    let taken = config.server.handover.as_deref().map(Taken::from).transpose();
    let taken = taken.map_err(ListenError::Handover)?.flatten();
    let (given, giver) = taken.map_or_else(Default::default, Taken::split);
    let listeners = Listeners::bind(&addresses(config, tls.is_some()), workers, given)?;
    let copies = match &config.server.handover {
        Some(_) => listeners.copies().map_err(ListenError::Handover)?,
        None => Vec::new(),
    };
    // Before the first thread that serves: a span belongs to each request or to none. And before the
    // operators' socket, which takes the place of a running process's.
    let _spans = collector::start(&config.tracing, &config.server.node_name)
        .map_err(ListenError::Tracing)?;
    let admin = admin_listeners(config, giver.is_some())?;
    for line in rooms.authenticator.describe_keys() {
        info!(key = line, "key loaded");
    }
    let control = runtime(1)?;
    let signals = {
        let _entered = control.enter();
        Signals::receive(source.is_some()).map_err(ListenError::Thread)?
    };
    let mut runtimes = vec![control.handle().clone()];
    let in_flight = InFlight::default();
    name_counters(in_flight.metrics(), &rooms);
    let tunnels = Registry::counting(in_flight.metrics().clone());
    let desktops = control.block_on(async { discovery::start(config, &tunnels) });
    let revoked = Revoked::new(config.discovery.skew);
    let gateway = Gateway::new(rooms, desktops, tunnels, revoked, in_flight);
    let (stage, stages) = watch::channel(Stage::Serving);
    let (leaving, leaves) = watch::channel(false);
    let (ended, ends) = mpsc::channel(1);
    // One for each worker: they need them at the same time.
    let spares = Arc::new(Spares::new(workers).map_err(ListenError::Thread)?);
    for (index, sockets) in listeners.sockets.into_iter().enumerate() {
        let (gateway, tls, spares) = (gateway.clone(), tls.clone(), Arc::clone(&spares));
        let (stage, leaving) = (stages.clone(), leaves.clone());
        let upstream_keepalive = config.server.upstream_keepalive;
        let worker = Worker { sockets, tls, gateway, upstream_keepalive, spares, stage, leaving };
        runtimes.push(start(worker, index, ended.clone())?);
    }
    drop(ended);
    for (scheme, address) in &listeners.addresses {
        info!(%address, scheme = scheme.name(), "listening");
    }
    let stages = Stages { stage, leaving };
    let process = Process { layered, gateway, tls, admin, source, runtimes };
    control.block_on(async {
        process.rule(signals, stages, copies, giver).await?;
        // Workers write the last lines of the log; one that hangs is not waited for.
        drop(timeout(LAST_LINES, closed(ends)).await);
        Ok::<_, ListenError>(())
    })?;
    // What blocks a thread (a name that is looked up, a process that takes nothing) is not waited for.
    control.shutdown_background();
    info!("stopped");
    Ok(())
}

/// Starts a worker's thread; its runtime. `ended` is dropped when it ends.
fn start(worker: Worker, index: usize, ended: mpsc::Sender<()>) -> Result<Handle, ListenError> {
    let runtime = runtime(BLOCKING_THREADS)?;
    let handle = runtime.handle().clone();
    let work = move || {
        worker.serve(runtime);
        drop(ended);
    };
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(work);
    thread.map(|_| handle).map_err(ListenError::Thread)
}

/// What the calling thread does beside the workers.
struct Process<'a> {
    layered: &'a Layered,
    gateway: Gateway,
    tls: Option<Acceptors>,
    admin: admin::Listeners,
    source: Option<Source>,
    runtimes: Vec<Handle>,
}

impl Process<'_> {
    /// Serves operators, reloads, and returns when the process may end.
    async fn rule(
        self,
        mut signals: Signals,
        stages: Stages,
        copies: Vec<Socket>,
        giver: Option<Giver>,
    ) -> Result<(), ListenError> {
        let Self { layered, gateway, tls, admin, source, runtimes } = self;
        let config = &layered.config;
        let (asks, asked) = mpsc::channel(1);
        let journal = Arc::new(Journal::new(layered));
        let control = Control {
            gateway: gateway.clone(),
            tls: tls.clone(),
            journal: Arc::clone(&journal),
            asks,
            started: Instant::now(),
            node: config.server.node_name.clone(),
            runtimes,
        };
        if let Some(tls) = &tls {
            tokio::spawn(certificates::watch(tls.clone()));
        }
        tokio::spawn(pressure::watch(gateway.clone()));
        tokio::spawn(admin::sample(gateway.in_flight.metrics().clone()));
        if !config.log.tunnels.is_zero() {
            tokio::spawn(tunnel::report(gateway.tunnels.clone(), config.log.tunnels));
        }
        let operators = tokio::spawn(admin::serve(admin, Arc::new(control))).abort_handle();
        if let (Some(source), Some(hup)) = (source, signals.hup.take()) {
            let watched = reload::watched(source.file.as_ref(), config);
            let authorities = gateway.rooms().marks.authorities;
            let (gateway, current) = (gateway.clone(), config.clone());
            let reloader =
                Reloader { gateway, tls, source, current, watched, authorities, journal };
            tokio::spawn(reloader.run(hup, asked));
        }
        let offer = match &config.server.handover {
            Some(path) => Some(Offer::at(path, copies).map_err(ListenError::Handover)?),
            None => None,
        };
        // From here on nothing can fail any more.
        if let Some(giver) = giver {
            giver.served();
        }
        let server = config.server.clone();
        Lifecycle { gateway, stages, operators, server }.run(signals, offer).await;
        Ok(())
    }
}

/// Waits until no worker is left.
async fn closed(mut ends: mpsc::Receiver<()>) {
    while ends.recv().await.is_some() {}
}

fn acceptors(tls: Option<Secure>) -> Result<Option<Acceptors>, ListenError> {
    let Some(secure) = tls else { return Ok(None) };
    for warning in secure.certificates.warnings(clock::now().wall.as_secs()) {
        warn!("{warning}");
    }
    Ok(Some(Acceptors::new(secure)?))
}

/// Tells the counters which names there are; what they do not know is counted as `other`.
fn name_counters(metrics: &Metrics, rooms: &Rooms) {
    metrics.add_routes(rooms.table.iter().map(|route| &*route.name));
    metrics.add_reasons(Kind::Auth, auth::Error::REASONS);
    metrics.add_reasons(Kind::Upstream, upstream::Error::ALL.iter().map(upstream::Error::reason));
    metrics.add_reasons(Kind::Failure, Error::OWN_REASONS);
    metrics.add_reasons(Kind::Failure, Limit::ALL.map(Limit::reason));
}

/// The sockets of the operators' interface; another process that hands over still has its own.
fn admin_listeners(config: &Config, shared: bool) -> Result<admin::Listeners, ListenError> {
    let Admin { listen, token, socket, hosts } = &config.admin;
    let token = match token {
        Some(path) => {
            let wrong = |error: &dyn Display| {
                ListenError::Admin(format!("admin.token: {}: {error}", path.display()))
            };
            let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
            Some(Token::new(&text).map_err(|error| wrong(&error))?)
        }
        None => None,
    };
    let mut admin = admin::Listeners::new(token, hosts.clone());
    for address in listen {
        let wrong = |error| ListenError::Address { address: *address, error };
        let bound = listeners::single(*address, listen, shared).map_err(wrong)?;
        admin.tcp(bound).map_err(wrong)?;
    }
    if let Some(path) = socket {
        admin.unix(path).map_err(|error| ListenError::Admin(error.to_string()))?;
    }
    Ok(admin)
}

fn addresses(config: &Config, tls: bool) -> Vec<(Scheme, SocketAddr)> {
    let plain = config.listen.http.iter().map(|address| (Scheme::Http, *address));
    let secure = config.listen.https.iter().map(|address| (Scheme::Https, *address));
    plain.chain(secure.filter(|_| tls)).collect()
}

fn runtime(blocking: usize) -> Result<Runtime, ListenError> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(blocking).build().map_err(ListenError::Thread)
}

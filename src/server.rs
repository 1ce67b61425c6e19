//! Composition root: a configuration becomes rooms, rooms become a running server.
//!
//! [`build()`] does everything that can fail for reasons of configuration; `deskgate check` is
//! exactly that and stops there. [`run`] listens: the connections are served by workers, one thread
//! and one runtime each, and the calling thread keeps what is not a request (signals, drain).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use pingora::server::configuration::ServerConf;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::config::Config;
use crate::proxy::{Gateway, clock};
use crate::tls::{Acceptor, SettingsError};
use crate::tunnel::registry::Registry;

mod build;
mod connection;
mod discovery;
mod handover;
mod http2;
mod lifecycle;
mod listeners;
mod proxy_protocol;
mod reload;
mod worker;

pub use build::{Built, KeyTexts, build, build_authenticator};
use handover::{Offer, Taken};
use lifecycle::Lifecycle;
use listeners::{Listeners, Scheme};
use reload::Reloader;
pub use reload::{Answer, Load, Source};
use worker::Worker;

/// Times an idempotent request, or one of which nothing was sent, is tried at most.
const MAX_TRIES: usize = 4;

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
    /// The system gives no thread, or nothing to wait with.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Serves until a signal ends the process (see `server/lifecycle.rs`).
///
/// # Errors
/// If an address cannot be listened on.
pub fn run(built: Built, config: Config, source: Option<Source>) -> Result<(), ListenError> {
    let Built { rooms, tls } = built;
    let workers = match config.server.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let tls = match tls {
        Some((certificates, settings)) => {
            for warning in certificates.warnings(clock::now().wall.as_secs()) {
                warn!("{warning}");
            }
            Some(Acceptor::new(certificates, settings)?)
        }
        None => None,
    };
    let taken = match &config.server.handover {
        Some(path) => Taken::from(path).map_err(ListenError::Handover)?,
        None => None,
    };
    let (given, giver) = taken.map_or_else(Default::default, Taken::split);
    let listeners = Listeners::bind(&addresses(&config, tls.is_some()), workers, given)?;
    for line in rooms.authenticator.describe_keys() {
        info!(key = line, "key loaded");
    }
    let control = runtime(1)?;
    let tunnels = Registry::default();
    let desktops = control.block_on(async { discovery::start(&config, &tunnels) });
    let gateway = Gateway::new(rooms, desktops, tunnels);
    let conf = Arc::new(server_conf(&config, workers));
    let (accepting, accepts) = watch::channel(true);
    let (leaving, leaves) = watch::channel(false);
    let copies = match &config.server.handover {
        Some(_) => listeners.copies().map_err(ListenError::Handover)?,
        None => Vec::new(),
    };
    for (index, sockets) in listeners.sockets.into_iter().enumerate() {
        let worker = Worker {
            sockets,
            gateway: gateway.clone(),
            conf: Arc::clone(&conf),
            accepting: accepts.clone(),
            leaving: leaves.clone(),
            tls: tls.clone(),
        };
        let runtime = runtime(BLOCKING_THREADS)?;
        let name = format!("worker-{index}");
        let start = thread::Builder::new().name(name).spawn(move || worker.serve(&runtime));
        start.map_err(ListenError::Thread)?;
    }
    for (scheme, address) in &listeners.addresses {
        info!(%address, scheme = scheme.name(), "listening");
    }
    let handover = config.server.handover.clone();
    let lifecycle =
        Lifecycle { gateway: gateway.clone(), accepting, leaving, server: config.server.clone() };
    control.block_on(async {
        if let Some(giver) = giver {
            giver.served();
        }
        if let Some(source) = source {
            let reloader = Reloader { gateway, tls, source, current: config };
            let hup = signal(SignalKind::hangup()).map_err(ListenError::Thread)?;
            let (_asks, asked) = mpsc::channel(1);
            tokio::spawn(reloader.run(hup, asked));
        }
        let offer = match &handover {
            Some(path) => Some(Offer::at(path, copies).map_err(ListenError::Handover)?),
            None => None,
        };
        lifecycle.run(offer).await;
        Ok::<_, ListenError>(())
    })?;
    info!("stopped");
    // The process ends with this thread; what its workers still have is past its time.
    Ok(())
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

fn server_conf(config: &Config, workers: usize) -> ServerConf {
    ServerConf {
        threads: workers,
        upstream_keepalive_pool_size: config.server.upstream_keepalive,
        max_retries: MAX_TRIES,
        ..ServerConf::default()
    }
}

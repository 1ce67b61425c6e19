//! Composition root: a configuration becomes rooms, rooms become a server.
//!
//! [`build`] does everything that can fail for reasons of configuration; `deskgate check` is
//! exactly that and stops there. [`run`] listens.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;
use tracing::info;
use zeroize::Zeroizing;

use crate::auth::{
    Authenticator, CacheLimits, KeyError, KeyFile, PayloadKeys, SigningKeys, TargetPolicy,
};
use crate::config::{Config, Fault, Layered};
use crate::files::{Root, Settings};
use crate::proxy::Gateway;
use crate::route::{Destination, Table};
use crate::telemetry::access_log::InFlight;
use crate::upstream::Upstreams;
use crate::upstream::resolver::Resolver;

use connection::Connections;

mod connection;
mod proxy_protocol;
mod shutdown;

use shutdown::Signals;

/// Times an idempotent request, or one of which nothing was sent, is tried at most.
const MAX_TRIES: usize = 4;

/// The PEM files of a configuration, by the name that messages use for each.
#[derive(Debug, Default)]
pub struct KeyTexts {
    /// Public keys that verify tokens.
    pub signing: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Keys that open `hash`.
    pub payload: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl KeyTexts {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// One fault for each file that cannot be read.
    pub fn read(layered: &Layered) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut read = |key: &str, paths: &[PathBuf]| {
            if paths.is_empty() {
                faults.push(layered.fault(key, "names no file"));
            }
            let mut texts = Vec::with_capacity(paths.len());
            for path in paths {
                match fs::read(path) {
                    Ok(text) => texts.push((path.display().to_string(), Zeroizing::new(text))),
                    Err(error) => {
                        let message = format!("{} cannot be read: {error}", path.display());
                        faults.push(layered.fault(key, message));
                    }
                }
            }
            texts
        };
        let auth = &layered.config.auth;
        let texts = Self {
            signing: read("auth.signing_keys", &auth.signing_keys),
            payload: read("auth.payload_keys", &auth.payload_keys),
        };
        if faults.is_empty() { Ok(texts) } else { Err(faults) }
    }
}

/// Checks a configuration by building every room from it, and reports all that is wrong.
///
/// # Errors
/// Every fault, with its file, line and key.
pub fn build(layered: &Layered, keys: &KeyTexts) -> Result<Gateway, Vec<Fault>> {
    let mut faults = Vec::new();
    let table = Table::new(layered).map_err(|wrong| faults.extend(wrong)).ok();
    let authenticator = authenticator(layered, keys, &mut faults);
    let resolver = Resolver::new(&layered.config.dns)
        .map_err(|(key, message)| faults.push(layered.fault(key, message)))
        .ok();
    let roots = table.as_ref().map(|table| roots(table, layered, &mut faults));
    if layered.config.listen.http.is_empty() {
        faults.push(layered.fault("listen.http", "names no address"));
    }
    match (table, authenticator, resolver, roots) {
        (Some(table), Some(authenticator), Some(resolver), Some(roots)) if faults.is_empty() => {
            Ok(Gateway {
                table,
                roots,
                authenticator,
                upstreams: Upstreams::new(resolver),
                listen: layered.config.listen.clone(),
                in_flight: InFlight::default(),
            })
        }
        _ => Err(faults),
    }
}

/// The folders of the rows that serve files.
fn roots(table: &Table, layered: &Layered, faults: &mut Vec<Fault>) -> BTreeMap<String, Root> {
    let mut roots = BTreeMap::new();
    for route in table.iter() {
        let Destination::Files(folder) = &route.backend else { continue };
        let name = &route.row.name;
        let fallback = route.row.fallback.clone();
        match Root::new(Settings { fallback, ..Settings::new(folder.clone()) }) {
            Ok(root) => drop(roots.insert(name.clone(), root)),
            Err(error) => faults.push(layered.fault(&format!("route.{name}.backend"), error)),
        }
    }
    roots
}

/// The authenticator alone, for commands that judge tokens.
///
/// # Errors
/// Every fault of the keys and the target policy.
pub fn build_authenticator(
    layered: &Layered,
    keys: &KeyTexts,
) -> Result<Authenticator, Vec<Fault>> {
    let mut faults = Vec::new();
    authenticator(layered, keys, &mut faults).ok_or(faults)
}

fn authenticator(
    layered: &Layered,
    keys: &KeyTexts,
    faults: &mut Vec<Fault>,
) -> Option<Authenticator> {
    let config = &layered.config;
    let allow = config.auth.allow_published_keys;
    let mut keep = |key: &str, error: &dyn Display| faults.push(layered.fault(key, error));
    let signing = load(&keys.signing, |files| SigningKeys::load(files, allow))
        .map_err(|error| keep("auth.signing_keys", &error))
        .ok();
    let payload = load(&keys.payload, |files| PayloadKeys::load(files, allow))
        .map_err(|error| keep("auth.payload_keys", &error))
        .ok();
    let policy = TargetPolicy::new(Some(&config.desktop.domain()), config.desktop.cidrs.clone())
        .map_err(|error| keep("desktop", &error))
        .ok();
    let limits = CacheLimits { entries: config.auth.cache_entries };
    Some(Authenticator::new(signing?, payload?, policy?, limits))
}

fn load<K>(
    texts: &[(String, Zeroizing<Vec<u8>>)],
    load: impl FnOnce(&[KeyFile<'_>]) -> Result<K, KeyError>,
) -> Result<K, KeyError> {
    let files: Vec<_> = texts.iter().map(|(name, pem)| KeyFile { name, pem }).collect();
    load(&files)
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address is taken, or may not be used.
    #[error("cannot listen on {address}: {error}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Serves until a signal ends the process (see `server/shutdown.rs`).
///
/// # Errors
/// If an address cannot be listened on.
pub fn run(gateway: Gateway, config: &Config) -> Result<(), ListenError> {
    for address in &config.listen.http {
        // pingora waits 30 s for a taken address and then panics: try first, and say it.
        TcpListener::bind(address)
            .map_err(|error| ListenError::Address { address: *address, error })?;
    }
    for line in gateway.authenticator.describe_keys() {
        info!(key = line, "key loaded");
    }
    let in_flight = gateway.in_flight.clone();
    let conf = Arc::new(server_conf(config));
    let app = Arc::new(http_proxy(&conf, gateway));
    let listen = config.listen.clone();
    let app = Connections { app, listen, in_flight: in_flight.clone() };
    let mut service = Service::new("deskgate".to_owned(), app);
    for address in &config.listen.http {
        service.add_tcp(&address.to_string());
        info!(%address, "listening");
    }
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();
    server.add_service(service);
    let (ended, until_ended) = mpsc::channel();
    let signals = Signals { in_flight, drain: config.server.drain, ended };
    let serve = move || server.run(RunArgs { shutdown_signal: Box::new(signals) });
    let serving = thread::Builder::new().name("deskgate".to_owned()).spawn(serve);
    serving.map_err(ListenError::Thread)?;
    // An error means that the server has returned by itself.
    let _ended = until_ended.recv();
    info!("stopped");
    Ok(())
}

fn server_conf(config: &Config) -> ServerConf {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = match config.server.threads {
        0 => cores(),
        threads => threads,
    };
    ServerConf {
        threads,
        // A worker of its own for each connection: small requests cost 5-8 % less.
        work_stealing: false,
        upstream_keepalive_pool_size: config.server.upstream_keepalive,
        max_retries: MAX_TRIES,
        // Waiting is done by `shutdown`, which ends as soon as nothing is under way.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

//! Takes a new configuration, and new keys and files that it names, into use while serving.
//!
//! A new state is built whole beside the old one and swapped in, or refused whole. Files are looked
//! at every two seconds rather than watched: a handful of `stat`s costs nothing, and sees what a
//! watch on a directory misses (`subPath` mounts, network file systems, Kubernetes' swap of the
//! `..data` link, which is followed).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::build::{Built, KeyTexts, build};
use super::control::Journal;
use crate::config::{Config, Fault, Layered};
use crate::proxy::{Gateway, clock};
use crate::tls::Acceptor;
use crate::tunnel::ends::End;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the configuration anew: the file and the environment are the caller's.
pub type Load = Box<dyn Fn() -> Result<Layered, Vec<Fault>> + Send>;

/// Where a configuration comes from.
pub struct Source {
    /// The operator's file, if there is one.
    pub file: Option<PathBuf>,
    /// Reads it.
    pub load: Load,
}

/// What of a file tells that it is another one.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

/// Reloads when asked and when a file changes.
pub(super) struct Reloader {
    pub(super) gateway: Gateway,
    /// The HTTPS listeners', if there are any.
    pub(super) tls: Option<Acceptor>,
    pub(super) source: Source,
    /// The configuration in use.
    pub(super) current: Config,
    /// What operators are told.
    pub(super) journal: Arc<Journal>,
}

impl Reloader {
    /// Serves SIGHUP, requests and changes of files for ever.
    pub(super) async fn run(mut self, mut hup: Signal, mut asked: mpsc::Receiver<Ask>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut loaded = self.stamps();
        let mut seen = self.stamps();
        loop {
            let (cause, ask) = tokio::select! {
                _ = hup.recv() => ("signal", None),
                Some(ask) = asked.recv() => ("operator", Some(ask)),
                _ = look.tick() => {
                    let now = self.stamps();
                    // A change is taken once it has stood still from one look to the next.
                    let settled = now == seen;
                    seen = now;
                    if !settled || seen == loaded {
                        continue;
                    }
                    ("file", None)
                }
            };
            let outcome = self.reload(cause);
            loaded = self.stamps();
            if let Some(ask) = ask {
                // Whoever asked may be gone.
                drop(ask.answer.send(outcome));
            }
        }
    }

    /// Builds the state anew and swaps it in, or leaves everything as it is.
    fn reload(&mut self, cause: &str) -> Result<(), Vec<Fault>> {
        let metrics = self.gateway.in_flight.metrics().clone();
        let cut = || self.gateway.tunnels.totals().closed.get(End::Shutdown as usize - 1).copied();
        let cut_before = cut();
        let outcome = self.build();
        let result = match outcome {
            Ok((Built { rooms, tls }, layered)) => {
                let config = &layered.config;
                for key in self.current.fixed_at_start(config) {
                    warn!(key, "takes effect at the next start");
                }
                if let (Some(acceptor), Some((certificates, _))) = (&self.tls, tls) {
                    for warning in certificates.warnings(clock::now().wall.as_secs()) {
                        warn!("{warning}");
                    }
                    acceptor.swap(certificates);
                }
                metrics.add_routes(rooms.table.iter().map(|route| &*route.name));
                self.gateway.swap(rooms);
                self.journal.settings(&layered);
                // Tunnels whose relay vanished: nothing here ends one.
                metrics.tunnels_dropped_by_reload(cut().zip(cut_before).map_or(0, |(a, b)| a - b));
                self.current = layered.config;
                info!("configuration reloaded");
                Ok(())
            }
            Err(faults) => {
                for fault in &faults {
                    error!(%fault, "configuration refused, the old one stays in use");
                }
                Err(faults)
            }
        };
        metrics.reloaded(result.is_ok(), clock::now().wall.as_secs_f64());
        let faults = result.as_ref().err().into_iter().flatten();
        self.journal.reloaded(cause, faults.map(ToString::to_string).collect());
        result
    }

    /// A state whose files did not change while they were read.
    fn build(&self) -> Result<(Built, Layered), Vec<Fault>> {
        const TRIES: usize = 3;
        let mut tries = 0;
        loop {
            let before = self.stamps();
            let layered = (self.source.load)()?;
            let keys = KeyTexts::read(&layered)?;
            tries += 1;
            if self.stamps() == before || tries == TRIES {
                let built = build(&layered, &keys, Some(&self.gateway.rooms()))?;
                return Ok((built, layered));
            }
        }
    }

    /// What the files look like now. A file that is not there has no stamp.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        let file = self.source.file.iter();
        let (auth, tls) = (&self.current.auth, &self.current.tls);
        let certificates = tls.certificates.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        file.chain(&auth.signing_keys)
            .chain(&auth.payload_keys)
            .chain(&tls.client_authorities)
            .chain(certificates)
            .map(|path| {
                let found = fs::metadata(path).ok()?;
                let modified = found.modified().ok();
                Some(Stamp { inode: found.ino(), length: found.len(), modified })
            })
            .collect()
    }
}

/// A reload that somebody asks for.
#[derive(Debug)]
pub(super) struct Ask {
    /// Where its outcome goes.
    pub(super) answer: oneshot::Sender<Result<(), Vec<Fault>>>,
}

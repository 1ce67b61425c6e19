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

use super::acceptors::Acceptors;
use super::build::{Built, KeyTexts, build};
use super::control::Journal;
use crate::config::{Config, Fault, Layered};
use crate::proxy::{Gateway, clock};
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
    /// When it was read for the first time, or before.
    pub read_at: SystemTime,
}

/// What of a file tells that it is another one.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
    /// When its owner or rights changed, too: seconds and nanoseconds.
    changed: (i64, i64),
}

/// Reloads when asked and when a file changes.
pub(super) struct Reloader {
    pub(super) gateway: Gateway,
    /// The HTTPS listeners', if there are any.
    pub(super) tls: Option<Acceptors>,
    pub(super) source: Source,
    /// The configuration in use.
    pub(super) current: Config,
    /// The files of the configuration that was tried last.
    pub(super) watched: Vec<PathBuf>,
    /// What `tls.client_authorities` held at the start.
    pub(super) authorities: [u8; 32],
    /// What operators are told.
    pub(super) journal: Arc<Journal>,
}

impl Reloader {
    /// Serves SIGHUP, requests and changes of files for ever.
    pub(super) async fn run(mut self, mut hup: Signal, mut asked: mpsc::Receiver<Ask>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut loaded = stamps(&self.watched);
        let since = self.source.read_at;
        if loaded.iter().flatten().any(|stamp| stamp.modified.is_some_and(|at| at >= since)) {
            // It may have changed after it was read at the start.
            loaded.clear();
        }
        let mut seen = stamps(&self.watched);
        loop {
            let (cause, ask) = tokio::select! {
                _ = hup.recv() => ("signal", None),
                Some(ask) = asked.recv() => ("operator", Some(ask)),
                _ = look.tick() => {
                    let now = stamps(&self.watched);
                    // A change is taken once it has stood still from one look to the next.
                    let settled = now == seen;
                    seen = now;
                    if !settled || seen == loaded {
                        continue;
                    }
                    ("file", None)
                }
            };
            // Whatever changes from now on is another change.
            loaded = stamps(&self.watched);
            let before = self.watched.clone();
            let outcome = self.reload(cause);
            if self.watched != before {
                loaded = stamps(&self.watched);
            }
            if let Some(ask) = ask {
                // Whoever asked may be gone.
                drop(ask.answer.send(outcome));
            }
        }
    }

    /// Builds the state anew and swaps it in, or leaves everything as it is.
    fn reload(&mut self, cause: &str) -> Result<(), Vec<Fault>> {
        let metrics = self.gateway.in_flight.metrics().clone();
        let tunnels = self.gateway.tunnels.clone();
        let cut = || tunnels.totals().closed.get(End::Shutdown as usize - 1).copied();
        let cut_before = cut();
        let outcome = self.build();
        let result = match outcome {
            Ok((Built { rooms, tls }, layered)) => {
                if tls.is_some() != self.tls.is_some() {
                    warn!(key = "listen.https", "takes effect at the next start");
                }
                if rooms.marks.authorities != self.authorities {
                    warn!(key = "tls.client_authorities", "takes effect at the next start");
                }
                if let (Some(acceptors), Some(secure)) = (&self.tls, tls) {
                    for warning in secure.certificates.warnings(clock::now().wall.as_secs()) {
                        warn!("{warning}");
                    }
                    acceptors.swap(&secure.certificates);
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
    fn build(&mut self) -> Result<(Built, Layered), Vec<Fault>> {
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            let before = stamps(&self.watched);
            let mut layered = (self.source.load)()?;
            for key in self.current.fixed_at_start(&layered.config) {
                warn!(key, "takes effect at the next start");
            }
            // Half of it in use would be worse: tokens and discovery must mean the same pods, and a redirect
            // lead to where somebody listens.
            layered.config.keep_fixed(&self.current);
            let watched = watched(self.source.file.as_ref(), &layered.config);
            // Also those of a configuration that is refused: they may come to be right.
            if watched != self.watched {
                self.watched = watched;
                continue;
            }
            let keys = KeyTexts::read(&layered)?;
            if stamps(&self.watched) == before {
                let built = build(&layered, &keys, Some(&self.gateway.rooms()))?;
                return Ok((built, layered));
            }
        }
        let layered = (self.source.load)()?;
        Err(vec![layered.fault("auth", "files change while they are read")])
    }
}

/// Everything that a configuration is read from.
pub(super) fn watched(file: Option<&PathBuf>, config: &Config) -> Vec<PathBuf> {
    let (auth, tls) = (&config.auth, &config.tls);
    let certificates = tls.certificates.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    file.into_iter()
        .chain(&auth.signing_keys)
        .chain(&auth.payload_keys)
        .chain(&tls.client_authorities)
        .chain(certificates)
        .cloned()
        .collect()
}

/// What files look like now. One that is not there has no stamp.
fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        let modified = found.modified().ok();
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Stamp { inode: found.ino(), length: found.len(), modified, changed })
    };
    files.iter().map(stamp).collect()
}

/// A reload that somebody asks for.
#[derive(Debug)]
pub(super) struct Ask {
    /// Where its outcome goes.
    pub(super) answer: oneshot::Sender<Result<(), Vec<Fault>>>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    /// It could not be read before, and nothing else of it may change.
    #[test]
    fn a_file_with_other_rights_is_another_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let files = [file.path().to_owned()];
        let before = stamps(&files);
        let start = Instant::now();
        // The system's clock for files has ticks of milliseconds.
        while stamps(&files) == before {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }
}

//! Log set-up: one line per event on standard output, written by a thread of its own.

use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{Level, Log, LogFormat};

pub mod access_log;
mod combined;
mod json;
pub mod metrics;
mod output;
pub mod privacy;
pub mod trace_context;
pub mod traces;

/// Lines that wait to be written, at most: some 8 MB.
const QUEUE: usize = 16_384;

/// Longest wait at the end for queued lines to be taken.
const FLUSH: Duration = Duration::from_secs(2);

/// Counts dropped lines.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// The handle of the level in use.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Flushes what is still queued when it is dropped, as far as that is taken in time.
#[derive(Debug)]
#[must_use]
pub struct Flush(Option<WorkerGuard>);

impl Drop for Flush {
    fn drop(&mut self) {
        let guard = self.0.take();
        let (done, end) = mpsc::channel::<()>();
        // The library complains on standard output when its queue is full, which may take for ever
        // if nobody reads that: on a thread that the end of the process need not wait for.
        let flush = thread::Builder::new().spawn(move || {
            drop(guard);
            drop(done);
        });
        if flush.is_ok() {
            // Nothing is sent: done or over.
            let _ = end.recv_timeout(FLUSH);
        }
    }
}

/// Lines that were lost because nobody read them fast enough, or the disk was full.
#[must_use]
pub fn lines_dropped() -> u64 {
    let queued = DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64);
    queued + output::lines_refused()
}

/// Changes the level while running; nothing happens unless [`start`] has been called.
pub fn set_level(level: Level) {
    if let Some(handle) = LEVEL.get() {
        // An error means that the subscriber is gone, and the logs with it.
        drop(handle.reload(filter(level)));
    }
}

/// Starts logging. Lines are queued, and new ones dropped when the queue is full, so that a stalled
/// reader of standard output never stalls a request.
pub fn start(log: &Log) -> Flush {
    let queue = NonBlockingBuilder::default().buffered_lines_limit(QUEUE);
    let (writer, guard) = queue.finish(output::standard());
    privacy::start(log.addresses);
    // A second start in one process keeps the first.
    drop(DROPPED.set(writer.error_counter()));
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(false)
                    .event_format(json::Json)
                    .with_writer(writer),
            )
            .try_init(),
        LogFormat::Combined => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(false)
                    .event_format(combined::Combined)
                    .with_writer(writer),
            )
            .try_init(),
    };
    // A second start in one process keeps the first.
    if started.is_ok() {
        drop(LEVEL.set(handle));
    }
    Flush(Some(guard))
}

/// Our own events at the configured level. Of the libraries only warnings: below that level they
/// print request heads.
fn filter(level: Level) -> EnvFilter {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    EnvFilter::new(format!("warn,deskgate={level},access={level},tunnel={level}"))
}

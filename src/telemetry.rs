//! Log set-up: one line per event on standard output, written by a thread of its own.

use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, WorkerGuard};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{Level, Log, LogFormat};

pub mod access_log;
mod combined;
pub mod metrics;
pub mod trace_context;

/// Counts dropped lines.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// The handle of the level in use.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Flushes what is still queued when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Flush(#[expect(dead_code, reason = "held for its Drop")] WorkerGuard);

/// Lines that were dropped because nobody read them fast enough.
#[must_use]
pub fn lines_dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Changes the level while running; nothing happens unless [`start`] has been called.
pub fn set_level(level: Level) {
    if let Some(handle) = LEVEL.get() {
        // An error means that the subscriber is gone, and the logs with it.
        drop(handle.reload(filter(level)));
    }
}

/// Starts logging. Lines are queued (at most 128,000, then the oldest rule: new ones are dropped)
/// so that a stalled reader of standard output never stalls a request.
pub fn start(log: &Log) -> Flush {
    let (writer, guard) = NonBlocking::new(std::io::stdout());
    // A second start in one process keeps the first.
    drop(DROPPED.set(writer.error_counter()));
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_span_list(false)
                    .fmt_fields(JsonFields::new())
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
    Flush(guard)
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

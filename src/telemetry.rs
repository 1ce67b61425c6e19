//! Log set-up: one line per event on standard output, written by a thread of its own.

use std::io;
use std::sync::OnceLock;

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

pub use output::{Flush, lines_lost};

/// The handle of the level in use.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Changes the level while running; nothing happens unless [`start`] has been called.
pub fn set_level(level: Level) {
    if let Some(handle) = LEVEL.get() {
        // An error means that the subscriber is gone, and the logs with it.
        drop(handle.reload(filter(level)));
    }
}

/// Starts logging. Lines are queued, and new ones dropped when the queue is full, so that a stalled
/// reader of standard output never stalls a request.
///
/// # Errors
/// If the system gives no thread to write them.
pub fn start(log: &Log) -> io::Result<Flush> {
    let (writer, flush) = output::start()?;
    privacy::start(log.addresses);
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
    Ok(flush)
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

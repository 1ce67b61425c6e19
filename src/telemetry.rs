//! Log set-up: one line per event on standard output, written by a thread of its own.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tracing::enabled;
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

use access_log::Record;
use output::Lines;

/// Usual length of a line.
const LINE: usize = 640;

/// Methods that are told as they are (RFC 9110 section 9.3, RFC 5789); clients invent others.
pub const METHODS: [&str; 8] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"];

/// Where the lines of requests go, and in what form.
static REQUESTS: OnceLock<(LogFormat, Lines)> = OnceLock::new();

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
    let (lines, flush) = output::start()?;
    privacy::start(log.addresses);
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(false)
                    .event_format(json::Json)
                    .with_writer(lines.clone()),
            )
            .try_init(),
        LogFormat::Combined => registry
            .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone()))
            .try_init(),
    };
    // A second start in one process keeps the first.
    if started.is_ok() {
        drop(LEVEL.set(handle));
        drop(REQUESTS.set((log.format, lines)));
    }
    Ok(flush)
}

/// Writes the line of a request that took this long. It is an event like any other, but not one of
/// `tracing`'s: to hand over its fields one by one cost a tenth of a small request.
fn write(record: &Record, duration: Duration) {
    if !enabled!(target: "access", tracing::Level::INFO) {
        return;
    }
    let Some((form, lines)) = REQUESTS.get() else { return };
    #[expect(clippy::disallowed_methods, reason = "the time of the line, not of a decision")]
    let now = SystemTime::now();
    let mut line = String::with_capacity(LINE);
    match form {
        LogFormat::Json => json::request(&mut line, record, duration, now),
        LogFormat::Combined => combined::request(&mut line, record, duration, now),
    }
    lines.put(line.as_bytes());
}

/// Our own events at the configured level. Of the libraries only warnings: below that level they
/// print request heads. Of the resolver none: they print names, which may be those of desktops.
fn filter(level: Level) -> EnvFilter {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let quiet = "hickory_net=off,hickory_proto=off,hickory_resolver=off";
    EnvFilter::new(format!("warn,{quiet},deskgate={level},access={level},tunnel={level}"))
}

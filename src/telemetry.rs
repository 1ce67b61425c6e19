//! Log set-up: one line per event on standard output, written by a thread of its own.

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Level, Log, LogFormat};

pub mod access_log;
mod combined;

/// Flushes what is still queued when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Flush(#[expect(dead_code, reason = "held for its Drop")] WorkerGuard);

/// Starts logging. Lines are queued (at most 128,000, then the oldest rule: new ones are dropped)
/// so that a stalled reader of standard output never stalls a request.
pub fn start(log: &Log) -> Flush {
    let (writer, guard) = NonBlocking::new(std::io::stdout());
    let registry = tracing_subscriber::registry().with(filter(log.level));
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
    drop(started); // A second start in one process keeps the first.
    Flush(guard)
}

/// Our own events at the configured level. Of the libraries only warnings: below that level they
/// print request heads, and pingora-proxy repeats what the access log says better.
fn filter(level: Level) -> EnvFilter {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    EnvFilter::new(format!("warn,deskgate={level},access={level},pingora_proxy=off"))
}

//! When and how the process ends.
//!
//! SIGTERM and SIGQUIT let requests and tunnels end by themselves for the configured time; SIGINT and
//! a second SIGTERM end at once.

use std::sync::mpsc::Sender;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::telemetry::access_log::InFlight;

/// How often the number of requests under way is looked at while draining.
const TICK: Duration = Duration::from_millis(50);

/// Waits for the signals that end the process.
pub(super) struct Signals {
    pub(super) in_flight: InFlight,
    pub(super) drain: Duration,
    /// Told when the process may end.
    pub(super) ended: Sender<()>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::quit()),
        );
        let (Ok(mut term), Ok(mut int), Ok(mut quit)) = signals else {
            error!("signals cannot be received");
            return ShutdownSignal::FastShutdown;
        };
        tokio::select! {
            _ = term.recv() => self.drain(&mut term, &mut int).await,
            _ = int.recv() => {}
            _ = quit.recv() => self.drain(&mut term, &mut int).await,
        }
        // The process ends with its main thread. pingora would take its workers' runtimes down one
        // by one, and a worker that still accepts may spin on the one that is going away.
        let _main_thread_is_gone = self.ended.send(());
        std::future::pending().await
    }
}

impl Signals {
    async fn drain(&self, term: &mut Signal, int: &mut Signal) {
        info!(under_way = self.in_flight.count(), limit = ?self.drain, "draining");
        self.in_flight.drain();
        let deadline = Instant::now() + self.drain;
        while self.in_flight.count() > 0 && Instant::now() < deadline {
            tokio::select! {
                () = sleep(TICK) => {}
                _ = term.recv() => break,
                _ = int.recv() => break,
            }
        }
        info!(left = self.in_flight.count(), "drained");
    }
}

//! When and how the process ends.
//!
//! SIGTERM: readiness fails at once; for `server.linger` everything is served on, because load
//! balancers learn late; then nothing new is accepted and no tunnel opened, and what is under way has
//! `server.drain` to end. SIGINT, and a second SIGTERM, end at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::config::Server;
use crate::proxy::Gateway;

/// How often the number of requests under way is looked at while draining.
const TICK: Duration = Duration::from_millis(50);

/// Waits for the signals that end the process.
pub(super) struct Lifecycle {
    pub(super) gateway: Gateway,
    /// Tells the workers whether to accept connections.
    pub(super) accepting: watch::Sender<bool>,
    pub(super) server: Server,
}

impl Lifecycle {
    /// Returns when the process may end.
    pub(super) async fn run(self) {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::quit()),
        );
        let (Ok(mut term), Ok(mut int), Ok(mut quit)) = signals else {
            error!("signals cannot be received");
            return;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = quit.recv() => {}
            _ = int.recv() => return,
        }
        let impatient = async |term: &mut Signal, int: &mut Signal| {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        tokio::select! {
            () = self.end() => {}
            () = impatient(&mut term, &mut int) => {}
        }
        info!(left = self.gateway.in_flight.count(), "drained");
    }

    async fn end(&self) {
        let in_flight = &self.gateway.in_flight;
        in_flight.leave();
        info!(under_way = in_flight.count(), linger = ?self.server.linger, "leaving");
        sleep(self.server.linger).await;
        in_flight.drain();
        // No receiver is left if no worker is.
        let _ = self.accepting.send(false);
        info!(under_way = in_flight.count(), limit = ?self.server.drain, "draining");
        let deadline = Instant::now() + self.server.drain;
        while in_flight.count() > 0 && Instant::now() < deadline {
            sleep(TICK).await;
        }
    }
}

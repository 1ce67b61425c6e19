//! When and how the process ends.
//!
//! SIGTERM: readiness fails at once; for `server.linger` everything is served on, because load
//! balancers learn late; then nothing new is accepted and no tunnel opened, and what is under way has
//! `server.drain` to end, tunnels being closed one after the other. SIGQUIT, or when another process has
//! taken the listening sockets over: what is under way lives on here, until SIGTERM or SIGINT drains it.
//! SIGINT before that, and a second SIGTERM, end at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::handover::Offer;
use super::stage::{Stage, Stages};
use crate::config::Server;
use crate::proxy::Gateway;
use crate::tunnel::drain::drain;
use crate::tunnel::ends::End;

/// How often the number of requests under way is looked at while draining.
const TICK: Duration = Duration::from_millis(50);

/// Time for connections that were accepted last to send their first request.
pub(super) const HEADS: Duration = Duration::from_secs(1);

/// Time for tunnels to pass on that they end at once.
const MOMENT: Duration = Duration::from_millis(1200);

/// The signals that mean something to the process. They are received from before anything is served: the
/// system would end it for one that comes earlier, and with it what it has begun.
#[derive(Debug)]
pub(super) struct Signals {
    /// SIGHUP, if there is something to load anew; otherwise it ends the process, as a terminal that is
    /// closed expects.
    pub(super) hup: Option<Signal>,
    term: Signal,
    int: Signal,
    quit: Signal,
}

impl Signals {
    /// Receives them from now on.
    pub(super) fn receive(reloads: bool) -> io::Result<Self> {
        Ok(Self {
            hup: if reloads { Some(signal(SignalKind::hangup())?) } else { None },
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

/// Waits for the signals that end the process.
pub(super) struct Lifecycle {
    pub(super) gateway: Gateway,
    /// Tells the workers and their connections.
    pub(super) stages: Stages,
    /// The operators' interface.
    pub(super) operators: AbortHandle,
    pub(super) server: Server,
}

impl Lifecycle {
    /// Returns when the process may end.
    pub(super) async fn run(self, signals: Signals, offer: Option<Offer>) {
        let Signals { mut term, mut int, mut quit, .. } = signals;
        tokio::select! {
            _ = term.recv() => {}
            _ = quit.recv() => self.retire(Stage::Closed, &mut term, &mut int).await,
            () = taken(offer) => self.retire(Stage::HandedOver, &mut term, &mut int).await,
            _ = int.recv() => {
                self.stop().await;
                return self.enter(Stage::Over);
            }
        }
        tokio::select! {
            () = self.end() => {}
            () = either(&mut term, &mut int) => self.stop().await,
        }
        info!(left = self.gateway.in_flight.count(), "drained");
        self.enter(Stage::Over);
    }

    /// Another process listens now: accepts nothing more, and serves what there is until it ends by
    /// itself, the limit is over, or a signal says otherwise.
    async fn retire(&self, stage: Stage, term: &mut Signal, int: &mut Signal) {
        let in_flight = &self.gateway.in_flight;
        self.leave();
        self.enter(stage);
        // Probes and operators are for the process that has taken over.
        self.operators.abort();
        info!(under_way = in_flight.count(), limit = ?self.server.retire, "retired");
        let now = Instant::now();
        tokio::select! {
            () = until(now + self.server.retire, || self.is_quiet(now + HEADS)) => {}
            () = either(term, int) => {}
        }
    }

    async fn end(&self) {
        let in_flight = &self.gateway.in_flight;
        // Operators may have had it drained long before: nobody was told yet that it ends.
        if !*self.stages.leaving.borrow() {
            self.leave();
            info!(under_way = in_flight.count(), linger = ?self.server.linger, "leaving");
            sleep(self.server.linger).await;
        }
        in_flight.drain();
        if *self.stages.stage.borrow() < Stage::Closed {
            self.enter(Stage::Closed);
        }
        let limit = self.server.drain;
        info!(under_way = in_flight.count(), ?limit, "draining");
        let deadline = Instant::now() + limit;
        let heads = Instant::now() + HEADS;
        drain(&self.gateway.tunnels, limit).await;
        until(deadline.max(heads), || {
            // A pod may only now have accepted an upgrade that was under way before.
            self.gateway.tunnels.close_where(|_| true, End::Drain);
            self.is_quiet(heads)
        })
        .await;
        if in_flight.count() > 0 {
            self.stop().await;
        }
    }

    /// Whether nothing is under way, and nothing will be: who has connected and not asked yet has until
    /// `heads` to. Idle connections are closed.
    fn is_quiet(&self, heads: Instant) -> bool {
        let in_flight = &self.gateway.in_flight;
        // In this order: a connection is counted until its tunnel is.
        let asked = in_flight.connections() == 0 || Instant::now() >= heads;
        asked && in_flight.count() == 0
    }

    /// Tells every tunnel, and gives it a moment to pass that on.
    async fn stop(&self) {
        let (tunnels, in_flight) = (&self.gateway.tunnels, &self.gateway.in_flight);
        let others = in_flight.count().saturating_sub(tunnels.len());
        tunnels.close_where(|_| true, End::Shutdown);
        // A tunnel's line is written when it is off the registry.
        let written = || tunnels.is_empty() && in_flight.count() <= others;
        until(Instant::now() + MOMENT, written).await;
    }

    fn leave(&self) {
        self.gateway.in_flight.leave();
        let _ = self.stages.leaving.send(true);
    }

    fn enter(&self, stage: Stage) {
        // No receiver is left if no worker is.
        let _ = self.stages.stage.send(stage);
    }
}

/// Waits until another process has taken the sockets over; for ever if none are offered.
async fn taken(offer: Option<Offer>) {
    match offer {
        Some(offer) => offer.taken().await,
        None => std::future::pending().await,
    }
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Waits until something is so, or the deadline.
async fn until(deadline: Instant, is_so: impl Fn() -> bool) {
    while !is_so() && Instant::now() < deadline {
        sleep(TICK).await;
    }
}

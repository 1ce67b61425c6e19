//! A worker: one thread that accepts connections and serves them to their end.

use std::io;
use std::net::{SocketAddr, TcpListener as BoundListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::error;

use super::acceptors::Acceptors;
use super::connection::{Connections, TURN_AWAY};
use super::descriptors::{Spares, is_exhausted};
use super::listeners::Scheme;
use super::stage::Stage;
use crate::proxy::Gateway;
use crate::tls::Acceptor;
use crate::upstream::pool::Pool;

/// Pause after the system refused to give a connection (no descriptor, no memory).
const PAUSE: Duration = Duration::from_millis(20);

/// Longest time for which a spare descriptor is held by one connection.
const LAST_WORD: Duration = Duration::from_millis(200);

/// What a worker needs.
pub(super) struct Worker {
    pub(super) sockets: Vec<(Scheme, BoundListener)>,
    /// For HTTPS.
    pub(super) tls: Option<Acceptors>,
    pub(super) gateway: Gateway,
    /// Most idle connections to upstreams.
    pub(super) upstream_keepalive: usize,
    /// For when there are no descriptors.
    pub(super) spares: Arc<Spares>,
    /// What to do.
    pub(super) stage: watch::Receiver<Stage>,
    /// True once the process is about to end.
    pub(super) leaving: watch::Receiver<bool>,
}

impl Worker {
    /// Serves until the process ends.
    pub(super) fn serve(mut self, runtime: Runtime) {
        runtime.block_on(async {
            let connections = Arc::new(Connections::new(
                self.gateway.clone(),
                Pool::new(self.upstream_keepalive),
                self.leaving.clone(),
                self.stage.clone(),
            ));
            tokio::spawn(Arc::clone(&connections).sweep());
            for (scheme, socket) in std::mem::take(&mut self.sockets) {
                let tls = self.tls.as_ref().filter(|_| scheme == Scheme::Https);
                // A socket that listens has an address.
                let tls = tls.zip(socket.local_addr().ok()).map(|(tls, at)| tls.of(at));
                let spares = Arc::clone(&self.spares);
                let accept =
                    accept(socket, tls, Arc::clone(&connections), spares, self.stage.clone());
                tokio::spawn(async {
                    if let Err(error) = accept.await {
                        error!(%error, "a listener failed");
                    }
                });
            }
            // An error means that nobody is left to say so.
            drop(self.stage.wait_for(|stage| *stage == Stage::Over).await);
        });
        // Whatever is left ends here, each request with its line in the log.
        runtime.shutdown_background();
    }
}

/// Accepts until told otherwise, and then what had connected before.
async fn accept(
    socket: BoundListener,
    tls: Option<Acceptor>,
    connections: Arc<Connections>,
    spares: Arc<Spares>,
    mut stage: watch::Receiver<Stage>,
) -> io::Result<()> {
    // The process does not end before it is known who had connected.
    let _accepting = connections.connect();
    let counted = connections.admission().listener(socket.local_addr()?);
    // Connections have the options of their listener: set once, they cost none of them a call.
    let mut policy = connections.sockets();
    policy.apply(&socket);
    // A small answer must not wait for more bytes; without the option it works, later.
    let _ = SockRef::from(&socket).set_tcp_nodelay(true);
    let listener = TcpListener::from_std(socket)?;
    let secure = tls.is_some();
    let serve = |tcp, peer| {
        let connections = Arc::clone(&connections);
        match connections.admission().connect(&counted) {
            Ok(seat) => {
                let connected = connections.connect();
                drop(tokio::spawn(connections.serve((tcp, peer), tls.clone(), seat, connected)));
            }
            Err(refusal) => {
                let turn_away = async move {
                    connections.turn_away((tcp, peer), secure, refusal, TURN_AWAY).await
                };
                drop(tokio::spawn(turn_away));
            }
        }
    };
    let next = loop {
        let accepted = tokio::select! {
            accepted = spares.accept(&listener) => accepted,
            stage = stage.wait_for(|stage| *stage > Stage::Serving) => {
                break stage.map_or(Stage::Over, |stage| *stage);
            }
        };
        match accepted {
            Ok((tcp, peer)) => {
                let now = connections.sockets();
                if now != policy {
                    policy = now;
                    policy.apply(&listener);
                    policy.apply(&tcp);
                }
                serve(tcp, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                spares.complain(&error);
                if is_exhausted(&error)
                    && let Some(accepted) = spares.accept_with_one(&listener)
                {
                    let refusal = connections.admission().without_descriptor();
                    let turn_away = connections.turn_away(accepted, secure, refusal, LAST_WORD);
                    spares.take_back(turn_away.await);
                }
                // Others may have taken one: what is free for long goes to the next connection.
                spares.refill();
                sleep(PAUSE).await;
            }
        }
    };
    if next == Stage::Closed {
        take_rest(&listener.into_std()?, serve)?;
    }
    Ok(())
}

/// Takes who waits to be accepted: the kernel resets what is left in the queue of a socket that closes.
fn take_rest(listener: &BoundListener, serve: impl Fn(TcpStream, SocketAddr)) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((tcp, peer)) => {
                tcp.set_nonblocking(true)?;
                serve(TcpStream::from_std(tcp)?, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            // Mostly that nobody is left.
            Err(_) => return Ok(()),
        }
    }
}

/// Whether only the connection failed that would have been accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

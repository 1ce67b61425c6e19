//! A worker: one thread that accepts connections and serves them to their end.

use std::io;
use std::net::TcpListener as BoundListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::error;

use super::connection::Connections;
use super::listeners::Scheme;
use crate::proxy::Gateway;
use crate::tls::Acceptor;

/// Pause after the system refused to give a connection (no descriptor, no memory).
const PAUSE: Duration = Duration::from_millis(20);

/// What a worker needs.
pub(super) struct Worker {
    pub(super) sockets: Vec<(Scheme, BoundListener)>,
    /// For HTTPS.
    pub(super) tls: Option<Acceptor>,
    pub(super) gateway: Gateway,
    pub(super) conf: Arc<ServerConf>,
    /// False once no connection is to be accepted any more.
    pub(super) accepting: watch::Receiver<bool>,
    /// True once the process is about to end.
    pub(super) leaving: watch::Receiver<bool>,
}

impl Worker {
    /// Serves until the process ends.
    pub(super) fn serve(self, runtime: &Runtime) {
        runtime.block_on(async {
            // Each worker has its own connections to upstreams: none wakes another thread.
            let app = Arc::new(http_proxy(&self.conf, self.gateway.clone()));
            let connections = Arc::new(Connections::new(app, self.gateway, self.leaving));
            for (scheme, socket) in self.sockets {
                let tls = self.tls.clone().filter(|_| scheme == Scheme::Https);
                let accept = accept(socket, tls, Arc::clone(&connections), self.accepting.clone());
                tokio::spawn(async {
                    if let Err(error) = accept.await {
                        error!(%error, "a listener failed");
                    }
                });
            }
            std::future::pending::<()>().await;
        });
    }
}

/// Accepts until told otherwise, and then what had connected before.
async fn accept<A>(
    socket: BoundListener,
    tls: Option<Acceptor>,
    connections: Arc<Connections<A>>,
    mut accepting: watch::Receiver<bool>,
) -> io::Result<()>
where
    A: pingora::apps::HttpServerApp + Send + Sync + 'static,
{
    let listener = TcpListener::from_std(socket)?;
    let serve = |tcp, peer| {
        drop(tokio::spawn(Arc::clone(&connections).serve(tcp, peer, tls.clone())));
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = accepting.wait_for(|accepting| !accepting) => break,
        };
        match accepted {
            Ok((tcp, peer)) => serve(tcp, peer),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                error!(%error, "no connection can be accepted");
                sleep(PAUSE).await;
            }
        }
    }
    while let Some(Ok((tcp, peer))) = listener.accept().now_or_never() {
        serve(tcp, peer);
    }
    Ok(())
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

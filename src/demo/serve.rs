//! Accepts and serves the HTTP connections of one stand-in; assumes the listener is bound and that
//! only local clients reach it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::reply::Reply;

const CONNECTION_LIMIT: usize = 512;
/// Also how long an idle keep-alive connection stays open.
const HEADER_LIMIT: Duration = Duration::from_secs(75);
/// Bounds what a client that stops reading can hold; sockets that were upgraded are not counted.
const CONNECTION_LIFE: Duration = Duration::from_secs(3600);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const BUFFER_LIMIT: usize = 64 * 1024;

type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The client's address, found in the extensions of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Where a request that upgrades leaves what is to run on the connection afterwards.
///
/// It runs in the connection's own task, so that it is counted and ends with the stand-ins.
#[derive(Clone, Default)]
pub(super) struct Takeover(Arc<Mutex<Option<Session>>>);

impl Takeover {
    pub(super) fn leave(&self, session: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(session));
    }

    fn take(&self) -> Option<Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves until dropped; what it spawned ends with it.
pub(super) async fn serve<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTION_LIMIT => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(converse(stream, peer, answer.clone()));
                }
                Err(error) => {
                    // Usually out of descriptors: without a pause the loop would spin.
                    tracing::warn!(%error, "demo: cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn converse<A, F>(stream: TcpStream, peer: SocketAddr, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "demo: no TCP_NODELAY");
    }
    let takeover = Takeover::default();
    let offered = takeover.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(offered.clone());
        let reply = answer(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(BUFFER_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match timeout(CONNECTION_LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "demo: connection failed"),
        Err(_) => tracing::debug!("demo: connection outlived its limit"),
    }
    if let Some(session) = takeover.take() {
        session.await;
    }
}

//! Connections: one request each, and a limit on everything that a client may take.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Operations;
use super::listeners::{Access, Listeners, Rules};
use super::page::Page;
use super::routes::Room;

/// Time for a request's head to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Time from accepting a connection to the last byte of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Most connections at a time to one listener; what is above is closed at once.
const MAX_CONNECTIONS: usize = 256;

/// Of these, most from one address, so that no client keeps the probes out.
const MAX_FROM_ONE: usize = 64;

/// Pause after the system has refused to accept a connection, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
///
/// # Errors
/// If the runtime cannot wait for the listeners.
pub async fn serve<O: Operations>(listeners: Listeners, operations: Arc<O>) -> io::Result<()> {
    let Listeners { tcp, mut socket, .. } = listeners;
    let page = Arc::new(Page::new());
    let mut loops = JoinSet::new();
    for (listener, rules) in tcp {
        let address = listener.local_addr()?;
        if matches!(rules.access, Access::Nobody) {
            warn!(%address, "no admin token: only probes and metrics are served here");
        }
        info!(%address, "admin interface listening");
        let room = Room { operations: Arc::clone(&operations), page: Arc::clone(&page), rules };
        let listener = TcpListener::from_std(listener)?;
        loops.spawn(accept_tcp(listener, room));
    }
    if let Some(listener) = socket.as_mut().and_then(|socket| socket.listener.take()) {
        let rules = Rules { access: Access::Open, hosts: None };
        let listener = UnixListener::from_std(listener)?;
        loops.spawn(accept_unix(listener, Room { operations, page, rules }));
    }
    while loops.join_next().await.is_some() {}
    // `socket` was kept until here: its file goes with it.
    drop(socket);
    Ok(())
}

async fn accept_tcp<O: Operations>(listener: TcpListener, room: Room<O>) {
    let mut guests = Guests::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => guests.welcome(stream, Some(peer.ip()), &room),
                Err(_) => sleep(PAUSE).await,
            },
            () = guests.left() => {}
        }
    }
}

async fn accept_unix<O: Operations>(listener: UnixListener, room: Room<O>) {
    let mut guests = Guests::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => guests.welcome(stream, None, &room),
                Err(_) => sleep(PAUSE).await,
            },
            () = guests.left() => {}
        }
    }
}

/// The connections of a listener.
#[derive(Default)]
struct Guests {
    tasks: JoinSet<()>,
    /// Who is served by which task.
    peers: HashMap<Id, IpAddr>,
    from: HashMap<IpAddr, usize>,
}

impl Guests {
    fn welcome<S, O>(&mut self, stream: S, peer: Option<IpAddr>, room: &Room<O>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        O: Operations,
    {
        if self.tasks.len() >= MAX_CONNECTIONS {
            return;
        }
        if let Some(peer) = peer {
            let from = self.from.entry(peer).or_default();
            if *from >= MAX_FROM_ONE {
                return;
            }
            *from += 1;
        }
        let task = self.tasks.spawn(converse(stream, room.clone()));
        if let Some(peer) = peer {
            self.peers.insert(task.id(), peer);
        }
    }

    /// Waits until one has left.
    async fn left(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        let Some(peer) = self.peers.remove(&id) else { return };
        if let Some(from) = self.from.get_mut(&peer) {
            *from -= 1;
            if *from == 0 {
                self.from.remove(&peer);
            }
        }
    }
}

async fn converse<S, O>(stream: S, room: Room<O>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    O: Operations,
{
    let service = service_fn(move |request| {
        let room = room.clone();
        async move { Ok::<_, Infallible>(room.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off or is too slow gets no better answer than a closed connection.
    drop(timeout(REQUEST_LIMIT, connection).await);
}

//! Descriptors: as many as the process may have, and a few kept back for when there are none.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::io::{DupFlags, Errno, dup3};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tracing::{error, warn};

/// What the process needs beside its connections.
const OWN: u64 = 100;

/// A lack of descriptors lasts, and one line tells it.
const RARELY: Duration = Duration::from_secs(10);

/// Raises the soft limit to the hard one, and warns if that is less than the connections need.
pub(super) fn raise(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "the limit of descriptors cannot be raised");
        }
    }
    // A tunnel, or a request, has one to the client and one to the pod.
    let wanted = 2 * connections as u64 + OWN;
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < wanted
    {
        warn!(limit, wanted, "fewer descriptors than limits.connections needs");
    }
}

/// Whether it is descriptors that there are none of.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|error| exhausted.contains(&error))
}

/// Descriptors that are given up to accept a connection, tell it that there is no room, and close it: else it
/// would wait in the queue until its client gives up. All workers share them, and accept through them.
pub(super) struct Spares {
    kept: RwLock<Vec<OwnedFd>>,
    most: usize,
    /// What each of them is a copy of.
    idle: OwnedFd,
    complained: Mutex<Option<Instant>>,
}

impl Spares {
    /// So many are kept, as soon as there are any.
    pub(super) fn new(most: usize) -> io::Result<Self> {
        let idle = UnixDatagram::unbound()?.into();
        let spares = Self { kept: RwLock::default(), most, idle, complained: Mutex::default() };
        spares.refill();
        Ok(spares)
    }

    /// Accepts one connection. None takes a descriptor that is given up for another one meanwhile.
    pub(super) async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        let (accepted, missing) = poll_fn(|context| {
            let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
            listener.poll_accept(context).map(|accepted| (accepted, kept.len() < self.most))
        })
        .await;
        if missing && accepted.is_ok() {
            self.refill();
        }
        accepted
    }

    /// Accepts one connection with a descriptor that is given up for it. Comes back with
    /// [`Self::take_back`].
    pub(super) fn accept_with_one(
        &self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, SocketAddr)> {
        let mut kept = self.kept();
        drop(kept.pop()?);
        let accepted = listener.accept().now_or_never().and_then(Result::ok);
        if accepted.is_none() {
            // The kernel wants a descriptor before it looks whether anybody waits, and nobody does.
            kept.extend(self.idle.try_clone());
        }
        accepted
    }

    /// Closes a connection and keeps its descriptor, which is at no time free for others.
    pub(super) fn take_back(&self, tcp: TcpStream) {
        let Ok(mut descriptor) = tcp.into_std().map(OwnedFd::from) else { return };
        let mut kept = self.kept();
        if kept.len() < self.most && dup3(&self.idle, &mut descriptor, DupFlags::CLOEXEC).is_ok() {
            kept.push(descriptor);
        }
    }

    /// Keeps back as many again as are missing, if there are any.
    pub(super) fn refill(&self) {
        let mut kept = self.kept();
        while kept.len() < self.most
            && let Ok(descriptor) = self.idle.try_clone()
        {
            kept.push(descriptor);
        }
    }

    /// Tells that nothing can be accepted.
    pub(super) fn complain(&self, error: &io::Error) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() > RARELY) {
            *complained = Some(Instant::now());
            error!(%error, "no connection can be accepted");
        }
    }

    fn kept(&self) -> RwLockWriteGuard<'_, Vec<OwnedFd>> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

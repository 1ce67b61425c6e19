//! Descriptors: as many as the process may have, and one kept back for when there are none.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::io::Errno;
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

/// A descriptor that is given up to accept a connection, tell it that there is no room, and close it:
/// else it would wait in the queue until its client gives up.
pub(super) struct Spare {
    descriptor: Option<OwnedFd>,
    complained: Option<Instant>,
}

impl Spare {
    pub(super) fn new() -> Self {
        let mut spare = Self { descriptor: None, complained: None };
        spare.refill();
        spare
    }

    /// Keeps one back again, if there is one.
    pub(super) fn refill(&mut self) {
        if self.descriptor.is_none() {
            self.descriptor = UnixDatagram::unbound().ok().map(OwnedFd::from);
        }
    }

    /// Accepts one connection with it. Another thread may be faster.
    pub(super) fn accept(&mut self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        drop(self.descriptor.take()?);
        let accepted = listener.accept().now_or_never().and_then(Result::ok);
        if accepted.is_none() {
            // The kernel wants a descriptor before it looks whether anybody waits, and nobody does.
            self.refill();
        }
        accepted
    }

    /// Tells that nothing can be accepted.
    pub(super) fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|at| at.elapsed() > RARELY) {
            self.complained = Some(Instant::now());
            error!(%error, "no connection can be accepted");
        }
    }
}

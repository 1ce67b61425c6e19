//! A route's destination (and a desktop) to socket addresses, and connections to them.
//!
//! Desktops are found through [`desktops`], the seam for discovery; fixed services, and desktops where
//! nobody watches pods, by name through [`resolver::Resolver`]. A [`Connection`] is new or comes out of
//! the worker's [`pool`].

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use http::Method;
use pingora::{Error as PingoraError, ErrorType};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::auth::Target;
use crate::config::{Timeouts, Upstream as FixedUpstream};
use crate::http1::Waits;
use crate::http1::client::Exchange;
use crate::transport::{Transport, Wire};

pub mod desktops;
pub mod pool;
pub mod resolver;
pub mod waiting;

use desktops::Found;
use pool::{Peer, Pool};
use resolver::{Resolver, Staleness};

/// Most addresses of one name that are tried for one request.
const MAX_ADDRESSES: usize = 4;

/// Why an upstream did not serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No address took the connection.
    #[error("connection refused or lost")]
    ConnectFailed,
    /// No address answered in time.
    #[error("connection timed out")]
    ConnectTimeout,
    /// Nobody knows whose address the token's was when it was issued.
    #[error("desktop ambiguous")]
    DesktopAmbiguous,
    /// The desktop is about to end and takes nothing new.
    #[error("desktop ending")]
    DesktopEnding,
    /// There is no such desktop.
    #[error("no such desktop")]
    DesktopGone,
    /// The desktop exists and was not ready in time.
    #[error("desktop not ready")]
    DesktopNotReady,
    /// The token's address was another desktop's when it was issued.
    #[error("the address has another owner now")]
    DesktopReused,
    /// The desktops are not known yet.
    #[error("desktops unknown")]
    DesktopsUnknown,
    /// This process has no descriptor, or this machine no port, left for a connection.
    #[error("no descriptor or port is left for a connection")]
    Exhausted,
    /// Not HTTP, or HTTP that nobody should forward.
    #[error("invalid response")]
    InvalidResponse,
    /// The name servers failed.
    #[error("name resolution failed")]
    NameFailed,
    /// The name servers did not answer in time.
    #[error("name resolution timed out")]
    NameTimeout,
    /// The name does not exist (a pod that is gone, a service that is not installed).
    #[error("no such name")]
    NoSuchName,
    /// No response in the route's read time.
    #[error("response timed out")]
    ResponseTimeout,
}

impl Error {
    /// Every failure, for metrics.
    pub const ALL: [Self; 14] = [
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::DesktopAmbiguous,
        Self::DesktopEnding,
        Self::DesktopGone,
        Self::DesktopNotReady,
        Self::DesktopReused,
        Self::DesktopsUnknown,
        Self::Exhausted,
        Self::InvalidResponse,
        Self::NameFailed,
        Self::NameTimeout,
        Self::NoSuchName,
        Self::ResponseTimeout,
    ];

    /// Fixed name for logs and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::DesktopAmbiguous => "desktop_ambiguous",
            Self::DesktopEnding => "desktop_ending",
            Self::DesktopGone => "desktop_gone",
            Self::DesktopNotReady => "desktop_not_ready",
            Self::DesktopReused => "desktop_reused",
            Self::DesktopsUnknown => "desktops_unknown",
            Self::Exhausted => "exhausted",
            Self::InvalidResponse => "invalid_response",
            Self::NameFailed => "name_failed",
            Self::NameTimeout => "name_timeout",
            Self::NoSuchName => "no_such_name",
            Self::ResponseTimeout => "response_timeout",
        }
    }
}

/// Everything behind the gateway, by name.
#[derive(Debug)]
pub struct Upstreams {
    resolver: Resolver,
}

impl Upstreams {
    /// Finds hosts through this resolver.
    #[must_use]
    pub fn new(resolver: Resolver) -> Self {
        Self { resolver }
    }

    /// The addresses of a user's pod. Never from an expired answer: after its time an address may
    /// belong to another user's pod.
    ///
    /// # Errors
    /// If the pod's name cannot be resolved.
    pub async fn desktop(&self, target: &Target, port: u16) -> Result<Vec<SocketAddr>, Error> {
        match target {
            Target::Address(address) => Ok(vec![SocketAddr::new(address.ip(), port)]),
            Target::Name(name) => {
                let found = self.resolver.resolve(name.as_str(), Staleness::Refused).await?;
                Ok(with_port(&found, port))
            }
        }
    }

    /// The addresses of a fixed service.
    ///
    /// # Errors
    /// If its host cannot be resolved.
    pub async fn fixed(&self, upstream: &FixedUpstream) -> Result<Vec<SocketAddr>, Error> {
        let found = self.resolver.resolve(&upstream.host, Staleness::Allowed).await?;
        Ok(with_port(&found, upstream.port))
    }
}

fn with_port(found: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    found.iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(*address, port)).collect()
}

/// A connection to an upstream, for one request.
pub struct Connection {
    /// HTTP on it.
    pub http: Box<Exchange>,
    /// Whether it was kept from an earlier request: the upstream may be about to close it.
    pub reused: bool,
    peer: Peer,
}

impl Connection {
    /// A kept connection to the first of these addresses, or a new one to the first that takes it, for
    /// a request of this method. Without a pool always a new one.
    ///
    /// # Errors
    /// If no address takes the connection in its time.
    pub async fn open(
        found: &Found,
        method: &Method,
        timeouts: &Timeouts,
        pool: Option<&Pool>,
    ) -> Result<Self, Error> {
        let waits = Waits { read: timeouts.read, write: timeouts.send };
        // Those that say nothing leave time for the others, and all together take no longer than one.
        let count = u32::try_from(found.addresses.len()).unwrap_or(u32::MAX);
        let connect = timeouts.connect / count.max(1);
        let mut error = Error::ConnectFailed;
        for address in &found.addresses {
            let peer = Peer { address: *address, uid: found.uid.clone() };
            let kept = pool.and_then(|pool| pool.take(&peer, Instant::now()));
            let reused = kept.is_some();
            let transport = match kept {
                Some(transport) => transport,
                None => match timeout(connect, TcpStream::connect(address)).await {
                    Ok(Ok(tcp)) => {
                        // A keystroke must not wait for more bytes; without the option it works,
                        // later.
                        let _ = tcp.set_nodelay(true);
                        Box::new(Transport::new(Wire::Plain(tcp), *address))
                    }
                    // Another address would need as much.
                    Ok(Err(refused)) if is_exhausted(&refused) => return Err(Error::Exhausted),
                    Ok(Err(_)) => {
                        error = Error::ConnectFailed;
                        continue;
                    }
                    Err(_) => {
                        error = Error::ConnectTimeout;
                        continue;
                    }
                },
            };
            let http = Box::new(Exchange::new(transport, method, waits));
            return Ok(Self { http, reused, peer });
        }
        Err(error)
    }

    /// Keeps the connection for another request if its response is over and the upstream allows it, and
    /// closes it otherwise. Its request must be over.
    pub fn release(self, pool: &Pool) {
        if let Some(transport) = self.http.into_kept() {
            pool.keep(self.peer, transport, Instant::now());
        }
    }
}

/// Whether a connection was not even tried, since something of ours has run out.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS))
}

/// What an error while an upstream is written to or read means.
#[must_use]
pub fn fault(error: &PingoraError) -> Error {
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    match (error.etype(), kind) {
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout, _)
        | (_, Some(ErrorKind::TimedOut)) => Error::ResponseTimeout,
        (_, Some(ErrorKind::InvalidData)) => Error::InvalidResponse,
        _ => Error::ConnectFailed,
    }
}

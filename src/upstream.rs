//! A route's destination (and a desktop) to socket addresses, and connections to them.
//!
//! Desktops are found through [`desktops`], the seam for discovery; fixed services, and desktops where
//! nobody watches pods, by name through [`resolver::Resolver`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pingora::ErrorType;
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::auth::Target;
use crate::config::{Timeouts, Upstream as FixedUpstream};
use crate::transport::{Transport, Wire};

pub mod desktops;
pub mod resolver;

use resolver::{Resolver, Staleness};

/// Idle time after which a pooled connection is not used again. Node's servers in the pods close
/// theirs after 5 s; a request sent into that close would fail if it may not be repeated.
const POOL_IDLE: Duration = Duration::from_secs(4);

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
    pub const ALL: [Self; 13] = [
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::DesktopAmbiguous,
        Self::DesktopEnding,
        Self::DesktopGone,
        Self::DesktopNotReady,
        Self::DesktopReused,
        Self::DesktopsUnknown,
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

/// A peer for pingora, with the route's times. A kept connection is used again only for the same pod.
#[must_use]
pub fn peer(address: SocketAddr, timeouts: &Timeouts, uid: Option<&str>) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    if let Some(uid) = uid {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        peer.group_key = hasher.finish();
    }
    peer.options.connection_timeout = Some(timeouts.connect);
    peer.options.total_connection_timeout = Some(timeouts.connect);
    peer.options.read_timeout = Some(timeouts.read);
    peer.options.write_timeout = Some(timeouts.send);
    peer.options.idle_timeout = Some(POOL_IDLE);
    peer
}

/// Connects to the first address that takes the connection and sends a request's head; the
/// connection is not pooled. For tunnels.
///
/// # Errors
/// If no address takes the connection, or the upstream gives no valid answer in time.
pub async fn send_head(
    addresses: &[SocketAddr],
    timeouts: &Timeouts,
    head: RequestHeader,
) -> Result<HttpSession, Error> {
    let transport = connect(addresses, timeouts.connect).await?;
    let mut session = HttpSession::new(Box::new(transport));
    session.read_timeout = Some(timeouts.read);
    session.write_timeout = Some(timeouts.send);
    session.write_request_header(Box::new(head)).await.map_err(|_| Error::ConnectFailed)?;
    read_head(&mut session).await?;
    Ok(session)
}

async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<Transport, Error> {
    let mut error = Error::ConnectFailed;
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                // A keystroke must not wait for more bytes; without the option it works, later.
                let _ = tcp.set_nodelay(true);
                return Ok(Transport::new(Wire::Plain(tcp), *address));
            }
            Ok(Err(_)) => error = Error::ConnectFailed,
            Err(_) => error = Error::ConnectTimeout,
        }
    }
    Err(error)
}

/// Reads the final response head, past any interim ones (RFC 9110 §15.2).
async fn read_head(session: &mut HttpSession) -> Result<(), Error> {
    const MAX_INTERIM: usize = 8;
    for _ in 0..=MAX_INTERIM {
        session.read_response().await.map_err(|error| {
            if matches!(error.etype(), ErrorType::ReadTimedout) {
                Error::ResponseTimeout
            } else if matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
                Error::InvalidResponse
            } else {
                Error::ConnectFailed
            }
        })?;
        match session.get_status() {
            Some(status) if status.is_informational() && status != 101 => {}
            Some(_) => return Ok(()),
            None => return Err(Error::InvalidResponse),
        }
    }
    Err(Error::InvalidResponse)
}

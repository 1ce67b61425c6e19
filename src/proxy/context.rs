//! What one request carries between pingora's phases.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, header};
use pingora::proxy::Session;

use super::Rooms;
use super::client::Client;
use super::headers::{self, Answer, Rules};
use crate::auth::Desktop;
use crate::config::Refusal;
use crate::route::Route;
use crate::telemetry::access_log::Record;

/// State of one request. Dropping it writes the access log line, unless a tunnel took that over.
#[derive(Debug, Default)]
pub struct Context {
    /// The rooms that the request began with.
    pub(super) rooms: Option<Arc<Rooms>>,
    pub(super) record: Option<Record>,
    /// The route that took the path, also when the request was refused then.
    pub(super) route: Option<Arc<Route>>,
    pub(super) plan: Option<Plan>,
    /// What the client accepts, while the compression module sees our reading of it.
    pub(super) accepts: Option<HeaderValue>,
}

impl Context {
    /// Whether a refusal of this request is told to the page: where its route says so, to browsers
    /// (nothing else sends an `Origin`), and only instead of a valid upgrade.
    pub(super) fn explains(&self, session: &Session) -> bool {
        let head = session.req_header();
        let route = self.route.as_ref().map(|route| &route.row);
        route.is_some_and(|row| row.websocket && row.tunnel.refusal == Refusal::Close)
            && head.headers.contains_key(header::ORIGIN)
            && headers::is_websocket_upgrade(head) == Some(true)
            && session.response_written().is_none()
    }
}

/// What was decided before anything was sent upstream.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) route: Arc<Route>,
    pub(super) client: Client,
    /// The user's pod, for routes with a token.
    pub(super) desktop: Option<Arc<Desktop>>,
    /// Request target for the upstream.
    pub(super) target: String,
    /// Port of the upstream; 0 for rows that deskgate answers itself.
    pub(super) port: u16,
    /// The client's `Host`.
    pub(super) public: Option<String>,
    /// The `Host` for the upstream.
    pub(super) sent: String,
    /// What the row took off the front of the path.
    pub(super) prefix: Option<String>,
    /// `http` or `https`, as the client came to us or to a trusted proxy.
    pub(super) scheme: String,
    /// Addresses to try, in order; empty until they were looked up.
    pub(super) addresses: Vec<SocketAddr>,
    /// The pod's uid, where it is known.
    pub(super) uid: Option<Arc<str>>,
    /// The address that is tried now.
    pub(super) attempt: usize,
    /// Bytes of the request's body so far.
    pub(super) received: u64,
}

impl Plan {
    /// The header rules for this request.
    pub(super) fn rules(&self, upgrade: bool) -> Rules<'_> {
        Rules {
            route: &self.route,
            client: &self.client,
            target: &self.target,
            sent: &self.sent,
            scheme: &self.scheme,
            upgrade,
        }
    }

    /// The header rules for its response.
    pub(super) fn answer(&self) -> Answer<'_> {
        Answer {
            route: &self.route,
            scheme: &self.scheme,
            public: self.public.as_deref(),
            sent: &self.sent,
            prefix: self.prefix.as_deref(),
        }
    }
}

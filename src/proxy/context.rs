//! What one request carries on its way.

use std::sync::Arc;

use http::header;

use super::Rooms;
use super::client::Client;
use super::headers::{self, Answer, Rules};
use super::trail::Trail;
use crate::auth::revoked::Revoked;
use crate::auth::{Desktop, Now};
use crate::config::Refusal;
use crate::route::Route;
use crate::session::Session;
use crate::telemetry::access_log::Record;
use crate::upstream::desktops::Desktops;
use crate::upstream::pool::Pool;

/// State of one request. Dropping it writes the access log line, unless a tunnel took that over.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) record: Option<Record>,
    /// The route that took the path, also when the request was refused then.
    pub(super) route: Option<Arc<Route>>,
}

/// What leads a request to its upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// The rooms that the request began with.
    pub(super) rooms: &'a Rooms,
    pub(super) desktops: &'a Desktops,
    pub(super) revoked: &'a Revoked,
    /// The worker's connections.
    pub(super) pool: &'a Pool,
    /// When it began.
    pub(super) now: Now,
    /// The marks of the request.
    pub(super) trail: &'a Trail,
}

impl Context {
    /// Whether a refusal of this request is told to the page: where its route says so, to browsers
    /// (nothing else sends an `Origin`), and only instead of a valid upgrade.
    pub(super) fn explains(&self, session: &Session) -> bool {
        let head = session.request();
        let route = self.route.as_ref().map(|route| &route.row);
        route.is_some_and(|row| row.websocket.is_taken() && row.tunnel.refusal == Refusal::Close)
            && head.headers.contains_key(header::ORIGIN)
            && headers::is_websocket_upgrade(head) == Some(true)
            && session.answered().is_none()
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
    /// The host that the client asked for.
    pub(super) public: Option<String>,
    /// The `Host` for the upstream.
    pub(super) sent: Arc<str>,
    /// What the row took off the front of the path.
    pub(super) prefix: Option<String>,
    /// Whether it asks for a tunnel, on a route that has tunnels.
    pub(super) upgrade: bool,
}

impl Plan {
    /// The header rules for this request.
    pub(super) fn rules<'a>(&'a self, trail: &'a Trail) -> Rules<'a> {
        Rules {
            route: &self.route,
            client: &self.client,
            trail,
            target: &self.target,
            sent: &self.sent,
            upgrade: self.upgrade,
        }
    }

    /// The header rules for its response.
    pub(super) fn answer(&self) -> Answer<'_> {
        Answer {
            route: &self.route,
            scheme: self.client.scheme,
            public: self.public.as_deref(),
            sent: &self.sent,
            prefix: self.prefix.as_deref(),
        }
    }
}

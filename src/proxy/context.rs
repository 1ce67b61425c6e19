//! What one request carries between pingora's phases.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::proxy::Session;

use super::client::Client;
use super::headers::Rules;
use crate::auth::Desktop;
use crate::route::Route;
use crate::telemetry::access_log::Record;

/// State of one request. Dropping it writes the access log line, unless a tunnel took that over.
#[derive(Debug, Default)]
pub struct Context {
    pub(super) record: Option<Record>,
    pub(super) plan: Option<Plan>,
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
    /// Addresses to try, in order; empty until they were looked up.
    pub(super) addresses: Vec<SocketAddr>,
    /// The address that is tried now.
    pub(super) attempt: usize,
    /// Bytes of the request's body so far.
    pub(super) received: u64,
}

impl Plan {
    /// The header rules for this request.
    pub(super) fn rules(&self, session: &Session, upgrade: bool) -> Rules<'_> {
        let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        Rules {
            route: &self.route,
            client: &self.client,
            target: &self.target,
            port: self.port,
            scheme: if tls { "https" } else { "http" },
            upgrade,
        }
    }
}

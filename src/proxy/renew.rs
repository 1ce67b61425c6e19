//! Moves the deadline of a desktop's tunnels: the page brings a fresh token and keeps its socket.

use http::Method;
use pingora::Result;
use pingora::proxy::Session;
use tokio::time::{Duration, Instant};

use super::clock;
use super::context::Plan;
use crate::auth::Desktop;
use crate::error::Error;
use crate::respond;
use crate::tunnel::registry::Registry;

/// When a tunnel must end whose token is this desktop's.
pub(super) fn deadline(desktop: &Desktop, grace: Duration) -> Instant {
    let left = Duration::from_secs(desktop.expires).saturating_sub(clock::now().wall);
    Instant::now() + left + grace
}

/// Answers with the number of tunnels whose deadline moved.
pub(super) async fn serve(
    session: &mut Session,
    plan: &Plan,
    pod: &str,
    tunnels: &Registry,
) -> Result<()> {
    if session.req_header().method != Method::POST {
        return Err(Error::PostOnly.into());
    }
    let Some(desktop) = &plan.desktop else { return Err(Error::NoRoute.into()) };
    let until = deadline(desktop, plan.route.row.tunnel.grace);
    let renewed = tunnels.renew(pod, until);
    let answer = serde_json::json!({ "renewed": renewed, "expires": desktop.expires });
    respond::write_json(session, &answer.to_string()).await
}

//! Moves the deadline of a desktop's tunnels: the page brings a fresh token and keeps its socket.

use http::Method;
use pingora::Result;
use tokio::time::{Duration, Instant};

use super::clock;
use super::context::Plan;
use crate::auth::Desktop;
use crate::error::Error;
use crate::respond;
use crate::session::Session;
use crate::tunnel::registry::Registry;

/// A token that is good for longer is as good as one for ever; times stay far from overflow.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// When the token is over that this desktop came from.
pub(super) fn expiry(desktop: &Desktop) -> Instant {
    let left = Duration::from_secs(desktop.expires).saturating_sub(clock::now().wall);
    Instant::now() + left.min(FOREVER)
}

/// Answers with the number of tunnels whose deadline moved.
pub(super) async fn serve(
    session: &mut Session,
    plan: &Plan,
    pod: &str,
    tunnels: &Registry,
) -> Result<()> {
    if session.request().method != Method::POST {
        return Err(Error::PostOnly.into());
    }
    let Some(desktop) = &plan.desktop else { return Err(Error::NoRoute.into()) };
    let expiry = expiry(desktop);
    // Tunnels from before the pods were known are listed under another name.
    let (now, before) = (pod, desktop.target.label());
    let renewed =
        tunnels.renew(now, expiry) + if before == now { 0 } else { tunnels.renew(&before, expiry) };
    let answer = serde_json::json!({ "renewed": renewed, "expires": desktop.expires });
    respond::write_json(session, &answer.to_string()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{TargetPolicy, Token};

    #[test]
    fn a_token_that_is_good_for_ages_overflows_no_clock() {
        let policy = TargetPolicy::new(None, vec!["10.0.0.0/8".parse().unwrap()]).unwrap();
        for expires in [u64::MAX, 1 << 63, 0] {
            let desktop = Desktop {
                target: policy.confine(b"10.0.0.1").unwrap(),
                expires,
                issued: None,
                fingerprint: Token::new("x").unwrap().fingerprint(),
            };
            assert!(expiry(&desktop) <= Instant::now() + FOREVER);
        }
    }
}

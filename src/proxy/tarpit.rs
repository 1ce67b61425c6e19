//! What a refused token costs whoever brings many.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep;

use crate::admission::{Admission, Failure};
use crate::auth::{self, Desktop};
use crate::error::Error;

/// Passes on what became of a request's token. A good one is counted as a request with it; a refused
/// one is counted under the client's address, and its answer may be held back.
pub(super) async fn judge(
    admission: &Admission,
    client: Option<IpAddr>,
    outcome: Result<Option<Arc<Desktop>>, Error>,
) -> Result<Option<Arc<Desktop>>, Error> {
    match &outcome {
        Ok(Some(desktop)) => admission.token(desktop.fingerprint, Instant::now())?,
        Err(Error::Auth(error)) if is_suspicious(*error) => {
            match admission.failure(client, Instant::now())? {
                Failure::Told => {}
                Failure::Delayed(delay, _sleeper) => sleep(delay).await,
            }
        }
        Ok(None) | Err(_) => {}
    }
    outcome
}

/// Whether an honest client has no reason to send such a token. A page whose token has expired or was
/// withdrawn, or that has none yet, is no attacker, and there may be many behind one address.
fn is_suspicious(error: auth::Error) -> bool {
    !matches!(
        error,
        auth::Error::Missing
            | auth::Error::Expired
            | auth::Error::NotYetValid
            | auth::Error::Revoked
    )
}

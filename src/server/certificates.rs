//! Tells when a certificate ends that is served.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::acceptors::Acceptors;
use crate::proxy::clock;
use crate::tls::Description;

/// How often the ends of the certificates are looked at, besides when one is due.
const LOOK: Duration = Duration::from_secs(60);

/// Tells of each certificate once, after its end. Those that had ended before were told of when they
/// were loaded.
pub(super) async fn watch(tls: Acceptors) {
    let key = |of: Description| (of.file, of.not_after);
    let ended = |now: u64| -> BTreeSet<_> {
        tls.describe().into_iter().filter(|of| of.not_after < now).map(key).collect()
    };
    let mut told = ended(clock::now().wall.as_secs());
    loop {
        let now = clock::now().wall.as_secs();
        // One that was replaced is forgotten.
        let over = ended(now);
        for (file, _) in over.difference(&told) {
            warn!(file, "the certificate has expired");
        }
        told = over;
        // They are good to the end of that second.
        let due = tls.describe().into_iter().filter_map(|of| (of.not_after + 1).checked_sub(now));
        let next = due.filter(|due| *due > 0).min().map(Duration::from_secs);
        sleep(next.map_or(LOOK, |next| next.min(LOOK))).await;
    }
}

//! Since when a pod has had its address, as the pod itself tells.
//!
//! Slices tell what is, not since when. Of pods that were there before the first list nothing more would be
//! known, and every token from before it would be doubtful: after each start of a gateway, on every page that
//! is open. A container that runs has run in its pod's present network all along, with its addresses, so its
//! start proves them back to then. The pod is asked for only when a token depends on it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::api::{Api, Fault};
use super::identity::Endpoint;

/// Most questions at a time. After a start everybody who is there comes at once.
const LANES: usize = 8;

/// Most pods of which it is remembered.
const MOST: usize = 65_536;

/// Longest wait for an answer.
const QUESTION: Duration = Duration::from_secs(3);

/// Time after a failure in which no pod is asked for.
const PAUSE: Duration = Duration::from_secs(2);

/// The same if it was forbidden.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// What pods have told.
pub(super) struct Proofs {
    /// Each asks one question at a time, and a pod is asked for in one of them only: once.
    lanes: [tokio::sync::Mutex<Api>; LANES],
    choice: RandomState,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    pods: HashMap<(Arc<str>, IpAddr), Proof>,
    /// No pod is asked for before; whether that is since nobody may.
    quiet: Option<(Instant, bool)>,
    /// That it is forbidden was told.
    told: bool,
}

impl Known {
    /// As [`Proofs::ask`], if it is settled without a question.
    fn settled(&self, key: &(Arc<str>, IpAddr), seen: i64) -> Option<Option<()>> {
        if self.pods.get(key).is_some_and(|proof| proof.seen == seen) {
            return Some(Some(()));
        }
        let (until, forbidden) = self.quiet?;
        (Instant::now() < until).then(|| forbidden.then_some(()))
    }
}

/// What a pod has told of an address.
#[derive(Clone, Copy)]
struct Proof {
    /// When it was first seen with it: a pod that is seen anew is asked anew.
    seen: i64,
    /// It has had it from here on at the latest, in milliseconds. None if it could not tell.
    since: Option<i64>,
}

impl Proofs {
    pub(super) fn new(api: impl Fn() -> Api) -> Self {
        let lanes = std::array::from_fn(|_| tokio::sync::Mutex::new(api()));
        Self { lanes, choice: RandomState::new(), known: Mutex::default() }
    }

    /// Since when the pod of this uid, first seen with the address at `seen`, has had it.
    pub(super) fn since(&self, uid: &Arc<str>, address: IpAddr, seen: i64) -> Option<i64> {
        let known = self.known();
        let proof = known.pods.get(&(Arc::clone(uid), address))?;
        proof.since.filter(|_| proof.seen == seen)
    }

    /// Asks the pod, unless it has told already. Waits for its turn until `turn` at most. None if there is no
    /// answer now; that nobody may ask is one.
    pub(super) async fn ask(&self, of: &Endpoint, seen: i64, turn: Instant) -> Option<()> {
        let key = (Arc::clone(&of.uid), of.address);
        if let Some(settled) = self.known().settled(&key, seen) {
            return settled;
        }
        let choice = usize::try_from(self.choice.hash_one(&of.uid)).unwrap_or_default() % LANES;
        let mut api = timeout_at(turn, self.lanes.get(choice)?.lock()).await.ok()?;
        // Somebody else may have asked meanwhile.
        if let Some(settled) = self.known().settled(&key, seen) {
            return settled;
        }
        let told = timeout(QUESTION, api.pod(&of.name)).await;
        let mut known = self.known();
        let since = match told.unwrap_or(Err(Fault::ResponseTimeout)) {
            // Another pod of this name tells nothing about the one that was meant.
            Ok(told) if *told.uid == *of.uid && told.addresses.contains(&of.address) => told.since,
            Ok(_) | Err(Fault::Invalid | Fault::TooLarge) => None,
            // It has just gone, which the slices will tell.
            Err(Fault::Rejected) => return Some(()),
            Err(fault) => {
                let forbidden = matches!(fault, Fault::Forbidden | Fault::Unauthorized);
                let pause = if forbidden { FORBIDDEN } else { PAUSE };
                known.quiet = Some((Instant::now() + pause, forbidden));
                if forbidden && !std::mem::replace(&mut known.told, true) {
                    warn!(
                        "the API refuses pods to this service account: tokens from before this start are \
                         doubtful; grant get for pods"
                    );
                }
                return forbidden.then_some(());
            }
        };
        if known.pods.len() >= MOST {
            known.pods.clear();
        }
        known.pods.insert(key, Proof { seen, since });
        Some(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

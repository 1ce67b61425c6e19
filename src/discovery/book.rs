//! What the watch keeps: the slices, the history made of them, and the pods that are leaving.
//!
//! One task owns it. Each change is complete before it is published, so a reader sees the set before
//! or the set after, never a part.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep_until};

use super::api::{Fault, Listing};
use super::identity::{Change, History, Pod};
use super::slices::{Slice, Slices};
use super::{Moment, Picture, STEP, Shared, millis};

/// Time for a pod that is moved from one slice to another to be listed again. One that is not has left:
/// its tunnels end within a second of it.
const MOVING: Duration = Duration::from_millis(800);

/// Time between two comparisons of the clocks when nothing happens. After the clock was set, no token
/// is certain for as long.
const COMPARE: Duration = Duration::from_secs(1);

/// An offset between the API server's clock and this one that the log mentions.
const NOTABLE_OFFSET: i64 = 2_000;

/// The state behind the published one.
pub(super) struct Book {
    shared: Arc<Shared>,
    slices: Slices,
    history: History,
    /// The history that everybody sees.
    shown: Arc<History>,
    /// When the pods were last proved to be all there are.
    proof: Option<std::time::Instant>,
    /// Pods that are no longer listed, and when to report them as gone.
    leaving: HashMap<Arc<str>, (Instant, Arc<Pod>)>,
    /// When the clocks were last compared.
    compared: Moment,
    /// Something in the history is not published yet.
    news: bool,
}

impl Book {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let picture = shared.picture.load_full();
        let (shown, compared) = (Arc::clone(&picture.history), picture.compared);
        Self {
            shared,
            slices: Slices::default(),
            history: History::clone(&shown),
            shown,
            proof: None,
            leaving: HashMap::new(),
            compared,
            news: false,
        }
    }

    /// This moment, for the limits of a request.
    pub(super) fn now(&self) -> Moment {
        (self.shared.clock)()
    }

    pub(super) fn failed(&self, fault: Fault) {
        self.shared.health.failed(fault);
    }

    /// The version to continue from is too old: no fault of the server, if it lists.
    pub(super) fn expired(&self) {
        self.shared.health.count_fault(Fault::Expired);
    }

    /// The server has taken a watch.
    pub(super) fn watching(&self) {
        self.shared.health.count(|counters| counters.watches += 1);
    }

    /// The server does what it should.
    pub(super) fn works(&self) {
        self.shared.health.works();
    }

    /// Takes over a complete list that was asked for at `asked`.
    pub(super) fn listed(&mut self, asked: Moment, listing: Listing) -> Result<(), Fault> {
        let now = self.compare();
        let slices = Slices::of(listing.items).map_err(|_| Fault::TooLarge)?;
        let pods = slices.pods();
        let changes = self.history.differences(pods);
        self.depart(&changes);
        // By the clock of now, which may have been set meanwhile.
        let took = millis(now.mono.saturating_duration_since(asked.mono));
        self.history.synced(now.millis().saturating_sub(took), now.millis(), &changes);
        self.slices = slices;
        let (pods, changes) = (self.history.len(), changes.len());
        if changes == 0 && self.proof.is_some() {
            tracing::debug!(pods, changes, "pods listed");
        } else {
            tracing::info!(pods, changes, "pods listed");
        }
        self.news = true;
        self.proof = self.proof.max(Some(asked.mono));
        // First what is seen, then who is gone: who asks in between must not be told the old.
        self.publish();
        self.hurry();
        let health = &self.shared.health;
        health.count(|counters| counters.lists += 1);
        // Where it was the watch that is refused, a list is a makeshift.
        if !health.is_refused() {
            health.works();
        }
        health.proved(asked.mono);
        if let Some(date) = listing.date {
            let offset = date.saturating_sub(now.millis());
            health.offset(offset);
            if offset.abs() > NOTABLE_OFFSET {
                tracing::warn!(offset_ms = offset, "the API server's clock is not this one");
            }
        }
        Ok(())
    }

    /// Takes over one event. `current`: it is not an old one that is sent again.
    pub(super) fn changed(
        &mut self,
        slice: Slice,
        removed: bool,
        current: bool,
    ) -> Result<(), Fault> {
        let now = self.compare();
        let changes = if removed {
            self.slices.remove(&slice.metadata.name)
        } else {
            self.slices.put(slice).map_err(|_| Fault::TooLarge)?
        };
        self.depart(&changes);
        self.history.changed(now.millis(), &changes);
        self.news |= !changes.is_empty();
        if self.hurries() {
            // First what is seen, then who is gone: who asks in between must not be told the old.
            self.publish();
            self.hurry();
        }
        self.shared.health.count(|counters| counters.events += 1);
        if current {
            self.proved(now);
        }
        Ok(())
    }

    /// Takes over a bookmark: everything before it has been seen.
    pub(super) fn confirmed(&mut self) {
        let now = self.compare();
        self.shared.health.count(|counters| counters.bookmarks += 1);
        self.proved(now);
    }

    fn proved(&mut self, now: Moment) {
        self.history.confirm(now.millis());
        self.proof = self.proof.max(Some(now.mono));
        self.shared.health.proved(now.mono);
    }

    /// Shows the state to everybody, and wakes those who wait if there is news.
    pub(super) fn publish(&mut self) {
        let news = std::mem::take(&mut self.news);
        if news {
            self.shown = Arc::new(self.history.clone());
        }
        let history = Arc::clone(&self.shown);
        let picture = Picture { history, compared: self.compared, proof: self.proof };
        self.shared.picture.store(Arc::new(picture));
        if news {
            self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Reports departures when they are due, and looks at the clocks. Never ends.
    pub(super) async fn report(&mut self) {
        loop {
            let compare = Instant::now() + COMPARE;
            let due = self.leaving.values().map(|(due, _)| *due).min();
            sleep_until(due.map_or(compare, |due| due.min(compare))).await;
            self.compare();
            self.publish();
            self.report_due(Instant::now());
        }
    }

    fn report_due(&mut self, now: Instant) {
        let due = self.leaving.extract_if(|_, (due, _)| *due <= now);
        let gone: Vec<_> = due.map(|(_, (_, pod))| pod).collect();
        for pod in gone {
            tracing::debug!(pod = &*pod.name, uid = &*pod.uid, "pod is gone");
            self.shared.health.count(|counters| counters.departed += 1);
            self.shared.tell_gone(&pod.uid);
        }
    }

    /// Keeps account of who leaves and who comes back; before the history does.
    fn depart(&mut self, changes: &[Change]) {
        let due = Instant::now() + MOVING;
        for change in changes {
            match change {
                Change::Present(pod) => {
                    self.leaving.remove(&pod.uid);
                }
                Change::Gone(uid) => {
                    if let Some(pod) = self.history.pod(uid) {
                        self.leaving.insert(Arc::clone(uid), (due, Arc::clone(pod)));
                    }
                }
            }
        }
    }

    /// Whether the address of a pod that left was given on.
    fn hurries(&self) -> bool {
        self.leaving.values().any(|(_, pod)| self.history.replaced(pod))
    }

    /// Whoever is connected to an address that was given on must not wait for its departure.
    fn hurry(&mut self) {
        let now = Instant::now();
        for (due, pod) in self.leaving.values_mut() {
            if self.history.replaced(pod) {
                *due = now;
            }
        }
        self.report_due(now);
    }

    /// Reads the clocks, and forgets all intervals if the wall clock was set.
    fn compare(&mut self) -> Moment {
        let now = self.now();
        let step = now.set_since(self.compared);
        if step.saturating_abs() > STEP {
            tracing::warn!(
                step_ms = step,
                "the clock was set; what owned an address when is unknown"
            );
            self.history.distrust(now.millis());
            self.news = true;
        }
        self.compared = now;
        now
    }
}

//! What is held as long as something is counted; dropping it counts one less.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Admission, Shared};

type Counter = fn(&Shared) -> &AtomicUsize;

/// One of a number that is limited.
pub struct Place {
    shared: Arc<Shared>,
    counter: Counter,
}

/// Holds back the answer to a refused token.
pub type Sleeper = Place;

/// Tells a refused connection why.
pub type Farewell = Place;

impl Place {
    /// Counts one more, unless there are `most`; 0 stands for any number.
    pub(super) fn take(admission: &Admission, counter: Counter, most: usize) -> Option<Self> {
        let shared = Arc::clone(&admission.shared);
        take(counter(&shared), most).then_some(())?;
        Some(Self { shared, counter })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.counter)(&self.shared).fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// The connections of one listening address. Clones are the same.
#[derive(Clone, Debug)]
pub struct Listener(pub(super) Arc<AtomicUsize>);

impl Listener {
    pub(super) fn take(&self, most: usize) -> Option<OfListener> {
        take(&self.0, most).then(|| OfListener(Arc::clone(&self.0)))
    }
}

#[derive(Debug)]
pub(super) struct OfListener(Arc<AtomicUsize>);

impl Drop for OfListener {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection of a client, be it for requests or a tunnel.
#[derive(Debug)]
pub struct Seat {
    pub(super) all: Place,
    #[expect(dead_code, reason = "held for its Drop")]
    pub(super) listener: OfListener,
    /// What its address is counted under.
    pub(super) address: Option<u64>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(key) = self.address {
            self.all.shared.by_address.leave(key);
        }
    }
}

/// A tunnel of a token to a pod.
#[derive(Default)]
pub struct TunnelSeat {
    shared: Option<Arc<Shared>>,
    keys: [Option<u64>; 2],
}

impl TunnelSeat {
    /// Leaves `key` when it is dropped.
    pub(super) fn hold(&mut self, shared: &Arc<Shared>, key: u64) {
        self.shared.get_or_insert_with(|| Arc::clone(shared));
        if let Some(free) = self.keys.iter_mut().find(|held| held.is_none()) {
            *free = Some(key);
        }
    }
}

impl Drop for TunnelSeat {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        self.keys.iter().flatten().for_each(|key| shared.tunnels.leave(*key));
    }
}

impl fmt::Debug for TunnelSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelSeat").finish_non_exhaustive()
    }
}

/// Counts one more, unless there are `most`; 0 stands for any number.
fn take(counter: &AtomicUsize, most: usize) -> bool {
    let taken = counter.fetch_add(1, Relaxed) < most || most == 0;
    if !taken {
        counter.fetch_sub(1, Relaxed);
    }
    taken
}

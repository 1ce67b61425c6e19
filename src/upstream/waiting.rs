//! Places for requests that wait for their pod: so many in all, and few of them for one target.
//!
//! Without the second limit one user whose desktop never becomes ready could take every place, and all
//! others who start theirs would be refused at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::Target;

/// The places. Copies share them.
#[derive(Clone, Debug)]
pub struct Waiting {
    in_all: usize,
    of_one: usize,
    taken: Arc<Mutex<Taken>>,
}

/// A target is there as long as somebody waits for it.
#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_target: HashMap<Target, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    waiting: &'a Waiting,
    target: &'a Target,
}

impl Waiting {
    /// Room for `in_all` requests, and for `of_one` of them that wait for the same target.
    #[must_use]
    pub fn new(in_all: usize, of_one: usize) -> Self {
        Self { in_all, of_one, taken: Arc::default() }
    }

    /// A place to wait for this target, if one is left.
    pub(super) fn enter<'a>(&'a self, target: &'a Target) -> Option<Place<'a>> {
        let mut taken = self.taken();
        let waiting = taken.by_target.get(target).copied().unwrap_or_default();
        if taken.in_all >= self.in_all || waiting >= self.of_one {
            return None;
        }
        taken.in_all += 1;
        taken.by_target.insert(target.clone(), waiting + 1);
        Some(Place { waiting: self, target })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.waiting.taken();
        taken.in_all = taken.in_all.saturating_sub(1);
        match taken.by_target.get_mut(self.target) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(taken.by_target.remove(self.target)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TargetPolicy;

    fn target(name: &str) -> Target {
        let policy = TargetPolicy::new(Some("desktop.example"), Vec::new()).unwrap();
        policy.confine(format!("{name}.desktop.example").as_bytes()).unwrap()
    }

    #[test]
    fn who_waits_for_one_pod_leaves_places_to_others() {
        let [ida, bob, eve, joe] = ["ida", "bob", "eve", "joe"].map(target);
        let waiting = Waiting::new(5, 2);
        let of = |target| waiting.clone().enter(target).is_some();
        let mut places: Vec<_> = (0..9).filter_map(|_| waiting.enter(&ida)).collect();
        assert_eq!(places.len(), 2);
        places.extend((0..9).filter_map(|_| waiting.enter(&bob)));
        assert!(!of(&ida) && !of(&bob) && of(&eve), "each has two of five");
        places.extend(waiting.enter(&eve));
        assert!(!of(&eve) && !of(&joe), "no place is left at all");
        // The first to leave is ida's.
        drop(places.remove(0));
        assert!(of(&ida) && of(&eve) && !of(&bob));
        drop(places);
        assert_eq!(waiting.taken().in_all, 0);
        assert!(waiting.taken().by_target.is_empty(), "nothing is kept of who has left");
    }
}

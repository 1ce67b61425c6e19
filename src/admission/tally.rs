//! How many there are of each key: connections of an address, tunnels of a pod.
//!
//! A key is there as long as something is counted under it, so the table is no larger than what is
//! counted, whoever chooses the keys. Its shards are locked for one look-up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// Counts by key. Keys come hashed with a secret.
#[derive(Debug)]
pub(super) struct Tally {
    shards: [Mutex<HashMap<u64, usize>>; SHARDS],
}

impl Default for Tally {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Tally {
    /// Counts one more, unless there are `most`; 0 stands for any number.
    pub(super) fn enter(&self, key: u64, most: usize) -> bool {
        let mut shard = self.shard(key);
        let count = shard.entry(key).or_default();
        if most > 0 && *count >= most {
            return false;
        }
        *count += 1;
        true
    }

    /// Counts one less.
    pub(super) fn leave(&self, key: u64) {
        let mut shard = self.shard(key);
        match shard.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(shard.remove(&key)),
        }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, usize>> {
        let [first, ..] = &self.shards;
        let shard = self.shards.get(key as usize % SHARDS).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_to_the_limit_and_forgets_who_has_left() {
        let tally = Tally::default();
        assert!(tally.enter(7, 2) && tally.enter(7, 2));
        assert!(!tally.enter(7, 2));
        assert!(tally.enter(8, 2), "another key");
        assert!(tally.enter(7, 0), "no limit");
        for _ in 0..3 {
            tally.leave(7);
        }
        tally.leave(8);
        assert!(tally.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
        assert!(tally.enter(7, 1));
    }

    #[test]
    fn a_refusal_leaves_nothing_behind() {
        let tally = Tally::default();
        assert!(tally.enter(1, 1) && !tally.enter(1, 1));
        tally.leave(1);
        assert!(tally.enter(1, 1));
    }
}

//! Token buckets by key, in a table of fixed size.
//!
//! A bucket is one number: the time at which it is full again (the "theoretical arrival time" of the
//! GCRA, ITU-T I.371 annex A). A full bucket needs no memory, so of the slots where a new key may go,
//! the one that is full first is taken; as long as one of them is full already, nothing is forgotten.
//! Keys come hashed with a secret, so nobody chooses whose slot is taken. Slots are two atomics: two
//! threads that meet in one may lose a count, never more.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::Rate;

/// Slots where a key may be.
const WAYS: usize = 4;

/// Sets of slots: 65,536 buckets, 1 MiB.
const SETS: usize = 16 * 1024;

/// Tries of a thread to change a bucket that others change at the same time.
const TRIES: usize = 16;

#[derive(Debug, Default)]
struct Slot {
    /// 0 for none.
    key: AtomicU64,
    /// When the bucket is full again, in microseconds of the table's clock.
    full: AtomicU64,
}

/// The buckets of one rate.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Not there until the first charge: a limit that is off takes no memory.
    sets: OnceLock<Box<[[Slot; WAYS]]>>,
}

/// What a bucket lacks after a charge, as time until it is full.
pub(super) type Debt = Duration;

impl Buckets {
    /// Takes one from the bucket of `key`; the debt of one that is full is one's cost.
    ///
    /// # Errors
    /// How long until there is one again, if a debt of `bursts` bursts would be passed.
    pub(super) fn charge(
        &self,
        key: u64,
        rate: Rate,
        bursts: u32,
        now: Duration,
    ) -> Result<Debt, Duration> {
        let Some(cost) = cost(rate) else { return Ok(Debt::ZERO) };
        let most = cost.saturating_mul(u64::from(rate.burst.max(1)) * u64::from(bursts));
        let now = micros(now);
        let Some(slot) = self.slot(key.max(1)) else { return Ok(Debt::ZERO) };
        let mut full = slot.full.load(Relaxed);
        for _ in 0..TRIES {
            let next = full.max(now) + cost;
            let debt = next - now;
            if debt > most.saturating_add(cost) {
                // Of a rate that was slower: no more is owed than this one allows.
                let _ = slot.full.compare_exchange(full, now + most, Relaxed, Relaxed);
                return Err(Duration::from_micros(cost));
            }
            if debt > most {
                return Err(Duration::from_micros(debt - most));
            }
            match slot.full.compare_exchange_weak(full, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(Debt::from_micros(debt)),
                Err(other) => full = other,
            }
        }
        // Too much at once to be counted: what is lost is one charge.
        Ok(Debt::ZERO)
    }

    /// The slot of a key, made by taking the one that is full first.
    fn slot(&self, key: u64) -> Option<&Slot> {
        let sets =
            self.sets.get_or_init(|| std::iter::repeat_with(Default::default).take(SETS).collect());
        let set = sets.get((key >> 16) as usize % SETS)?;
        if let Some(slot) = set.iter().find(|slot| slot.key.load(Relaxed) == key) {
            return Some(slot);
        }
        let slot = set.iter().min_by_key(|slot| slot.full.load(Relaxed))?;
        let before = slot.key.load(Relaxed);
        // Full before it is the new key's: never does one inherit another's debt by this.
        slot.full.store(0, Relaxed);
        // An error means that another thread was faster; the slot is as good as any.
        let _ = slot.key.compare_exchange(before, key, Relaxed, Relaxed);
        Some(slot)
    }
}

/// The time of one, in microseconds; none without a limit.
fn cost(rate: Rate) -> Option<u64> {
    60_000_000_u64.checked_div(rate.per_minute.into()).map(|cost| cost.max(1))
}

/// The debt of a whole burst.
pub(super) fn burst(rate: Rate) -> Debt {
    Debt::from_micros(cost(rate).unwrap_or(0).saturating_mul(rate.burst.max(1).into()))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_minute: 60, burst: 3 };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let buckets = Buckets::default();
        let charge = |now| buckets.charge(1, RATE, 1, now);
        for _ in 0..3 {
            assert!(charge(at(10)).is_ok());
        }
        assert_eq!(charge(at(10)), Err(at(1)));
        assert!(charge(at(11)).is_ok());
        assert_eq!(charge(at(11)), Err(at(1)), "a refusal costs nothing");
        for _ in 0..3 {
            assert!(charge(at(60)).is_ok(), "no more than a burst is saved up");
        }
        assert!(charge(at(60)).is_err());
    }

    #[test]
    fn who_owes_by_a_slower_rate_owes_no_more_than_a_burst_of_a_quicker_one() {
        let buckets = Buckets::default();
        let slow = Rate { per_minute: 1, burst: 600 };
        while buckets.charge(1, slow, 1, at(10)).is_ok() {}
        assert_eq!(buckets.charge(1, RATE, 1, at(10)), Err(at(1)));
        assert_eq!(buckets.charge(1, RATE, 1, at(10)), Err(at(1)));
        assert!(buckets.charge(1, RATE, 1, at(11)).is_ok());
    }

    #[test]
    fn keys_do_not_share() {
        let buckets = Buckets::default();
        for key in 0..200 {
            for _ in 0..3 {
                assert!(buckets.charge(key << 20 | 1, RATE, 1, at(1)).is_ok(), "{key}");
            }
        }
    }

    #[test]
    fn no_rate_is_no_limit_and_takes_no_memory() {
        let buckets = Buckets::default();
        let off = Rate { per_minute: 0, burst: 1 };
        for _ in 0..100 {
            assert_eq!(buckets.charge(1, off, 1, at(1)), Ok(Debt::ZERO));
        }
        assert!(buckets.sets.get().is_none());
    }

    #[test]
    fn millions_of_keys_take_no_more_memory_and_forget_the_least() {
        let buckets = Buckets::default();
        let debtor = u64::MAX;
        for _ in 0..3 {
            assert!(buckets.charge(debtor, RATE, 1, at(1)).is_ok());
        }
        let mut key = 1_u64;
        for _ in 0..2_000_000 {
            key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            assert!(buckets.charge(key, RATE, 1, at(1)).is_ok());
        }
        // Others owe one each, the debtor three.
        assert!(buckets.charge(debtor, RATE, 1, at(1)).is_err());
        assert_eq!(buckets.sets.get().unwrap().len(), SETS);
    }

    #[test]
    fn a_debt_tells_how_far_it_has_come() {
        let buckets = Buckets::default();
        let debts: Vec<_> = (0..7).map(|_| buckets.charge(1, RATE, 2, at(1))).collect();
        assert_eq!(debts.first(), Some(&Ok(at(1))));
        assert_eq!(debts.get(5), Some(&Ok(at(6))));
        assert_eq!(debts.get(6), Some(&Err(at(1))));
        assert_eq!(burst(RATE), at(3));
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let buckets = Buckets::default();
        let rate = Rate { per_minute: 1, burst: 1000 };
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| buckets.charge(9, rate, 1, at(1)).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((1000..1100).contains(&taken), "{taken}");
    }
}

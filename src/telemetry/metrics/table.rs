//! Names that are known to values that are counted: read without a lock, and only ever added to.

use std::sync::{Mutex, OnceLock, PoisonError};

struct Slot<T> {
    name: Box<str>,
    /// Number of the name, in order of arrival.
    index: usize,
    value: T,
}

/// An open-addressed hash table of bounded size. What is in it stays, as counters have to.
pub(super) struct Table<T> {
    slots: Box<[OnceLock<Slot<T>>]>,
    /// How many names there are.
    len: Mutex<usize>,
    limit: usize,
    other: T,
}

impl<T> Table<T> {
    pub(super) fn new(limit: usize, other: T) -> Self {
        // At most half full, so that a look-up ends soon.
        let size = (limit * 2).next_power_of_two();
        let slots = (0..size).map(|_| OnceLock::new()).collect();
        Self { slots, len: Mutex::new(0), limit, other }
    }

    /// The slots where a name may be, the likeliest first.
    fn places(&self, name: &str) -> impl Iterator<Item = &OnceLock<Slot<T>>> {
        let mask = self.slots.len() - 1;
        let first = hash(name.as_bytes()) as usize & mask;
        let (before, after) = self.slots.split_at(first);
        after.iter().chain(before)
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        for place in self.places(name) {
            let slot = place.get()?;
            if *slot.name == *name {
                return Some(&slot.value);
            }
        }
        None
    }

    pub(super) fn get_or_other(&self, name: &str) -> &T {
        self.get(name).unwrap_or(&self.other)
    }

    /// Adds a name, unless it is there or the table is full.
    pub(super) fn insert(&self, name: &str, value: T) {
        let mut len = self.len.lock().unwrap_or_else(PoisonError::into_inner);
        if *len == self.limit || name == super::OTHER || self.get(name).is_some() {
            return;
        }
        if let Some(place) = self.places(name).find(|place| place.get().is_none()) {
            // Only this thread adds, so the slot is still free.
            drop(place.set(Slot { name: name.into(), index: *len, value }));
            *len += 1;
        }
    }

    /// Every name and its value in order of arrival, the rest first.
    pub(super) fn by_arrival(&self) -> Vec<(&str, &T)> {
        let mut slots: Vec<_> = self.slots.iter().filter_map(OnceLock::get).collect();
        slots.sort_unstable_by_key(|slot| slot.index);
        let rest = std::iter::once((super::OTHER, &self.other));
        rest.chain(slots.into_iter().map(|slot| (&*slot.name, &slot.value))).collect()
    }

    /// Every name and its value, with those of the rest, by name.
    pub(super) fn sorted(&self) -> Vec<(&str, &T)> {
        let mut all = self.by_arrival();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }
}

/// Mixes eight bytes at a time. Names are the operator's, so nobody chooses them to collide.
fn hash(name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = name.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let mut state = name.len() as u64;
    for word in words.iter().chain([&last]) {
        state = (state.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(ODD);
    }
    state ^ (state >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_added_and_no_more_than_fits() {
        let table = Table::new(8, 0);
        for number in 0..20 {
            table.insert(&format!("name-{number}"), number);
        }
        for number in 0..8 {
            assert_eq!(table.get(&format!("name-{number}")), Some(&number));
        }
        assert_eq!(table.get("name-8"), None);
        assert_eq!(*table.get_or_other("name-8"), 0);
        assert_eq!(table.sorted().len(), 9);
        assert_eq!(table.by_arrival()[1].0, "name-0");
    }

    #[test]
    fn a_name_is_added_once() {
        let table = Table::new(8, 0);
        table.insert("a", 1);
        table.insert("a", 2);
        table.insert("other", 3);
        assert_eq!(table.get("a"), Some(&1));
        assert_eq!(table.sorted().len(), 2);
    }
}

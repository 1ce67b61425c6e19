//! Numbers that many threads add to without waiting for each other.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Stripes of a number; each thread adds to one.
const STRIPES: usize = 8;

/// Upper bounds in seconds; what is above the last has a bucket too.
pub(super) const BOUNDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 600.0,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// Classes of status codes, from `1xx`.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Nanoseconds of a second.
const NANOS: f64 = 1e9;

/// The number of this thread's stripe.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed) % STRIPES);
        }
        mine.get()
    })
}

/// A value on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// A counter.
#[derive(Default)]
pub(super) struct Striped([Apart<AtomicU64>; STRIPES]);

impl Striped {
    pub(super) fn add(&self, count: u64) {
        if let Some(mine) = self.0.get(stripe()) {
            mine.0.fetch_add(count, Relaxed);
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

/// Durations.
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), nanos: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(super) fn observe(&self, seconds: f64) {
        let bucket = BOUNDS.iter().filter(|bound| seconds > **bound).count();
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        // Whatever is not a duration becomes 0 or the largest one.
        self.nanos.fetch_add((seconds * NANOS) as u64, Relaxed);
    }

    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        sums.add(self);
        sums
    }
}

/// A histogram as it was at one moment.
#[derive(Default)]
pub(super) struct Sums {
    /// How many are in each bucket and no lower one.
    pub(super) buckets: [u64; BUCKETS],
    nanos: u64,
}

impl Sums {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Relaxed);
        }
        self.nanos = self.nanos.wrapping_add(histogram.nanos.load(Relaxed));
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn seconds(&self) -> f64 {
        self.nanos as f64 / NANOS
    }
}

#[derive(Default)]
struct RouteStripe {
    classes: [AtomicU64; CLASSES.len()],
    durations: Histogram,
}

/// What is counted of one route.
#[derive(Default)]
pub(super) struct RouteCells {
    stripes: Box<[Apart<RouteStripe>; STRIPES]>,
    pub(super) tunnels_opened: AtomicU64,
}

impl RouteCells {
    /// Counts a request. A status that is none counts as an error of ours.
    pub(super) fn count(&self, status: u16, seconds: Option<f64>) {
        let Some(Apart(mine)) = self.stripes.get(stripe()) else { return };
        let class = usize::from(status / 100).wrapping_sub(1).min(CLASSES.len() - 1);
        if let Some(class) = mine.classes.get(class) {
            class.fetch_add(1, Relaxed);
        }
        if let Some(seconds) = seconds {
            mine.durations.observe(seconds);
        }
    }

    /// Requests by class.
    pub(super) fn classes(&self) -> [u64; CLASSES.len()] {
        let mut sums = [0; CLASSES.len()];
        for Apart(stripe) in self.stripes.iter() {
            for (sum, class) in sums.iter_mut().zip(&stripe.classes) {
                *sum += class.load(Relaxed);
            }
        }
        sums
    }

    pub(super) fn durations(&self) -> Sums {
        let mut sums = Sums::default();
        self.stripes.iter().for_each(|Apart(stripe)| sums.add(&stripe.durations));
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for seconds in [0.0, 0.001, 0.0011, 600.0, 601.0, f64::NAN, -1.0] {
            histogram.observe(seconds);
        }
        let sums = histogram.sums();
        assert_eq!(sums.count(), 7);
        assert_eq!((sums.buckets[0], sums.buckets[1]), (4, 1));
        assert_eq!((sums.buckets[16], sums.buckets[17]), (1, 1));
    }

    #[test]
    fn no_status_is_lost() {
        let route = RouteCells::default();
        for status in [101, 200, 302, 499, 599, 0, 700, u16::MAX] {
            route.count(status, Some(1.0));
        }
        assert_eq!(route.classes(), [1, 1, 1, 1, 4]);
        assert_eq!(route.durations().count(), 8);
    }
}

//! How slowly a body may come.

use std::time::{Duration, Instant};

/// The pace of one request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    since: Instant,
    patience: Duration,
    rate: u64,
    bytes: u64,
}

impl Pace {
    /// Of a body of which, after the first `patience`, every second brings `rate` bytes; 0 for any.
    #[must_use]
    pub fn new(now: Instant, patience: Duration, rate: u64) -> Self {
        Self { since: now, patience, rate, bytes: 0 }
    }

    /// Notes bytes that came; false if that is too few by now. What came early counts.
    #[must_use]
    pub fn keeps(&mut self, bytes: u64, now: Instant) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let waited = now.saturating_duration_since(self.since);
        let late = waited.saturating_sub(self.patience).as_secs();
        self.bytes >= self.rate.saturating_mul(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_told_from_a_slow_line() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pace = |rate| Pace::new(start, Duration::from_secs(10), rate);
        let mut drip = pace(64);
        assert!((1..=10).all(|second| drip.keeps(1, at(second))));
        assert!(!drip.keeps(1, at(11)));
        let mut slow = pace(64);
        assert!((1..=1000).all(|second| slow.keeps(64, at(second))));
        let mut ahead = pace(64);
        assert!(ahead.keeps(6400, at(1)));
        assert!(ahead.keeps(1, at(110)));
        assert!(!ahead.keeps(1, at(112)));
        assert!(pace(0).keeps(1, at(1_000_000)));
    }
}

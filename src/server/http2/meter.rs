//! Counts what a client sends over HTTP/2 that asks for work and carries nothing.
//!
//! The h2 crate bounds memory (headers, windows, streams reset before they were accepted), not work: it
//! answers each PING and SETTINGS for as long as they come. Such frames have a budget here, which
//! refills; a client that spends it all at once is cut off.

use std::io::{self, ErrorKind};
use std::time::Instant;

use crate::transport::{Inspect, Transport};

/// The preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Length of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;

/// Control frames and empty ones at once, and how many more each second. Browsers send a handful.
const CONTROL: Budget = Budget { most: 1000, each_second: 50 };

/// Requests that a client gives up at once, and how many more each second: a page that is left has at
/// most as many as a connection has streams.
const RESETS: Budget = Budget { most: 250, each_second: 50 };

/// What may be sent of a kind.
#[derive(Clone, Copy, Debug)]
struct Budget {
    most: u32,
    each_second: u32,
}

/// What is left of a budget.
#[derive(Clone, Copy, Debug)]
struct Left {
    budget: Budget,
    left: u32,
    since: Instant,
}

impl Left {
    fn new(budget: Budget) -> Self {
        Self { budget, left: budget.most, since: Instant::now() }
    }

    /// Takes one; an error once there are none.
    fn spend(&mut self) -> io::Result<()> {
        if self.left == 0 {
            // The clock is read only now: nobody who behaves comes here.
            let passed = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
            let earned = passed.saturating_mul(self.budget.each_second);
            self.left = earned.min(self.budget.most);
            self.since = Instant::now();
        }
        self.left = self.left.checked_sub(1).ok_or(ErrorKind::InvalidData)?;
        Ok(())
    }
}

/// Follows the frames of one connection.
struct Meter {
    /// Bytes to pass over: the preface, a payload.
    skip: usize,
    /// The beginning of a frame's head.
    head: [u8; HEAD],
    known: usize,
    control: Left,
    resets: Left,
}

/// Has a connection's frames counted from its preface on.
pub(super) fn watch(mut transport: Transport) -> Transport {
    transport.inspect(Box::new(Meter::new()));
    transport
}

impl Meter {
    fn new() -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            known: 0,
            control: Left::new(CONTROL),
            resets: Left::new(RESETS),
        }
    }

    /// Judges a frame by its head; its payload is passed over.
    fn count(&mut self) -> io::Result<()> {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        let ends_stream = flags & 1 == 1;
        match kind {
            // An empty piece of a body or of headers; the end of a body may be empty.
            0 if length == 0 && !ends_stream => self.control.spend(),
            9 if length == 0 => self.control.spend(),
            // DATA, HEADERS and CONTINUATION carry something; a window grows as often as it must.
            0 | 1 | 8 | 9 => Ok(()),
            3 => self.resets.spend(),
            // PRIORITY, SETTINGS, PING, GOAWAY, and what nobody here knows.
            _ => self.control.spend(),
        }
    }
}

impl Inspect for Meter {
    fn inspect(&mut self, mut read: &[u8]) -> io::Result<()> {
        while !read.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(read.len());
                self.skip -= passed;
                read = read.get(passed..).unwrap_or_default();
                continue;
            }
            let wanted = (HEAD - self.known).min(read.len());
            let (now, rest) = read.split_at(wanted);
            if let Some(place) = self.head.get_mut(self.known..self.known + wanted) {
                place.copy_from_slice(now);
            }
            (self.known, read) = (self.known + wanted, rest);
            if self.known == HEAD {
                self.known = 0;
                self.count()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Frames of a kind, each with so many bytes.
    fn frames(kind: u8, length: u8, count: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend(vec![7; usize::from(length)]);
        frame.repeat(count)
    }

    /// Whether a connection that begins with these frames goes on, in whatever pieces they come.
    fn passes(bytes: &[u8]) -> bool {
        let all = [&[0; PREFACE][..], bytes].concat();
        let of = |size| {
            let mut meter = Meter::new();
            all.chunks(size).try_for_each(|piece| meter.inspect(piece)).is_ok()
        };
        let passed = of(all.len());
        assert_eq!((of(1), of(10)), (passed, passed));
        passed
    }

    #[test]
    fn what_carries_something_is_not_counted() {
        for (kind, length) in [(0, 1), (1, 1), (8, 4), (9, 1)] {
            assert!(passes(&frames(kind, length, 5000)), "{kind}");
        }
    }

    #[test]
    fn what_carries_nothing_has_a_budget() {
        for (kind, length, most) in [
            (6, 8, 1000),
            (4, 0, 1000),
            (2, 5, 1000),
            (0, 0, 1000),
            (9, 0, 1000),
            (200, 3, 1000),
            (3, 4, 250),
        ] {
            assert!(passes(&frames(kind, length, most)), "{kind}");
            assert!(!passes(&frames(kind, length, most + 1)), "{kind}");
        }
    }

    #[test]
    fn a_budget_refills() {
        let mut left = Left::new(Budget { most: 3, each_second: 2 });
        (0..3).for_each(|_| left.spend().unwrap());
        assert!(left.spend().is_err());
        left.since = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(left.spend().is_ok() && left.spend().is_ok() && left.spend().is_err());
        left.since = Instant::now().checked_sub(Duration::from_secs(99)).unwrap();
        (0..3).for_each(|_| left.spend().unwrap());
        assert!(left.spend().is_err());
    }
}

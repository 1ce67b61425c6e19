//! Bounded, expiring memory: token digest to desktop, and for a moment token digest to refusal.
//!
//! May assume that a digest identifies a token. It keeps no tokens, and compares the whole digest,
//! since an answer given to the wrong token would be somebody else's desktop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache as QuickCache, EntryAction, EntryResult};

use super::{Desktop, Error, Now};

/// Longest life of a remembered desktop, as in the nginx/Lua incumbent.
const DESKTOP_LIFE: Duration = Duration::from_secs(600);

/// A desktop with no more than this left is not remembered, as in the nginx/Lua incumbent.
const WORTH_KEEPING: Duration = Duration::from_secs(1);

/// Life of a remembered refusal: long enough for a stale tab that retries, short enough for nobody
/// to notice.
const REFUSAL_LIFE: Duration = Duration::from_secs(5);

/// SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most desktops remembered; an eighth as many refusals come on top. About 220 bytes each.
    /// 0 remembers nothing.
    pub entries: usize,
}

impl Default for CacheLimits {
    /// 65,536 desktops, about 14 MB.
    fn default() -> Self {
        Self { entries: 65_536 }
    }
}

/// When, and with which keys, an answer is wanted.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Now,
    /// Answers of another generation of keys do not count.
    pub(super) generation: u64,
}

/// Remembered desktops and refusals.
pub(super) struct Cache {
    desktops: QuickCache<Digest, Entry>,
    /// Apart, so that a flood of bad tokens cannot push good ones out.
    refusals: QuickCache<Digest, Refusal>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    desktop: Arc<Desktop>,
    /// Bounds the entry's life even if the wall clock is set back.
    until: Instant,
    generation: u64,
}

impl Entry {
    fn serves(&self, moment: Moment) -> bool {
        let expires = Duration::from_secs(self.desktop.expires);
        self.generation == moment.generation
            && moment.now.wall < expires
            && moment.now.mono < self.until
    }
}

#[derive(Clone, Copy)]
struct Refusal {
    error: Error,
    until: Instant,
    generation: u64,
}

impl Cache {
    pub(super) fn new(limits: CacheLimits) -> Self {
        Self {
            desktops: QuickCache::new(limits.entries),
            refusals: QuickCache::new(limits.entries / 8),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The remembered desktop: the usual case, for which a read lock is taken only.
    pub(super) fn find(&self, digest: &Digest, moment: Moment) -> Option<Arc<Desktop>> {
        let entry = self.desktops.get(digest).filter(|entry| entry.serves(moment))?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(entry.desktop)
    }

    /// The remembered answer, otherwise that of `compute`, which one caller runs while others with
    /// the same digest wait for it. An `E` of `compute` is no answer, and not remembered.
    pub(super) async fn find_or_compute<E, F>(
        &self,
        digest: &Digest,
        moment: Moment,
        compute: impl FnOnce() -> F,
    ) -> Result<Arc<Desktop>, E>
    where
        E: From<Error>,
        F: Future<Output = Result<Result<Arc<Desktop>, Error>, E>>,
    {
        if let Some(desktop) = self.find(digest, moment) {
            return Ok(desktop);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.recall_refusal(digest, moment)?;

        let entry = self.desktops.entry_async(digest, |_, entry| {
            if entry.serves(moment) {
                EntryAction::Retain(Arc::clone(&entry.desktop))
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        let guard = match entry.await {
            EntryResult::Retained(desktop) => return Ok(desktop),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => guard,
            // We neither remove nor set a deadline; computing again is right all the same.
            EntryResult::Removed(..) | EntryResult::Timeout => return Ok(compute().await??),
        };
        // After a failure the guard passes to the next in line, who would fail again at full cost.
        self.recall_refusal(digest, moment)?;

        match compute().await? {
            Ok(desktop) => {
                if let Some(entry) = Self::entry(&desktop, moment) {
                    // An error means that `clear` came in between: nothing to keep, then.
                    let _cleared = guard.insert(entry);
                }
                Ok(desktop)
            }
            Err(error) => {
                self.remember_refusal(digest, error, moment);
                drop(guard);
                Err(error.into())
            }
        }
    }

    /// Desktops remembered, look-ups that found one, and look-ups that did not.
    pub(super) fn figures(&self) -> (u64, u64, u64) {
        let (hits, misses) =
            (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        (self.desktops.len() as u64, hits, misses)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.desktops.clear();
        self.refusals.clear();
    }

    /// `None` if the desktop expires too soon to be worth an entry.
    fn entry(desktop: &Arc<Desktop>, moment: Moment) -> Option<Entry> {
        let left = Duration::from_secs(desktop.expires).saturating_sub(moment.now.wall);
        (left > WORTH_KEEPING).then(|| Entry {
            desktop: Arc::clone(desktop),
            until: moment.now.mono + left.min(DESKTOP_LIFE),
            generation: moment.generation,
        })
    }

    fn recall_refusal(&self, digest: &Digest, moment: Moment) -> Result<(), Error> {
        match self.refusals.get(digest) {
            Some(refusal)
                if refusal.generation == moment.generation && moment.now.mono < refusal.until =>
            {
                Err(refusal.error)
            }
            _ => Ok(()),
        }
    }

    fn remember_refusal(&self, digest: &Digest, error: Error, moment: Moment) {
        // The one refusal that time alone cures.
        if error == Error::NotYetValid {
            return;
        }
        let refusal =
            Refusal { error, until: moment.now.mono + REFUSAL_LIFE, generation: moment.generation };
        self.refusals.insert(*digest, refusal);
    }
}

#[cfg(test)]
mod tests;

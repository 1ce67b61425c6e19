//! Small answers of a moment ago, for the next who asks for the same: no file is looked up, opened or
//! read for them. Bounded in bytes and in time.

use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::answer::{Content, Representation};
use super::encoding::Accepted;

/// Largest file; what is larger costs more to send than to open.
pub(super) const LARGEST: u64 = 256 << 10;

/// Held by an entry beside its content and its path.
const ENTRY: u64 = 320;

/// Typical size of an entry, for the first allocation of the table.
const TYPICAL: u64 = 16 << 10;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    path: Box<str>,
    accepted: Option<Accepted>,
}

impl Asked {
    /// A normalised path, and the codings that the client takes.
    pub(super) fn new(path: &str, accepted: Option<Accepted>) -> Self {
        Self { path: path.into(), accepted }
    }
}

#[derive(Clone, Debug)]
struct Kept {
    form: Representation,
    until: Instant,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Asked, Kept> for ByBytes {
    fn weight(&self, asked: &Asked, kept: &Kept) -> u64 {
        ENTRY + asked.path.len() as u64 + kept.form.length
    }
}

/// The answers.
#[derive(Debug)]
pub(super) struct Recent {
    forms: Cache<Asked, Kept, ByBytes>,
    lasts: Duration,
}

impl Recent {
    /// Holds at most so many bytes, each answer for so long; 0 of either for none.
    pub(super) fn new(capacity: u64, lasts: Duration) -> Self {
        let items = usize::try_from(capacity / TYPICAL).unwrap_or(usize::MAX).clamp(16, 1 << 16);
        Self { forms: Cache::with_weighter(items, capacity, ByBytes), lasts }
    }

    /// Whether anything is kept at all.
    pub(super) fn is_on(&self) -> bool {
        !self.lasts.is_zero()
    }

    /// The answer to the same question, if it was given a moment ago.
    pub(super) fn find(&self, asked: &Asked, now: Instant) -> Option<Representation> {
        let kept = self.forms.get(asked)?;
        (kept.until > now).then_some(kept.form)
    }

    /// Keeps an answer whose content is in memory.
    pub(super) fn keep(&self, asked: Asked, form: &Representation, now: Instant) {
        if matches!(form.content, Content::Memory(_)) {
            self.forms.insert(asked, Kept { form: form.clone(), until: now + self.lasts });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::files::precondition::Validators;

    fn form(content: Content) -> Representation {
        Representation {
            validators: Validators::new("\"1\"".to_owned(), 0),
            mime: "text/plain",
            coding: None,
            varies: false,
            lasting: false,
            length: 5,
            content,
        }
    }

    #[test]
    fn an_answer_serves_the_same_question_for_its_time() {
        let (lasts, now) = (Duration::from_secs(1), Instant::now());
        let recent = Recent::new(1 << 20, lasts);
        let asked = Asked::new("/a", None);
        recent.keep(asked.clone(), &form(Content::Memory(Bytes::from_static(b"hello"))), now);
        assert!(recent.find(&asked, now).is_some());
        assert!(recent.find(&Asked::new("/b", None), now).is_none());
        let other = Asked::new("/a", Some(Accepted::default()));
        assert!(recent.find(&other, now).is_none());
        assert!(recent.find(&asked, now + lasts - Duration::from_millis(1)).is_some());
        assert!(recent.find(&asked, now + lasts).is_none());
    }

    #[test]
    fn an_open_file_is_not_kept() {
        let (recent, now) = (Recent::new(1 << 20, Duration::from_secs(1)), Instant::now());
        let asked = Asked::new("/a", None);
        let file = Content::File(tempfile::tempfile().unwrap().into());
        recent.keep(asked.clone(), &form(file), now);
        assert!(recent.find(&asked, now).is_none());
    }

    #[test]
    fn no_more_is_kept_than_its_bytes() {
        let (lasts, now) = (Duration::from_secs(1), Instant::now());
        let recent = Recent::new(10_000, lasts);
        for number in 0..1000 {
            let asked = Asked::new(&format!("/{number}"), None);
            recent.keep(asked, &form(Content::Memory(Bytes::from_static(b"hello"))), now);
        }
        assert!(recent.forms.weight() <= 10_000);
        assert!(!recent.forms.is_empty());
    }
}

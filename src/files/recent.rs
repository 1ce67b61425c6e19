//! Small answers of a moment ago, for the next who asks for the same: no file is looked up, opened or
//! read for them. Bounded in bytes and in time.

use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::answer::{Content, Representation};
use super::encoding::{Accepted, Ranks};

/// Largest file; what is larger costs more to send than to open.
pub(super) const LARGEST: u64 = 256 << 10;

/// Held by an entry beside its content and its path.
const ENTRY: u64 = 320;

/// Typical size of an entry, for the first allocation of the table.
const TYPICAL: u64 = 16 << 10;

/// What was asked for: a client cannot have a file kept again by other words for the same wish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    path: Box<str>,
    ranks: Ranks,
}

impl Asked {
    /// A normalised path, and the codings that the client takes.
    pub(super) fn new(path: &str, accepted: Option<Accepted>) -> Self {
        Self { path: path.into(), ranks: accepted.map(Accepted::ranks).unwrap_or_default() }
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
    use http::HeaderMap;
    use http::header::ACCEPT_ENCODING;

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

    /// The question of a client that sends this `Accept-Encoding`.
    fn accepting(field: &str) -> Asked {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, field.parse().unwrap())]);
        Asked::new("/a", Accepted::from_headers(&headers))
    }

    #[test]
    fn an_answer_serves_the_same_question_for_its_time() {
        let (lasts, now) = (Duration::from_secs(1), Instant::now());
        let recent = Recent::new(1 << 20, lasts);
        let asked = Asked::new("/a", None);
        recent.keep(asked.clone(), &form(Content::Memory(Bytes::from_static(b"hello"))), now);
        assert!(recent.find(&asked, now).is_some());
        assert!(recent.find(&Asked::new("/b", None), now).is_none());
        assert!(recent.find(&accepting("gzip"), now).is_none());
        assert!(recent.find(&asked, now + lasts - Duration::from_millis(1)).is_some());
        assert!(recent.find(&asked, now + lasts).is_none());
    }

    #[test]
    fn the_same_wish_in_other_words_is_the_same_question() {
        let (recent, now) = (Recent::new(1 << 20, Duration::from_secs(1)), Instant::now());
        let hello = || form(Content::Memory(Bytes::from_static(b"hello")));
        for thousandths in 1..=999 {
            let asked = accepting(&format!("br, gzip;q=0.{thousandths:03}"));
            recent.keep(asked, &hello(), now);
        }
        assert_eq!(recent.forms.len(), 1);
        recent.keep(Asked::new("/a", None), &hello(), now);
        assert!(recent.find(&accepting("deflate;q=0.7"), now).is_some());
        assert_eq!(recent.forms.len(), 2);
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

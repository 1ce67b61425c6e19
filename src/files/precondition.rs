//! Conditional requests (RFC 9110 §13).

use std::time::{Duration, SystemTime};

use http::header::{
    ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue};

/// What a client may compare with the selected representation, in the form in which it is sent.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    etag: HeaderValue,
    last_modified: HeaderValue,
    modified: u64,
}

/// What the conditions of a GET or HEAD come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

impl Validators {
    /// Of a strong entity tag, quotes included, and a time of modification in seconds since 1970.
    pub(super) fn new(etag: String, modified: u64) -> Self {
        Self { etag: field(etag), last_modified: field(http_date(modified)), modified }
    }

    /// Adds the fields that tell of them.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(ETAG, self.etag.clone());
        headers.insert(LAST_MODIFIED, self.last_modified.clone());
    }

    /// Evaluates the conditions in the order of RFC 9110 §13.2.2, `If-Range` excepted.
    pub(super) fn judge(&self, headers: &HeaderMap) -> Verdict {
        let before = if headers.contains_key(IF_MATCH) {
            self.listed(headers, IF_MATCH, |tag| !tag.weak)
        } else {
            date(headers, IF_UNMODIFIED_SINCE).is_none_or(|limit| self.modified <= limit)
        };
        if !before {
            return Verdict::Failed;
        }
        let known = if headers.contains_key(IF_NONE_MATCH) {
            self.listed(headers, IF_NONE_MATCH, |_| true)
        } else {
            date(headers, IF_MODIFIED_SINCE).is_some_and(|copy| self.modified <= copy)
        };
        if known { Verdict::NotModified } else { Verdict::Proceed }
    }

    /// Whether ranges may be served: the client's part is of this very representation (§13.1.5).
    ///
    /// A date must be equal, not later: it then stands for the version it was sent with.
    pub(super) fn allow_range(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(IF_RANGE).iter();
        match (values.next(), values.next()) {
            (None, _) => true,
            (Some(value), None) => match Tags(value.as_bytes()).next() {
                Some(tag) => !tag.weak && tag.opaque == self.etag.as_bytes(),
                None => seconds(value) == Some(self.modified),
            },
            (Some(_), Some(_)) => false,
        }
    }

    /// Whether a list of tags, or `*`, names this representation.
    fn listed(&self, headers: &HeaderMap, name: HeaderName, usable: fn(&Tag<'_>) -> bool) -> bool {
        headers.get_all(name).iter().any(|value| {
            value.as_bytes().trim_ascii() == b"*"
                || Tags(value.as_bytes())
                    .any(|tag| usable(&tag) && tag.opaque == self.etag.as_bytes())
        })
    }
}

/// The one date in a field; several, or none that can be read, are no condition.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => seconds(value),
        _ => None,
    }
}

fn seconds(value: &HeaderValue) -> Option<u64> {
    let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Text made here, which is always ASCII, as the value of a field.
pub(super) fn field(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A date in the form of RFC 9110 §5.6.7.
fn http_date(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// An entity tag of a request, quotes included in `opaque`.
#[derive(Debug)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// Reads a list of entity tags up to the first that is malformed. A comma may stand in a tag.
#[derive(Debug)]
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let skipped = self.0.iter().take_while(|b| matches!(b, b' ' | b'\t' | b',')).count();
        let list = self.0.get(skipped..)?;
        let (weak, list) = list.strip_prefix(b"W/").map_or((false, list), |list| (true, list));
        let inside = list.strip_prefix(b"\"")?;
        let end = inside.iter().position(|b| *b == b'"')? + 2;
        let (opaque, rest) = list.split_at_checked(end)?;
        self.0 = rest;
        Some(Tag { weak, opaque })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const TAG: &str = "\"1-a\"";

    fn validators() -> Validators {
        Validators::new(TAG.to_owned(), NOW)
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn judge(fields: &[(HeaderName, &str)]) -> Verdict {
        validators().judge(&headers(fields))
    }

    /// Every combination of the four conditions, each absent, true or false, against a literal
    /// reading of the steps in §13.2.2.
    #[test]
    fn precedence_is_that_of_the_rfc() {
        let (earlier, same) = (http_date(NOW - 1), http_date(NOW));
        let tags = [None, Some((TAG, true)), Some(("\"other\"", false))];
        let unmodified = [None, Some((same.as_str(), true)), Some((earlier.as_str(), false))];
        let modified = [None, Some((same.as_str(), false)), Some((earlier.as_str(), true))];
        for if_match in tags {
            for if_unmodified in unmodified {
                for if_none in tags {
                    for if_modified in modified {
                        let mut fields = Vec::new();
                        fields.extend(if_match.map(|(v, _)| (IF_MATCH, v)));
                        fields.extend(if_unmodified.map(|(v, _)| (IF_UNMODIFIED_SINCE, v)));
                        fields.extend(if_none.map(|(v, _)| (IF_NONE_MATCH, v)));
                        fields.extend(if_modified.map(|(v, _)| (IF_MODIFIED_SINCE, v)));
                        let first = if_match.or(if_unmodified).is_none_or(|(_, holds)| holds);
                        let second = match (if_none, if_modified) {
                            (Some((_, listed)), _) => !listed,
                            (None, Some((_, changed))) => changed,
                            (None, None) => true,
                        };
                        let expected = match (first, second) {
                            (false, _) => Verdict::Failed,
                            (true, false) => Verdict::NotModified,
                            (true, true) => Verdict::Proceed,
                        };
                        assert_eq!(judge(&fields), expected, "{fields:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tags_are_compared_weakly_or_strongly() {
        use Verdict::{Failed, NotModified, Proceed};
        for (value, if_none_match, if_match) in [
            ("\"1-a\"", NotModified, Proceed),
            ("W/\"1-a\"", NotModified, Failed),
            ("*", NotModified, Proceed),
            (" * ", NotModified, Proceed),
            ("\"x\", \"1-a\"", NotModified, Proceed),
            ("\"x,y\" ,, W/\"z\",\"1-a\"", NotModified, Proceed),
            ("\"x\"\"1-a\"", NotModified, Proceed),
            ("\"x\"", Proceed, Failed),
            ("1-a", Proceed, Failed),
            ("\"1-a", Proceed, Failed),
            ("w/\"1-a\"", Proceed, Failed),
            ("x, \"1-a\"", Proceed, Failed),
            ("", Proceed, Failed),
        ] {
            assert_eq!(judge(&[(IF_NONE_MATCH, value)]), if_none_match, "{value}");
            assert_eq!(judge(&[(IF_MATCH, value)]), if_match, "{value}");
        }
        assert_eq!(judge(&[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, TAG)]), NotModified);
    }

    #[test]
    fn unreadable_dates_are_no_condition() {
        let same = http_date(NOW);
        for value in ["", "yesterday", "0", "Wed, 99 Nov 2023 00:00:00 GMT"] {
            assert_eq!(judge(&[(IF_MODIFIED_SINCE, value)]), Verdict::Proceed, "{value}");
            assert_eq!(judge(&[(IF_UNMODIFIED_SINCE, value)]), Verdict::Proceed, "{value}");
        }
        let twice = [(IF_MODIFIED_SINCE, same.as_str()), (IF_MODIFIED_SINCE, same.as_str())];
        assert_eq!(judge(&twice), Verdict::Proceed);
        // The obsolete forms are dates as well.
        assert_eq!(judge(&[(IF_MODIFIED_SINCE, "Sun Nov  6 08:49:37 2050")]), Verdict::NotModified);
    }

    #[test]
    fn a_range_needs_the_same_representation() {
        let (earlier, same, later) = (http_date(NOW - 1), http_date(NOW), http_date(NOW + 1));
        for (value, allowed) in [
            (TAG, true),
            (same.as_str(), true),
            ("W/\"1-a\"", false),
            ("\"x\"", false),
            (earlier.as_str(), false),
            (later.as_str(), false),
            ("*", false),
            ("", false),
        ] {
            let headers = headers(&[(IF_RANGE, value)]);
            let validators = validators();
            assert_eq!(validators.allow_range(&headers), allowed, "{value}");
        }
        assert!(validators().allow_range(&HeaderMap::new()));
        let twice = headers(&[(IF_RANGE, TAG), (IF_RANGE, TAG)]);
        assert!(!validators().allow_range(&twice));
    }
}

//! Byte ranges (RFC 9110 §14).

use std::ops::Range;

use http::HeaderMap;
use http::header::RANGE;

/// Most ranges of one request. Readers of PDF and zip files ask for a handful; whoever asks for
/// more gets the whole file (§14.2 warns of many small ranges).
const MOST: usize = 16;

/// One range as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    /// From here up to and including the last position.
    Between(u64, u64),
    /// So many bytes at the end.
    Last(u64),
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Everything.
    Whole,
    /// Nothing: 416.
    Unsatisfiable,
    /// One or more parts, none of them empty, in the order asked for.
    Parts(Vec<Range<u64>>),
}

/// Reads the field. One that is invalid, repeated or in another unit does not count (§14.2).
pub(super) fn asked(headers: &HeaderMap) -> Option<Vec<Spec>> {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (unit, set) = value.to_str().ok()?.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // An empty member is no error in a list (§5.6.1.2).
    let members = set.split(',').map(|member| member.trim_matches([' ', '\t']));
    let specs = members
        .filter(|member| !member.is_empty())
        .take(MOST + 1)
        .map(spec)
        .collect::<Option<Vec<_>>>()?;
    (1..=MOST).contains(&specs.len()).then_some(specs)
}

fn spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first, last) {
        ("", last) => position(last).map(Spec::Last),
        (first, "") => position(first).map(|first| Spec::Between(first, u64::MAX)),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(Spec::Between(first, last))
        }
    }
}

/// A number; one that is too large lies behind the end of every file anyway.
fn position(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Applies ranges to a file of this size.
pub(super) fn cut(specs: &[Spec], size: u64) -> Cut {
    // A suffix of an empty file is satisfiable, yet `Content-Range` cannot name no bytes.
    if size == 0 && specs.iter().any(|spec| matches!(spec, Spec::Last(1..))) {
        return Cut::Whole;
    }
    let parts: Vec<_> = specs
        .iter()
        .map(|spec| match *spec {
            Spec::Between(first, last) => first..last.saturating_add(1).min(size),
            Spec::Last(length) => size.saturating_sub(length)..size,
        })
        .filter(|part| !part.is_empty())
        .collect();
    // More bytes than there are: they overlap, and the whole file is less work (§14.2).
    let total = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.end - part.start));
    match parts.len() {
        0 => Cut::Unsatisfiable,
        1 => Cut::Parts(parts),
        _ if total > size => Cut::Whole,
        _ => Cut::Parts(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(header: &str, size: u64) -> Cut {
        let headers = HeaderMap::from_iter([(RANGE, header.parse().unwrap())]);
        asked(&headers).map_or(Cut::Whole, |specs| cut(&specs, size))
    }

    #[test]
    fn ranges_are_cut_from_ten_bytes() {
        let parts = |parts: &[(u64, u64)]| {
            Cut::Parts(parts.iter().map(|(start, end)| *start..*end).collect())
        };
        for (header, expected) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("bytes=0-9", parts(&[(0, 10)])),
            ("bytes=3-", parts(&[(3, 10)])),
            ("bytes=-3", parts(&[(7, 10)])),
            ("bytes=-99", parts(&[(0, 10)])),
            ("bytes=9-99999999999999999999999999", parts(&[(9, 10)])),
            ("bytes=-99999999999999999999999999", parts(&[(0, 10)])),
            ("Bytes= 1-2 ", parts(&[(1, 3)])),
            ("bytes=,1-2,,", parts(&[(1, 3)])),
            ("bytes=0-1,4-5", parts(&[(0, 2), (4, 6)])),
            ("bytes=4-5, 0-1", parts(&[(4, 6), (0, 2)])),
            ("bytes=0-1,99-", parts(&[(0, 2)])),
            ("bytes=0-3,2-5", parts(&[(0, 4), (2, 6)])),
            ("bytes=0-,0-", Cut::Whole),
            ("bytes=0-9,9-9", Cut::Whole),
            ("bytes=10-", Cut::Unsatisfiable),
            ("bytes=10-20,30-", Cut::Unsatisfiable),
            ("bytes=-0", Cut::Unsatisfiable),
            ("bytes=99999999999999999999999999-", Cut::Unsatisfiable),
            ("bytes=18446744073709551615-", Cut::Unsatisfiable),
            ("bytes=2-1", Cut::Whole),
            ("bytes=0-1,2-1", Cut::Whole),
            ("bytes=", Cut::Whole),
            ("bytes=,", Cut::Whole),
            ("bytes=-", Cut::Whole),
            ("bytes=a-b", Cut::Whole),
            ("bytes=+1-2", Cut::Whole),
            ("bytes=1 - 2", Cut::Whole),
            ("bytes=1", Cut::Whole),
            ("bytes 0-1", Cut::Whole),
            ("lines=0-1", Cut::Whole),
            ("", Cut::Whole),
        ] {
            assert_eq!(answer(header, 10), expected, "{header}");
        }
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        assert_eq!(answer("bytes=0-", 0), Cut::Unsatisfiable);
        assert_eq!(answer("bytes=-1", 0), Cut::Whole);
        assert_eq!(answer("bytes=-0", 0), Cut::Unsatisfiable);
    }

    #[test]
    fn floods_are_answered_whole() {
        let header = |count: usize| {
            let parts: Vec<_> = (0..count).map(|at| format!("{}-{}", at * 2, at * 2)).collect();
            format!("bytes={}", parts.join(","))
        };
        assert!(matches!(answer(&header(MOST), 100), Cut::Parts(parts) if parts.len() == MOST));
        assert_eq!(answer(&header(MOST + 1), 100), Cut::Whole);
        assert_eq!(answer(&header(5000), 100_000), Cut::Whole);
    }

    #[test]
    fn a_repeated_field_does_not_count() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, "bytes=0-1".parse().unwrap());
        headers.append(RANGE, "bytes=2-3".parse().unwrap());
        assert_eq!(asked(&headers), None);
    }
}

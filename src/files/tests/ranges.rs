//! Ranges: whatever is asked, the bytes are the file's.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use http::header::RANGE;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;

const SIZES: [usize; 9] = [0, 1, 2, 3, 10, 1000, 65_536, 65_537, 200_000];

static FILES: LazyLock<(Runtime, Rig)> = LazyLock::new(|| {
    let rig = Rig::new(&[]);
    for size in SIZES {
        write(rig.dir.path(), &size.to_string(), &noise(size));
    }
    (tokio::runtime::Builder::new_current_thread().build().unwrap(), rig)
});

/// Takes `multipart/byteranges` apart as a client would.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let boundary = answer.field("content-type").split_once("boundary=").unwrap().1;
    let mut rest = answer.body.as_slice();
    let mut parts = Vec::new();
    let opening = format!("--{boundary}\r\n");
    rest = rest.strip_prefix(opening.as_bytes()).unwrap();
    loop {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        assert!(head.starts_with("Content-Type: application/octet-stream\r\n"));
        let range = head.split_once("Content-Range: bytes ").unwrap().1.to_owned();
        let length = positions(&range).0.count();
        let (content, after) = rest[end + 4..].split_at(length);
        parts.push((range, content.to_vec()));
        if after == format!("\r\n--{boundary}--\r\n").as_bytes() {
            return parts;
        }
        rest = after.strip_prefix(format!("\r\n--{boundary}\r\n").as_bytes()).unwrap();
    }
}

/// `0-4/10` as positions and size.
fn positions(range: &str) -> (RangeInclusive<usize>, usize) {
    let (range, size) = range.split_once('/').unwrap();
    let (first, last) = range.split_once('-').unwrap();
    (first.parse().unwrap()..=last.parse().unwrap(), size.parse().unwrap())
}

/// What each satisfiable range selects, by the words of RFC 9110 §14.1.2; `None` is invalid.
fn expected(header: &str, content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut slices = Vec::new();
    let set = header.strip_prefix("bytes=")?;
    let members: Vec<_> = set.split(',').map(str::trim).filter(|m| !m.is_empty()).collect();
    if members.is_empty() {
        return None;
    }
    for member in members {
        let (first, last) = member.split_once('-')?;
        let number = |text: &str| {
            text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u128::MAX))
        };
        let chosen: Vec<u8> = match (first, last) {
            ("", "") => return None,
            ("", last) => {
                let last = number(last)?;
                let skipped = (content.len() as u128).saturating_sub(last) as usize;
                content.iter().skip(skipped).copied().collect()
            }
            (first, last) => {
                let first = number(first)?;
                let last = if last.is_empty() { u128::MAX } else { number(last)? };
                if last < first {
                    return None;
                }
                (0_u128..)
                    .zip(content)
                    .filter(|(at, _)| (first..=last).contains(at))
                    .map(|(_, byte)| *byte)
                    .collect()
            }
        };
        slices.push(chosen);
    }
    Some(slices)
}

fn check(size: usize, header: &str) {
    let (runtime, rig) = &*FILES;
    let content = noise(size);
    let answer = runtime.block_on(rig.get(&format!("/{size}"), &[(RANGE, header)]));
    let expected = expected(header, &content);
    let slices: Vec<_> = expected.iter().flatten().filter(|slice| !slice.is_empty()).collect();
    match answer.status {
        200 => {
            assert_eq!(answer.body, content);
            let total: usize = slices.iter().map(|slice| slice.len()).sum();
            let many = expected.as_ref().is_some_and(|asked| asked.len() > 16);
            let overlap = slices.len() > 1 && total > size;
            assert!(expected.is_none() || many || overlap || size == 0, "{header} of {size}");
        }
        206 if answer.field("content-range").is_empty() => {
            let parts = parts(&answer);
            assert_eq!(parts.len(), slices.len());
            for ((range, part), slice) in parts.iter().zip(slices) {
                let (place, whole) = positions(range);
                assert_eq!((part, whole), (slice, size), "{header}");
                assert_eq!(part, &content[place]);
            }
        }
        206 => {
            let range = answer.field("content-range").strip_prefix("bytes ").unwrap();
            let (place, whole) = positions(range);
            assert_eq!((slices.len(), whole), (1, size), "{header}");
            assert_eq!(&answer.body, slices[0]);
            assert_eq!(answer.body, content[place]);
        }
        416 => {
            assert!(expected.is_some() && slices.is_empty(), "{header} of {size}");
            assert_eq!(answer.field("content-range"), format!("bytes */{size}"));
        }
        other => panic!("{other}"),
    }
}

fn member() -> impl Strategy<Value = String> {
    let near = prop_oneof![0..12_u64, 0..1100_u64, 65_000..66_000_u64, 0..210_000_u64];
    prop_oneof![
        6 => (near.clone(), near.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        2 => (near.clone(), near.clone()).prop_map(|(a, b)| format!("{a}-{b}")),
        2 => near.clone().prop_map(|a| format!("{a}-")),
        2 => near.prop_map(|a| format!("-{a}")),
        1 => any::<u64>().prop_map(|a| format!("{a}-{a}0")),
        1 => "[ ]{0,2}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_bytes_are_those_asked_for(
        size in proptest::sample::select(&SIZES),
        members in proptest::collection::vec(member(), 1..6),
    ) {
        check(size, &format!("bytes={}", members.join(",")));
    }

    #[test]
    fn one_range_is_never_ignored(
        size in proptest::sample::select(&SIZES), first in 0..210_000_u64, length in 0..70_000_u64,
    ) {
        check(size, &format!("bytes={first}-{}", first + length));
    }

    #[test]
    fn nonsense_is_answered_whole_or_right(
        size in proptest::sample::select(&SIZES), header in "(bytes=)?[0-9, -]{0,24}",
    ) {
        check(size, &header);
    }

    #[test]
    fn any_text_is_survived(size in proptest::sample::select(&SIZES), header in "[ -~]{0,40}") {
        check(size, &header);
    }
}

#[test]
fn several_ranges_are_several_parts() {
    for header in ["bytes=0-0,2-2", "bytes=5-9,0-4", "bytes=-1,0-0", "bytes=0-1,50-,3-3"] {
        check(10, header);
        let (runtime, rig) = &*FILES;
        let answer = runtime.block_on(rig.get("/10", &[(RANGE, header)]));
        assert_eq!(parts(&answer).len(), 2, "{header}");
    }
    check(200_000, "bytes=0-99999,100000-199999");
    let flood = vec!["0-"; 500].join(",");
    check(200_000, &format!("bytes={flood}"));
}

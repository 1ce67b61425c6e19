//! A chunked body: the same however it is cut, and as a second reader has it, which looks at the whole.
//!
//! Input: a byte of where to cut, then the body and what follows it.
#![no_main]

use deskgate_fuzz::chunked::Chunked;
use libfuzzer_sys::fuzz_target;

/// Most bytes of extensions and trailers.
const ASIDE: usize = 16 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some((cut, body)) = data.split_first() else { return };
    let want = read(body);
    for size in [usize::MAX, 1, usize::from(*cut) + 1] {
        assert_eq!(taken(body, size), want, "cut at {size}");
    }
});

/// What came of a body.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    chunks: Vec<u8>,
    /// Where it ended, if it did.
    end: Option<usize>,
    broken: bool,
}

/// The reader as a connection uses it, which gets so many bytes at a time.
fn taken(body: &[u8], size: usize) -> Outcome {
    let (mut reader, mut outcome, mut at) = (Chunked::default(), Outcome::default(), 0);
    let mut known = 0;
    while known < body.len() && !reader.is_over() {
        known += size.min(body.len() - known);
        while at < known && !reader.is_over() {
            let Ok((aside, here)) = reader.next(&body[at..known]) else {
                return Outcome { broken: true, ..outcome };
            };
            assert!(aside + here > 0 && at + aside + here <= known, "it stands still or runs on");
            outcome.chunks.extend(&body[at + aside..at + aside + here]);
            at += aside + here;
        }
    }
    outcome.end = reader.is_over().then_some(at);
    outcome
}

/// What should come of it, by the text of RFC 9112 section 7.1.
fn read(body: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut at, mut aside) = (0, 0);
    loop {
        // A line is broken as soon as a byte of it is, so one that is cut may be, too.
        let Some((line, end)) = line(body, at) else {
            outcome.broken = size_line(&body[at..], false, &mut aside).is_none();
            return outcome;
        };
        let Some(size) = size_line(line, true, &mut aside) else {
            return Outcome { broken: true, ..outcome };
        };
        at = end;
        if size == 0 {
            break;
        }
        let rest = &body[at..];
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        outcome.chunks.extend(&rest[..here]);
        at += here;
        match &body[at..] {
            [] | [b'\r'] => return outcome,
            [b'\r', b'\n', ..] => at += 2,
            _ => return Outcome { broken: true, ..outcome },
        }
    }
    loop {
        let whole = line(body, at);
        let (text, end) = whole.unwrap_or((&body[at..], body.len()));
        if text.is_empty() && whole.is_some() {
            outcome.end = Some(end);
            return outcome;
        }
        if !trailer(text, whole.is_some(), &mut aside) {
            return Outcome { broken: true, ..outcome };
        }
        if whole.is_none() {
            return outcome;
        }
        at = end;
    }
}

/// The line at a place, without its end, and where that is.
fn line(body: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = body[at..].windows(2).position(|pair| pair == b"\r\n")?;
    Some((&body[at..at + length], at + length + 2))
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn text(byte: u8) -> bool {
    byte == b'\t' || (b' '..=b'~').contains(&byte) || byte >= 0x80
}

/// A line, and whether all of it is there: if only the second half of its end is missing, it is.
fn all_there(line: &[u8], whole: bool) -> (&[u8], bool) {
    match line {
        [rest @ .., b'\r'] if !whole => (rest, true),
        line => (line, whole),
    }
}

/// A size and its extensions; none if they break a rule.
fn size_line(line: &[u8], whole: bool, aside: &mut usize) -> Option<u64> {
    let (line, whole) = all_there(line, whole);
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut size = 0_u64;
    for digit in &line[..digits] {
        size = size.checked_mul(16)? + u64::from(char::from(*digit).to_digit(16)?);
    }
    let fits = digits <= 16 && size <= i64::MAX as u64;
    let rest = &line[digits..];
    if !fits || digits == 0 && (whole || !rest.is_empty()) {
        return None;
    }
    let Some((semicolon, extension)) = rest.split_first() else { return Some(size) };
    *aside += rest.len();
    let named = match extension.split_first() {
        None => !whole,
        Some((first, more)) => {
            token(*first) && more.iter().all(|byte| text(*byte) && byte.is_ascii())
        }
    };
    (*semicolon == b';' && named && *aside <= ASIDE).then_some(size)
}

/// Whether a line is a trailer, or the beginning of one.
fn trailer(line: &[u8], whole: bool, aside: &mut usize) -> bool {
    let (line, whole) = all_there(line, whole);
    if line.is_empty() {
        return true; // The end, or nothing of it.
    }
    *aside += line.len();
    let name = line.iter().take_while(|byte| token(**byte)).count();
    let rest = &line[name..];
    let named = match rest.split_first() {
        None => !whole,
        Some((colon, value)) => name > 0 && *colon == b':' && value.iter().all(|byte| text(*byte)),
    };
    named && *aside <= ASIDE
}

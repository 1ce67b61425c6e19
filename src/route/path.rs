//! One normalisation of a request's path: what is judged is what is sent upstream.
//!
//! RFC 3986 §6.2: unreserved characters are decoded, dot segments resolved, empty segments merged
//! (as nginx's `merge_slashes`), escapes written in upper case. What a later reader could take for
//! a separator or an end (`%2f..`, `\`, NUL, controls) is refused, never guessed at.

use std::fmt;

/// Longest path accepted, in bytes: a token of 8 KiB travels in `/container/<token>/...`.
const MAX_LEN: usize = 16 * 1024;

/// A normalised absolute path: starts with `/`, holds no `//`, no dot segment, no fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct NormalPath(String);

/// Why a path cannot be normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Does not start with `/`.
    #[error("the path is not absolute")]
    NotAbsolute,
    /// More than 16 KiB.
    #[error("the path is too long")]
    TooLong,
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent escape")]
    BrokenEscape,
    /// A control character, a backslash, a space or a `#`, plain or escaped where that is unsafe.
    #[error("the path has a forbidden character")]
    Forbidden,
    /// `..` above the root, or `..` beside an escaped slash.
    #[error("the path leaves its root")]
    LeavesRoot,
}

impl NormalPath {
    /// Normalises the raw path of a request target (without its query).
    ///
    /// # Errors
    /// See [`InvalidPath`]; the answer is 400.
    pub fn parse(raw: &[u8]) -> Result<Self, InvalidPath> {
        if raw.first() != Some(&b'/') {
            return Err(InvalidPath::NotAbsolute);
        }
        if raw.len() > MAX_LEN {
            return Err(InvalidPath::TooLong);
        }
        if raw.iter().all(|byte| is_plain(*byte)) && !has_dots_or_doubles(raw) {
            // Nearly every request: nothing to decode, resolve or merge.
            return String::from_utf8(raw.to_vec()).map(Self).map_err(|_| InvalidPath::Forbidden);
        }
        resolve(&decode(raw)?)
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NormalPath {
    /// A path may hold a token, so only its length is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NormalPath({} bytes)", self.0.len())
    }
}

/// Unreserved characters, which mean the same escaped or not (RFC 3986 §2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Characters that stay as they are in a path: `pchar` and `/` (RFC 3986 §3.3).
fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b':'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}

fn has_dots_or_doubles(raw: &[u8]) -> bool {
    raw.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

/// Decodes what means the same either way, escapes what must be escaped, refuses the rest.
fn decode(raw: &[u8]) -> Result<String, InvalidPath> {
    let mut out = String::with_capacity(raw.len() + 16);
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            match byte {
                byte if is_plain(byte) => out.push(char::from(byte)),
                // Browsers escape these; some clients send them raw. Never ambiguous.
                0x80.. | b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                    escape(byte, &mut out);
                }
                _ => return Err(InvalidPath::Forbidden),
            }
            continue;
        }
        let value = match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
            (Some(high), Some(low)) => high << 4 | low,
            _ => return Err(InvalidPath::BrokenEscape),
        };
        match value {
            0..=0x1f | 0x7f | b'\\' => return Err(InvalidPath::Forbidden),
            value if is_unreserved(value) => out.push(char::from(value)),
            value => escape(value, &mut out),
        }
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn escape(byte: u8, out: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.extend(DIGITS.get(usize::from(byte >> 4)));
    out.extend(DIGITS.get(usize::from(byte & 15)));
}

/// Resolves dot segments and merges empty ones.
fn resolve(decoded: &str) -> Result<NormalPath, InvalidPath> {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = true;
    for segment in decoded.split('/').skip(1) {
        ends_in_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(InvalidPath::LeavesRoot)?;
            }
            // An upstream that decodes again would see a dot segment here.
            segment if segment.split("%2F").any(|part| part == "..") => {
                return Err(InvalidPath::LeavesRoot);
            }
            segment => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(decoded.len());
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if ends_in_folder {
        path.push('/');
    }
    Ok(NormalPath(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(raw: &str) -> Result<String, InvalidPath> {
        NormalPath::parse(raw.as_bytes()).map(|path| path.0)
    }

    #[test]
    fn each_spelling_has_one_written_result() {
        let rows: &[(&str, Result<&str, InvalidPath>)] = &[
            ("/", Ok("/")),
            ("/filer", Ok("/filer")),
            ("/filer/", Ok("/filer/")),
            ("//API//x", Ok("/API/x")),
            ("/foo/../API/x", Ok("/API/x")),
            ("/foo/%2e%2E/API/x", Ok("/API/x")),
            ("/a/./b/.", Ok("/a/b/")),
            ("/a/..", Ok("/")),
            ("/a/b/..", Ok("/a/")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/...", Ok("/...")),
            ("/%41PI", Ok("/API")),
            ("/a%20b", Ok("/a%20b")),
            ("/a%c3%a9", Ok("/a%C3%A9")),
            ("/a\u{e9}", Ok("/a%C3%A9")),
            ("/API%2fx", Ok("/API%2Fx")),
            ("/a;b=c", Ok("/a;b=c")),
            ("/a%3bb", Ok("/a%3Bb")),
            ("/a%25b", Ok("/a%25b")),
            ("/a|b", Ok("/a%7Cb")),
            ("/..", Err(InvalidPath::LeavesRoot)),
            ("/%2e%2e/etc", Err(InvalidPath::LeavesRoot)),
            ("/a/..%2fb", Err(InvalidPath::LeavesRoot)),
            ("/a%2F../b", Err(InvalidPath::LeavesRoot)),
            ("/a\\b", Err(InvalidPath::Forbidden)),
            ("/a%5cb", Err(InvalidPath::Forbidden)),
            ("/a%00b", Err(InvalidPath::Forbidden)),
            ("/a%0d%0aX:y", Err(InvalidPath::Forbidden)),
            ("/a b", Err(InvalidPath::Forbidden)),
            ("/a#b", Err(InvalidPath::Forbidden)),
            ("/a%2", Err(InvalidPath::BrokenEscape)),
            ("/a%zz", Err(InvalidPath::BrokenEscape)),
            ("/a%+1", Err(InvalidPath::BrokenEscape)),
            ("API", Err(InvalidPath::NotAbsolute)),
            ("", Err(InvalidPath::NotAbsolute)),
            ("*", Err(InvalidPath::NotAbsolute)),
        ];
        for (raw, want) in rows {
            assert_eq!(parse(raw).as_deref(), want.as_ref().copied(), "{raw}");
        }
        assert_eq!(parse(&format!("/{}", "a".repeat(MAX_LEN))), Err(InvalidPath::TooLong));
    }

    #[test]
    fn debug_shows_no_path() {
        let path = NormalPath::parse(b"/container/secret/80").unwrap();
        assert_eq!(format!("{path:?}"), "NormalPath(20 bytes)");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(raw in "/[a-c./%2eEfF;~ \\\\]{0,24}") {
            if let Ok(once) = parse(&raw) {
                let twice = parse(&once).unwrap();
                prop_assert_eq!(twice, once);
            }
        }

        #[test]
        fn no_result_holds_a_dot_segment_or_a_double_slash(raw in any::<Vec<u8>>()) {
            if let Ok(path) = NormalPath::parse(&[b"/", raw.as_slice()].concat()) {
                let path = path.as_str();
                prop_assert!(path.starts_with('/') && !path.contains("//") && path.is_ascii());
                prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));
            }
        }
    }
}

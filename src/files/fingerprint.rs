//! Recognises names that change with their content, as bundlers make them.
//!
//! A name that is missed costs a revalidation; one that is mistaken hides an update for a year.
//! So every rule leans towards missing.

use std::path::Path;

/// Shortest and longest hash in a name.
const HASH: std::ops::RangeInclusive<usize> = 8..=64;

/// Changes between kinds of characters that a word with a number does not have.
const MIXED: usize = 4;

/// Whether the file's name holds a hash before its extension: `app.3f2a9c1b.js`.
pub(super) fn is_in(name: &Path) -> bool {
    let Some(name) = name.file_name().and_then(|name| name.to_str()) else { return false };
    let name = name.strip_suffix(".map").unwrap_or(name);
    let Some((stem, _extension)) = name.rsplit_once('.') else { return false };
    stem.rsplit_once(['.', '-']).is_some_and(|(name, hash)| !name.is_empty() && is_hash(hash))
}

fn is_hash(text: &str) -> bool {
    HASH.contains(&text.len()) && (is_hex(text) || is_mixed(text))
}

/// Hexadecimal digits of one case, some of them letters: not a date, not a word.
fn is_hex(text: &str) -> bool {
    let one_case = !text.bytes().any(|b| b.is_ascii_uppercase())
        || !text.bytes().any(|b| b.is_ascii_lowercase());
    one_case
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

/// Base 58 or 62: letters of both cases and digits in no order.
fn is_mixed(text: &str) -> bool {
    let kind = |b: u8| (b.is_ascii_uppercase(), b.is_ascii_lowercase(), b.is_ascii_digit());
    let changes = text.bytes().zip(text.bytes().skip(1)).filter(|(a, b)| kind(*a) != kind(*b));
    text.bytes().all(|b| b.is_ascii_alphanumeric())
        && text.bytes().any(|b| b.is_ascii_uppercase())
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && text.bytes().any(|b| b.is_ascii_digit())
        && changes.count() >= MIXED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_told_from_words() {
        for name in [
            "app.3f2a9c1b.js",
            "app-3f2a9c1b.js",
            "js/app.3f2a9c1b.js.map",
            "logo.D41D8CD9.svg",
            "index-BXq3Zk9a.css",
            "a.d41d8cd98f00b204e9800998ecf8427e.woff2",
        ] {
            assert!(is_in(Path::new(name)), "{name}");
        }
        for name in [
            "index.html",
            "app.js",
            "app.3f2a9c1.js",
            "3f2a9c1b.js",
            "-3f2a9c1b.js",
            "app.3f2a9c1b",
            "jquery-3.7.1.min.js",
            "report-20240101.pdf",
            "desktop-wallpaper.jpg",
            "dead-deadbeef.js",
            "manual-Version12.pdf",
            "lib-win32x64.js",
            "app.Deadbee1.js",
            "application-octet-stream.svg",
            "id-550e8400-e29b-41d4-a716-446655440000.png",
            ".map",
            "",
        ] {
            assert!(!is_in(Path::new(name)), "{name}");
        }
    }
}

//! Takes tokens out of text that is kept or passed on: logs, `Referer`.
//!
//! Works on any text, whatever route it belongs to, because a token may stand where no route
//! expects one (`/websockify/?<token>`, a page's address in `Referer`).

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use regex::{Captures, Regex};

use crate::auth::Token;

/// A JWT in compact form (RFC 7519 §3): three base64url parts, the first of which is a JSON object
/// and so begins with `eyJ`. A cut or damaged token still leaks claims, so one dot is enough.
#[expect(clippy::unwrap_used, reason = "a constant pattern, compiled by the tests below")]
static JWT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)*").unwrap()
});

/// Length of the shortest.
const SHORTEST: usize = "eyJ12345678.".len();

/// How each begins. What searches for it is made once: it stands in the way of every request.
static BEGINNING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("eyJ"));

/// The text with each token replaced by `token:` and its fingerprint.
#[must_use]
pub(crate) fn scrub(text: &str) -> Cow<'_, str> {
    if text.len() < SHORTEST {
        return Cow::Borrowed(text);
    }
    if text.contains('%') {
        // An escaped token would pass the pattern and be readable all the same.
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        if decoded != text && JWT.is_match(&decoded) {
            return Cow::Owned(fingerprints(&decoded).into_owned());
        }
    }
    fingerprints(text)
}

fn fingerprints(text: &str) -> Cow<'_, str> {
    if BEGINNING.find(text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    JWT.replace_all(text, |found: &Captures<'_>| {
        let token = Token::new(found.get(0).map_or("", |all| all.as_str()));
        token.map_or_else(|_| "token:".into(), |token| format!("token:{}", token.fingerprint()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJoYXNoIjoiYWJjIn0.c2lnbmF0dXJl";

    #[test]
    fn tokens_are_replaced_wherever_they_stand() {
        let mark = format!("token:{}", Token::new(TOKEN).unwrap().fingerprint());
        for (before, after) in [
            (TOKEN.to_owned(), mark.clone()),
            (format!("jwt_token={TOKEN}&x=1"), format!("jwt_token={mark}&x=1")),
            (format!("/container/{TOKEN}/8080/a"), format!("/container/{mark}/8080/a")),
            (format!("https://host/a?{TOKEN}"), format!("https://host/a?{mark}")),
            (format!("{TOKEN} {TOKEN}"), format!("{mark} {mark}")),
            ("eyJ1234567.".to_owned(), "eyJ1234567.".to_owned()),
            ("/plain/path?q=eyJ".to_owned(), "/plain/path?q=eyJ".to_owned()),
        ] {
            assert_eq!(scrub(&before), after);
        }
    }

    #[test]
    fn cut_and_escaped_tokens_are_replaced_too() {
        let (head, _) = TOKEN.rsplit_once('.').unwrap();
        assert!(!scrub(head).contains("eyJ"));
        assert!(!scrub("eyJ12345678.").contains("eyJ"));
        assert!(!scrub("%65yJ12345678.").contains("12345678"));
        let escaped = format!("/a?t=%65{}", &TOKEN[1..]);
        assert!(!scrub(&escaped).contains(&TOKEN[10..40]));
        assert!(!scrub(&TOKEN.replace('.', "%2E")).contains(&TOKEN[22..40]));
    }
}

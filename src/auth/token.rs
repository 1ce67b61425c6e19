//! Where a token travels in a request, and [`Token`], which never prints itself.
//!
//! May assume that header values come without white space around them, as HTTP parsers leave them.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use percent_encoding::percent_decode_str;

use super::{Error, Flaw};
use crate::config::TokenPlace;

/// Longest token, in bytes. With 8192-bit keys pyos's tokens have about 3,400.
pub const MAX_TOKEN: usize = 8192;

/// The query argument that carries a token, whatever its case.
const ARGUMENT: &str = "jwt_token";

/// The text of a desktop token: not empty, at most [`MAX_TOKEN`] bytes, otherwise unchecked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    text: &'a str,
    /// SHA-256 of it.
    digest: [u8; 32],
}

impl<'a> Token<'a> {
    /// Wraps a token's text.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if it is empty, [`Error::TooLong`] over [`MAX_TOKEN`] bytes.
    pub fn new(text: &'a str) -> Result<Self, Error> {
        match text.len() {
            0 => Err(Error::Missing),
            1..=MAX_TOKEN => {
                let mut bytes = [0; 32];
                for (byte, value) in bytes.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref())
                {
                    *byte = *value;
                }
                Ok(Self { text, digest: bytes })
            }
            _ => Err(Error::TooLong),
        }
    }

    /// Names this token in logs.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let [a, b, c, d, e, f, ..] = self.digest;
        Fingerprint([a, b, c, d, e, f])
    }

    /// SHA-256 of the whole text: the cache's key, so that it holds no token.
    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(super) fn as_str(&self) -> &'a str {
        self.text
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.fingerprint())
    }
}

/// The first six bytes of a token's SHA-256: enough to follow one token through the logs, and of
/// no use to anyone who reads them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 6]);

impl Fingerprint {
    /// Reads what [`Display`](fmt::Display) writes: twelve hexadecimal digits, in lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let whole = text.len() == 12 && text.bytes().all(is_digit);
        let [_, _, bytes @ ..] =
            u64::from_str_radix(text, 16).ok().filter(|_| whole)?.to_be_bytes();
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Finds the token where the route's rule looks for it, exactly as the nginx/Lua incumbent does.
///
/// `query` is the raw query without its `?`, `header` the value of `ABCAuthorization`, `captured`
/// the path segment. Nothing is percent-decoded. One leading `Bearer ` is removed, in this case
/// and with one space, wherever the token came from.
///
/// # Errors
///
/// [`Error::Missing`], [`Error::TooLong`], or [`Error::Malformed`] for a header that is no text.
pub fn locate<'a>(
    place: TokenPlace,
    query: Option<&'a str>,
    header: Option<&'a [u8]>,
    captured: Option<&'a str>,
) -> Result<Token<'a>, Error> {
    let text = match place {
        TokenPlace::Query => query.map(|query| argument(query).unwrap_or(query)),
        TokenPlace::BareQuery => query,
        TokenPlace::Header => header
            .map(std::str::from_utf8)
            .transpose()
            .map_err(|_| Error::Malformed(Flaw::Encoding))?,
        TokenPlace::Path => captured,
    };
    Token::new(without_scheme(text.ok_or(Error::Missing)?))
}

/// The query as it may be forwarded and logged: without any `jwt_token` argument and without
/// pieces that look like a token; `None` if nothing is left, or if the query *is* the token.
///
/// Stricter than [`locate`]: an escaped name (`jwt%5Ftoken`) carries no token for us, but would
/// carry one for whoever decodes it.
#[must_use]
pub fn without_token(place: TokenPlace, query: &str) -> Option<String> {
    let is_token = match place {
        TokenPlace::BareQuery => true,
        TokenPlace::Query => argument(query).is_none(),
        TokenPlace::Header | TokenPlace::Path => false,
    };
    if is_token {
        return None;
    }
    let kept: Vec<&str> = query.split('&').filter(|piece| !carries_token(piece)).collect();
    Some(kept.join("&")).filter(|query| !query.is_empty())
}

/// Removes one leading `Bearer `; the incumbent knows no other spelling.
pub(super) fn without_scheme(text: &str) -> &str {
    text.strip_prefix("Bearer ").unwrap_or(text)
}

/// nginx's `$arg_jwt_token`: the raw value of the first such argument that has a `=`, unless it is
/// empty or `0`, both of which the incumbent took for no argument.
fn argument(query: &str) -> Option<&str> {
    query
        .split('&')
        .filter_map(|piece| piece.split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case(ARGUMENT))
        .map(|(_, value)| value)
        .filter(|value| !matches!(*value, "" | "0"))
}

fn carries_token(piece: &str) -> bool {
    let (name, bare) = match piece.split_once('=') {
        Some((name, _)) => (name, false),
        None => (piece, true),
    };
    let named = percent_decode_str(name).map(|byte| byte.to_ascii_lowercase()).eq(ARGUMENT.bytes());
    // Base64url of `{"`, with which every JSON header begins.
    let looks_like_one = bare && name.starts_with("eyJ") && name.matches('.').count() == 2;
    named || looks_like_one
}

#[cfg(test)]
mod tests;

//! Where a token is found in a request, and that it does not stay in the query.
//!
//! Input: three lines, the query, the header's value and the captured segment.
#![no_main]

use deskgate_fuzz::auth::token::{Token, locate, without_token};
use deskgate_fuzz::config::TokenPlace;
use libfuzzer_sys::fuzz_target;

const PLACES: [TokenPlace; 4] =
    [TokenPlace::Query, TokenPlace::BareQuery, TokenPlace::Header, TokenPlace::Path];

fuzz_target!(|data: &[u8]| {
    let mut lines = deskgate_fuzz::seed(data).splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (query, header, captured) = (line(), line(), line());
    let (query, captured) = (String::from_utf8_lossy(query), String::from_utf8_lossy(captured));
    for place in PLACES {
        let token = locate(place, Some(&query), Some(header), Some(&captured)).ok();
        let source = match place {
            TokenPlace::Query | TokenPlace::BareQuery => &query,
            TokenPlace::Header => std::str::from_utf8(header).unwrap_or_default(),
            TokenPlace::Path => &captured,
        };
        let text = token.map(|token| {
            candidates(source)
                .find(|text| Token::new(text) == Ok(token))
                .unwrap_or_else(|| panic!("{place:?}: the token is no part of {source:?}"))
        });
        check_rest(place, &query, without_token(place, &query), text);
        assert!(locate(place, None, None, None).is_err(), "{place:?}: a token from nothing");
    }
});

/// Every part of a source that may be taken for the token.
fn candidates(source: &str) -> impl Iterator<Item = &str> {
    let values = source.split('&').filter_map(|piece| Some(piece.split_once('=')?.1));
    values
        .chain([source])
        .flat_map(|text| [text.strip_prefix("Bearer "), Some(text)])
        .flatten()
        .filter(|text| !text.is_empty())
}

/// What is left of the query: whole pieces of it in their order, none of which carries the token.
fn check_rest(place: TokenPlace, query: &str, rest: Option<String>, token: Option<&str>) {
    let Some(rest) = rest else { return };
    assert!(place != TokenPlace::BareQuery, "the whole query is the token");
    assert!(!rest.is_empty(), "nothing left is None");
    let mut pieces = query.split('&');
    for piece in rest.split('&') {
        assert!(pieces.any(|other| other == piece), "{piece:?} is no piece of {query:?}");
        let name = decoded(piece.split('=').next().unwrap_or_default());
        assert!(!name.eq_ignore_ascii_case(b"jwt_token"), "{piece:?} survives in {rest:?}");
        assert!(!is_jws(piece), "{piece:?} looks like a token");
        assert!(Some(piece) != token.filter(|token| is_jws(token)), "the token survives");
    }
    if place == TokenPlace::Query {
        let named = |piece: &str| Some(piece.split_once('=')?.0.eq_ignore_ascii_case("jwt_token"));
        assert!(query.split('&').any(|piece| named(piece) == Some(true)), "the query is the token");
    }
    let again = without_token(TokenPlace::Header, &rest);
    assert_eq!(again.as_deref(), Some(rest.as_str()), "a second time takes more away");
}

/// What a token with a chance looks like: three parts, the first of them a JSON object.
fn is_jws(text: &str) -> bool {
    text.starts_with("eyJ") && text.split('.').count() == 3 && !text.contains('=')
}

/// Percent-decoded; a broken escape stands for itself.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let value = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

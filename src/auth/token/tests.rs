//! Where tokens are found, and where they are removed.

use proptest::prelude::*;

use super::*;

const T: &str = "eyJh.eyJi.c2ln";

/// Everything the incumbent was measured to do with a query on a Q1 route.
#[test]
fn query_rule() {
    let found = |query: &str| {
        locate(TokenPlace::Query, Some(query), None, None).map(|token| token.text.to_owned())
    };
    for (query, expected) in [
        (format!("jwt_token={T}"), T.to_owned()),
        (format!("JWT_TOKEN={T}"), T.to_owned()),
        (format!("a=1&jwt_token={T}"), T.to_owned()),
        (format!("a=1&Jwt_Token={T}&b=2"), T.to_owned()),
        (format!("jwt_token={T}&jwt_token=xx"), T.to_owned()),
        (format!("jwt_token&jwt_token={T}"), T.to_owned()),
        (format!("jwt_token=Bearer {T}"), T.to_owned()),
        (T.to_owned(), T.to_owned()),
        (format!("Bearer {T}"), T.to_owned()),
        // Found as they stand, and refused as malformed later.
        (format!("jwt_token=Bearer%20{T}"), format!("Bearer%20{T}")),
        (format!("{T}&x=1"), format!("{T}&x=1")),
        ("jwt_token=".into(), "jwt_token=".into()),
        ("jwt_token=0".into(), "jwt_token=0".into()),
        ("jwt_token=00".into(), "00".into()),
        (format!("jwt_token=&jwt_token={T}"), format!("jwt_token=&jwt_token={T}")),
        (format!("jwt%5Ftoken={T}"), format!("jwt%5Ftoken={T}")),
        (format!("xjwt_token={T}"), format!("xjwt_token={T}")),
        (format!("a=jwt_token={T}"), format!("a=jwt_token={T}")),
        (format!("jwt_token={T}=x"), format!("{T}=x")),
    ] {
        assert_eq!(found(&query).as_deref(), Ok(expected.as_str()), "{query}");
    }
    assert_eq!(found(""), Err(Error::Missing));
    assert_eq!(found("Bearer "), Err(Error::Missing));
    assert_eq!(locate(TokenPlace::Query, None, Some(T.as_bytes()), Some(T)), Err(Error::Missing));
}

#[test]
fn bare_query_rule() {
    let argument = format!("jwt_token={T}");
    let found = |query| locate(TokenPlace::BareQuery, query, Some(b"x"), Some("x"));
    assert_eq!(found(Some(T)), Ok(Token::new(T).unwrap()));
    assert_eq!(found(Some(&argument)), Ok(Token::new(&argument).unwrap()));
    assert_eq!(found(Some("")), Err(Error::Missing));
    assert_eq!(found(None), Err(Error::Missing));
}

#[test]
fn header_rule() {
    let found = |header: &str| {
        locate(TokenPlace::Header, Some(T), Some(header.as_bytes()), Some(T))
            .map(|token| token.text.to_owned())
    };
    for (header, expected) in [
        (format!("Bearer {T}"), T.to_owned()),
        (T.to_owned(), T.to_owned()),
        // All of these are malformed later.
        (format!("bearer {T}"), format!("bearer {T}")),
        (format!("Bearer  {T}"), format!(" {T}")),
        (format!("Bearer\t{T}"), format!("Bearer\t{T}")),
        (format!("Bearer Bearer {T}"), format!("Bearer {T}")),
    ] {
        assert_eq!(found(&header), Ok(expected), "{header}");
    }
    assert_eq!(found(""), Err(Error::Missing));
    assert_eq!(found("Bearer "), Err(Error::Missing));
    let query_only = locate(TokenPlace::Header, Some(T), None, None);
    assert_eq!(query_only, Err(Error::Missing));
    let binary = locate(TokenPlace::Header, None, Some(b"\xff"), None);
    assert_eq!(binary, Err(Error::Malformed(Flaw::Encoding)));
}

#[test]
fn path_rule() {
    let found = |captured| locate(TokenPlace::Path, Some("x"), Some(b"x"), captured);
    assert_eq!(found(Some(T)), Ok(Token::new(T).unwrap()));
    assert_eq!(found(Some("Bearer x.y.z")), Token::new("x.y.z"));
    assert_eq!(found(Some("")), Err(Error::Missing));
    assert_eq!(found(None), Err(Error::Missing));
}

#[test]
fn length_is_capped() {
    let longest = "a".repeat(MAX_TOKEN);
    assert!(Token::new(&longest).is_ok());
    let longer = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(locate(TokenPlace::Path, None, None, Some(&longer)), Err(Error::TooLong));
}

#[test]
fn queries_lose_their_tokens() {
    use TokenPlace::{BareQuery, Header, Path, Query};
    let expect = |place, query: String, expected: Option<&str>| {
        assert_eq!(without_token(place, &query).as_deref(), expected, "{place:?} {query}");
    };
    expect(Query, format!("jwt_token={T}"), None);
    expect(Query, format!("a=1&JWT_token={T}&b=2"), Some("a=1&b=2"));
    expect(Query, format!("jwt_token={T}&jwt_token=xx&c"), Some("c"));
    expect(Query, format!("jwt_token={T}&jwt%5ftoken={T}&c="), Some("c="));
    expect(Query, format!("jwt_token=x&{T}&d=%20"), Some("d=%20"));
    expect(Query, "jwt_token=x&jwt_token&d=&".into(), Some("d=&"));
    expect(Query, T.into(), None);
    expect(Query, format!("jwt_token=&x={T}"), None);
    expect(Query, "a=1".into(), None);
    expect(BareQuery, T.into(), None);
    expect(BareQuery, "a=1".into(), None);
    for place in [Header, Path] {
        expect(place, "a=1&b".into(), Some("a=1&b"));
        expect(place, format!("a=1&jwt_token={T}"), Some("a=1"));
        expect(place, T.into(), None);
        expect(place, String::new(), None);
    }
}

#[test]
fn fingerprint_is_the_start_of_sha256() {
    // printf abc | sha256sum
    let token = Token::new("abc").unwrap();
    assert_eq!(token.fingerprint().to_string(), "ba7816bf8f01");
    assert_eq!(format!("{token:?}"), "Token(ba7816bf8f01)");
}

fn place() -> impl Strategy<Value = TokenPlace> {
    prop_oneof![
        Just(TokenPlace::Query),
        Just(TokenPlace::BareQuery),
        Just(TokenPlace::Header),
        Just(TokenPlace::Path),
    ]
}

proptest! {
    #[test]
    fn locate_finds_a_part_of_its_input(
        place in place(),
        text in "(jwt_token=|JWT_TOKEN=|Bearer |&|=|0|\\PC){0,12}",
        header in any::<Vec<u8>>(),
    ) {
        let outcome = locate(place, Some(&text), Some(&header), Some(&text));
        if let Ok(token) = outcome {
            let source = if place == TokenPlace::Header { &header[..] } else { text.as_bytes() };
            let length = token.len();
            prop_assert!(length > 0 && source.windows(length).any(|part| part == token.text.as_bytes()));
        }
    }

    #[test]
    fn a_found_argument_never_stays(place in place(), before in "[a-z=&]{0,8}", after in "[a-z=&]{0,8}") {
        let query = format!("{before}&jwt_token={T}&{after}");
        let left = without_token(place, &query).unwrap_or_default();
        prop_assert!(!left.contains(T));
    }
}

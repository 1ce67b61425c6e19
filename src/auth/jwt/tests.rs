//! The provider; everything else about signatures and claims is tested with whole tokens.

use jsonwebtoken::DecodingKey;

use super::*;

#[test]
fn installing_twice_is_harmless() {
    install_provider();
    install_provider();
}

#[test]
fn the_provider_knows_rs256_with_rsa_keys_only() {
    install_provider();
    let rsa = DecodingKey::from_rsa_der(b"not a key");
    let secret = DecodingKey::from_secret(b"secret");
    let verify = |key, algorithm| jsonwebtoken::crypto::verify("AAAA", b"x", key, algorithm);
    for algorithm in [Algorithm::HS256, Algorithm::RS512, Algorithm::PS256, Algorithm::ES256] {
        assert!(verify(&rsa, algorithm).is_err());
        assert!(verify(&secret, algorithm).is_err());
    }
    assert!(verify(&secret, Algorithm::RS256).is_err());
    assert_eq!(verify(&rsa, Algorithm::RS256).ok(), Some(false), "and a bad key verifies nothing");
    let signing = jsonwebtoken::EncodingKey::from_secret(b"secret");
    assert!(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &1, &signing).is_err());
}

#[test]
fn numeric_dates_keep_fractions_and_refuse_the_rest() {
    let parse = |text: &str| numeric_date(&serde_json::from_str(text).unwrap());
    assert_eq!(parse("7"), Some(Duration::from_secs(7)));
    assert_eq!(parse("7.5"), Some(Duration::from_millis(7500)));
    assert_eq!(parse("0"), Some(Duration::ZERO));
    for text in ["-1", "-0.5", "1e30", "18446744073709551616"] {
        assert_eq!(parse(text), None, "{text}");
    }
}

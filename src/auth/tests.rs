//! The whole room, from a token's text to a desktop or a refusal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use rsa::sha2::{Digest, Sha256, Sha384, Sha512};
use rsa::{Pkcs1v15Sign, Pss};

use super::mint::Minter;
use super::testing::*;
use super::*;

/// Claims with the given `exp` text and a good hash.
fn expiring(exp: &str) -> String {
    let hash = sealed(NAME);
    format!(r#"{{"key":0,"nfb":{NOW},"hash":"{hash}","exp":{exp}}}"#)
}

/// Claims with the given raw `hash` member.
fn hashed(hash: &str) -> String {
    format!(r#"{{"key":0,"hash":{hash},"exp":{}}}"#, NOW + 60)
}

#[test]
fn good_tokens_open_their_desktop() {
    let upper = NAME.to_ascii_uppercase();
    let dotted = format!("{NAME}.");
    for text in [NAME, upper.as_str(), dotted.as_str()] {
        let desktop = check(&token(text)).unwrap();
        assert_eq!(desktop.target.name().unwrap().as_str(), NAME);
        assert_eq!(desktop.target.name().unwrap().label(), "alice-0b1c2d");
        assert_eq!(desktop.target.address(), None);
        assert_eq!((desktop.expires, desktop.issued), (NOW + 60, Some(NOW)));
    }
    for text in ["10.42.0.7", "fd00::7", "[fd00::7]"] {
        let desktop = check(&token(text)).unwrap();
        let expected: IpAddr = text.trim_matches(['[', ']']).parse().unwrap();
        assert_eq!(desktop.target.address(), Some(expected));
        assert_eq!(desktop.target.name(), None);
    }
}

#[test]
fn times_follow_the_contract() {
    let cases = [
        (NOW.to_string(), Err(Error::Expired)),
        ((NOW - 1).to_string(), Err(Error::Expired)),
        ((NOW - 30).to_string(), Err(Error::Expired)),
        ("420".into(), Err(Error::Expired)),
        ((NOW + 1).to_string(), Ok(NOW + 1)),
        (format!("{}.9", NOW + 5), Ok(NOW + 5)),
        (format!("{NOW}.9"), Err(Error::Expired)),
        ("2.9e9".into(), Ok(2_900_000_000)),
        (u64::MAX.to_string(), Ok(u64::MAX)),
        (format!("\"{}\"", NOW + 60), Err(Error::BadClaims)),
        ("null".into(), Err(Error::BadClaims)),
        ("true".into(), Err(Error::BadClaims)),
        ("-1".into(), Err(Error::BadClaims)),
        ("1e30".into(), Err(Error::BadClaims)),
        ("18446744073709551616".into(), Err(Error::BadClaims)),
    ];
    for (exp, expected) in cases {
        let outcome = check(&signed(HEADER, &expiring(&exp)));
        assert_eq!(outcome.map(|desktop| desktop.expires), expected, "{exp}");
    }
    let missing = format!(r#"{{"hash":"{}"}}"#, sealed(NAME));
    assert_eq!(check(&signed(HEADER, &missing)), Err(Error::BadClaims));
}

#[test]
fn exp_holds_to_the_second() {
    let text = signed(HEADER, &expiring(&(NOW + 1).to_string()));
    let at =
        |millis| Now { wall: Duration::from_millis(NOW * 1000 + millis), mono: Instant::now() };
    assert!(check_at(&text, at(999)).is_ok());
    assert_eq!(check_at(&text, at(1000)), Err(Error::Expired));
}

#[test]
fn nbf_is_honoured_and_nfb_is_not() {
    let with = |member: &str| {
        let claims = expiring(&(NOW + 60).to_string());
        check(&signed(HEADER, &claims.replacen('{', &format!("{{{member},"), 1)))
    };
    assert_eq!(with(&format!(r#""nbf":{}"#, NOW + 1)), Err(Error::NotYetValid));
    assert_eq!(with(&format!(r#""nbf":{NOW}.5"#)), Err(Error::NotYetValid));
    assert!(with(&format!(r#""nbf":{NOW}"#)).is_ok());
    assert_eq!(with(r#""nbf":"zz""#), Err(Error::BadClaims));
    assert_eq!(with(r#""nbf":null"#), Err(Error::BadClaims));

    for (nfb, issued) in [
        ((NOW + 5000).to_string(), Some(NOW + 5000)),
        ("\"x\"".into(), None),
        ("-4".into(), None),
        ("null".into(), None),
        ("{\"a\":[1]}".into(), None),
    ] {
        let claims = expiring(&(NOW + 60).to_string())
            .replace(&format!("\"nfb\":{NOW}"), &format!("\"nfb\":{nfb}"));
        assert_eq!(check(&signed(HEADER, &claims)).unwrap().issued, issued, "{nfb}");
    }
}

#[test]
fn hashes_follow_the_contract() {
    let seal = minter().seal(NAME).unwrap();
    let quoted = |text: String| hashed(&format!("\"{text}\""));
    // A seal whose text differs between the alphabets.
    let odd = std::iter::repeat_with(|| minter().seal(NAME).unwrap())
        .find(|seal| STANDARD.encode(seal).contains(['+', '/']))
        .unwrap();
    let padded = STANDARD.encode(&seal);
    let broken = format!("{}\\n{}", &padded[..76], &padded[76..]);
    let cases = [
        (quoted(padded.clone()), None),
        (quoted(STANDARD_NO_PAD.encode(&seal)), None),
        (quoted(URL_SAFE.encode(odd)), Some(Error::BadSeal)),
        (quoted(broken), Some(Error::BadSeal)),
        (quoted(format!("{padded} ")), Some(Error::BadSeal)),
        (quoted(format!("{}={}", &padded[..8], &padded[9..])), Some(Error::BadSeal)),
        (quoted("!!!!".into()), Some(Error::BadSeal)),
        (quoted(String::new()), Some(Error::BadSeal)),
        (quoted(STANDARD.encode(&seal[1..])), Some(Error::BadSeal)),
        (quoted(STANDARD.encode([&[0], &*seal].concat())), Some(Error::BadSeal)),
        (quoted(STANDARD.encode([0xff; 128])), Some(Error::BadSeal)),
        (hashed("7"), Some(Error::BadClaims)),
        (hashed("[\"x\"]"), Some(Error::BadClaims)),
        (hashed("null"), Some(Error::MissingHash)),
        (format!(r#"{{"exp":{}}}"#, NOW + 60), Some(Error::MissingHash)),
    ];
    for (claims, expected) in cases {
        assert_eq!(check(&signed(HEADER, &claims)).err(), expected, "{claims}");
    }
}

#[test]
fn targets_are_confined() {
    for target in [
        "",
        "127.0.0.2:8080/evil?x=",
        "10.0.0.1:80",
        "8.8.8.8",
        "127.0.0.1",
        "169.254.169.254",
        "pyos.abcdesktop.svc.cluster.local",
        DOMAIN,
        "localhost",
    ] {
        assert_eq!(check(&token(target)), Err(Error::OutsidePolicy), "{target}");
    }
}

#[test]
fn what_is_no_text_is_no_target() {
    for target in ["10.0.0.1\n", "10.0.0.1\0", "a b", "\u{7f}"] {
        assert_eq!(check(&token(target)), Err(Error::BadSeal), "{target:?}");
    }
}

#[test]
fn only_rs256_with_our_key_is_a_signature() {
    let claims = claims(NAME);
    let hs256 = |secret: &[u8]| {
        let message = message(r#"{"typ":"JWT","alg":"HS256"}"#, &claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        // Long enough to pass for an RSA signature, and as it would really be.
        let tag = URL_SAFE_NO_PAD.encode(tag.as_ref());
        [format!("{message}.{tag}"), format!("{message}.{}", tag.repeat(4))]
    };
    let der = pem::parse(&signing().spki).unwrap().into_contents();
    assert_eq!(check(&hs256(&der)[1]), Err(Error::Algorithm));
    let [short, long] = hs256(signing().spki.as_bytes());
    assert_eq!(check(&short), Err(Error::Malformed(Flaw::Signature)));
    assert_eq!(check(&long), Err(Error::Algorithm));

    for alg in ["none", "None", "nOnE", "", "rs256", "RS384", "ES256", "EdDSA"] {
        let header = format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#);
        assert_eq!(check(&signed(&header, &claims)), Err(Error::Algorithm), "{alg}");
    }
    assert_eq!(check(&signed(r#"{"typ":"JWT"}"#, &claims)), Err(Error::Algorithm));
    let numeric = check(&signed(r#"{"alg":256}"#, &claims));
    assert_eq!(numeric, Err(Error::Malformed(Flaw::Header)));
}

#[test]
fn no_other_rsa_algorithm_will_do() {
    let claims = claims(NAME);
    let other = |alg: &str| message(&format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#), &claims);
    let key = &signing().key;
    let rng = &mut random::system();
    for (alg, signature) in [
        ("RS384", key.sign(Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(other("RS384")))),
        ("RS512", key.sign(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(other("RS512")))),
        ("PS256", key.sign_with_rng(rng, Pss::<Sha256>::new(), &Sha256::digest(other("PS256")))),
    ] {
        let signature = URL_SAFE_NO_PAD.encode(signature.unwrap());
        assert_eq!(check(&format!("{}.{signature}", other(alg))), Err(Error::Algorithm), "{alg}");
        // The same signatures under a header that says RS256.
        let lying = format!("{}.{signature}", other("RS256"));
        assert_eq!(check(&lying), Err(Error::BadSignature), "{alg}");
    }
}

#[test]
fn another_key_is_no_signing_key() {
    let forger = Minter::new(stranger().pkcs8.as_bytes(), payload().public_pkcs1.as_bytes());
    let forged = forger.unwrap().mint(NAME, NOW, 60).unwrap();
    assert_eq!(check(&forged), Err(Error::BadSignature));
}

#[test]
fn a_signature_has_one_encoding() {
    use rsa::BoxedUint;
    use rsa::traits::PublicKeyParts;

    let text = token(NAME);
    let (message, signature) = text.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let wide = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, 1088).unwrap();
    let sum = wide(&signature).wrapping_add(wide(&signing().key.n_bytes()));
    let sum = sum.to_be_bytes_trimmed_vartime();
    for other in [
        sum.to_vec(),
        [&[0], &*signature].concat(),
        [&*signature, &[0]].concat(),
        [0; 128].to_vec(),
        signing().key.n_bytes().to_vec(),
    ] {
        let text = format!("{message}.{}", URL_SAFE_NO_PAD.encode(other));
        assert_eq!(check(&text), Err(Error::BadSignature));
    }
}

#[test]
fn a_header_is_capped_by_its_encoded_length() {
    // 768 bytes are 1024 characters.
    let padded = |length: usize| format!("{:<length$}", r#"{"alg":"RS256"}"#);
    let check = |length| check(&signed(&padded(length), &claims(NAME))).map(|_| ());
    assert_eq!(check(768), Ok(()));
    assert_eq!(check(769), Err(Error::Malformed(Flaw::Header)));
}

#[test]
fn a_deep_header_is_refused_without_deep_recursion() {
    let header = format!(r#"{{"alg":"RS256","x":{}{}}}"#, "[".repeat(350), "]".repeat(350));
    assert!(check(&signed(&header, &claims(NAME))).is_err());
}

#[test]
fn unsigned_jwe_is_refused() {
    let message = message(r#"{"typ":"JWT","alg":"RS256","enc":"A256GCM"}"#, &claims(NAME));
    assert_eq!(check(&format!("{message}.")), Err(Error::Malformed(Flaw::Signature)));
    let padded = format!("{message}.{}", "A".repeat(171));
    assert_eq!(check(&padded), Err(Error::UnsupportedHeader));
}

#[test]
fn headers_follow_the_contract() {
    let unsupported = Some(Error::UnsupportedHeader);
    let malformed = Some(Error::Malformed(Flaw::Header));
    let cases = [
        (r#"{"alg":"RS256","typ":"JWT"}"#, None),
        (r#"{"alg":"RS256"}"#, None),
        (r#"{"alg":"RS256","kid":"1","x":[{}],"x":2}"#, None),
        (r#"{"alg":"RS256","typ":"JWE"}"#, unsupported),
        (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, unsupported),
        (r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, unsupported),
        (r#"{"alg":"RS256","crit":[]}"#, unsupported),
        (r#"{"alg":"RS256","crit":null}"#, unsupported),
        (r#"{"alg":"RS256","enc":"A256GCM"}"#, unsupported),
        (r#"{"alg":"RS256","zip":"DEF"}"#, unsupported),
        (r#"{"alg":"RS256","jwk":{"kty":"RSA","n":"AA","e":"AQAB"}}"#, unsupported),
        (r#"{"alg":"RS256","jku":"https://x"}"#, unsupported),
        (r#"{"alg":"RS256","x5u":"https://x"}"#, unsupported),
        (r#"{"alg":"RS256","x5c":["AA"]}"#, unsupported),
        (r#"{"alg":"RS256","alg":"RS256"}"#, malformed),
        (r#"{"alg":"none","\u0061lg":"RS256"}"#, malformed),
        (r#"{"alg":"RS256"}x"#, malformed),
        (r#"{"alg":"RS256""#, malformed),
        ("[]", malformed),
        ("", malformed),
    ];
    for (header, expected) in cases {
        assert_eq!(check(&signed(header, &claims(NAME))).err(), expected, "{header}");
    }
    // jsonwebtoken's own parser takes no array for a header.
    let array = r#"["RS256","JWT"]"#;
    assert!(check(&signed(array, &claims(NAME))).is_err());
}

#[test]
fn claims_are_one_object_without_duplicates() {
    let good = claims(NAME);
    let insert = |member: &str| good.replacen('{', &format!("{{{member},"), 1);
    let array = format!(r#"[{},0,null,"{}",{{}}]"#, NOW + 60, sealed(NAME));
    let later = NOW + 600;
    for claims in [
        insert(&format!(r#""exp":{later}"#)),
        insert(&format!(r#""\u0065xp":{later}"#)),
        insert(&format!(r#""hash":"{}""#, sealed("10.0.0.9"))),
        insert(r#""aud":"someone""#),
        insert(r#""aud":["someone"]"#),
        array,
        "null".into(),
        "\"text\"".into(),
        format!("{good}{good}"),
    ] {
        assert_eq!(check(&signed(HEADER, &claims)), Err(Error::BadClaims), "{claims}");
    }
    assert!(check(&signed(HEADER, &insert(r#""extra":{"deep":[1]},"extra":2"#))).is_ok());
    // pyos's other tokens, signed with the same key.
    let controller = r#"{"name":"x","publickey":"y","exp":420}"#;
    assert_eq!(check(&signed(HEADER, controller)), Err(Error::Expired));
}

#[test]
fn shapes_are_checked_before_anything_is_parsed() {
    let good = token(NAME);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = message.split_once('.').unwrap();
    let cases = [
        (format!("{good}."), Flaw::Parts),
        (format!("{good}.x"), Flaw::Parts),
        (format!("{good}.x.y"), Flaw::Parts),
        (message.to_owned(), Flaw::Parts),
        ("garbage".to_owned(), Flaw::Parts),
        (format!("{good}="), Flaw::Alphabet),
        (format!("{header}=.{body}.{signature}"), Flaw::Alphabet),
        (format!("{good}\n"), Flaw::Alphabet),
        (format!(" {good}"), Flaw::Alphabet),
        (format!("Bearer {good}"), Flaw::Alphabet),
        (format!("{good}\0"), Flaw::Alphabet),
        (good.replacen('.', "+.", 1), Flaw::Alphabet),
        (format!(".{body}.{signature}"), Flaw::Header),
        (format!("{}.{body}.{signature}", "A".repeat(1025)), Flaw::Header),
        (format!("{header}..{signature}"), Flaw::Claims),
        (format!("{header}.{}.{signature}", "A".repeat(4097)), Flaw::Claims),
        (format!("{header}.{body}."), Flaw::Signature),
        (format!("{header}.{body}.{}", "A".repeat(170)), Flaw::Signature),
        (format!("{header}.{body}.{}", "A".repeat(1367)), Flaw::Signature),
    ];
    for (text, flaw) in cases {
        assert_eq!(check(&text), Err(Error::Malformed(flaw)), "{text}");
    }
    // 128 bytes leave two bits of the last character unused; one that sets them is another text
    // for the same signature.
    let loose = format!("{}B", &good[..good.len() - 1]);
    assert_eq!(check(&loose), Err(Error::Malformed(Flaw::Base64)));
    assert_eq!(check(&format!("{good}AA")), Err(Error::Malformed(Flaw::Base64)));
    assert_eq!(check(&"A".repeat(8193)), Err(Error::TooLong));
    assert_eq!(check(""), Err(Error::Missing));
}

#[test]
fn no_single_change_to_a_token_survives() {
    let authenticator = authenticator();
    let good = token(NAME);
    let now = now();
    let refused =
        |text: &str| run(authenticator.authenticate(Token::new(text).unwrap(), now)).is_err();
    assert!(!refused(&good));
    for at in 0..good.len() {
        for byte in ['A', '9', '_', '.'] {
            let replaced = format!("{}{byte}{}", &good[..at], &good[at + 1..]);
            let inserted = format!("{}{byte}{}", &good[..at], &good[at..]);
            assert!(replaced == good || refused(&replaced), "replaced at {at}");
            assert!(refused(&inserted), "inserted at {at}");
        }
        let deleted = format!("{}{}", &good[..at], &good[at + 1..]);
        assert!(refused(&deleted), "deleted at {at}");
    }
}

#[test]
fn every_size_form_and_mode_of_key_works() {
    for signer in [signing(), medium(), large()] {
        for sealer in [payload(), medium(), large()] {
            for verify in [&signer.spki, &signer.public_pkcs1] {
                for (sealing, opening) in [
                    (&sealer.public_pkcs1, &sealer.pkcs8),
                    (&sealer.spki, &sealer.pkcs1),
                    (&sealer.pkcs8, &sealer.public_pkcs1),
                    (&sealer.pkcs1, &sealer.spki),
                ] {
                    let minter = Minter::new(signer.pkcs1.as_bytes(), sealing.as_bytes()).unwrap();
                    let text = minter.mint(NAME, NOW, 60).unwrap();
                    let authenticator = authenticator_of(verify, opening);
                    let token = Token::new(&text).unwrap();
                    let desktop = run(authenticator.authenticate(token, now())).unwrap();
                    assert_eq!(desktop.target.name().unwrap().as_str(), NAME);
                }
            }
        }
    }
}

#[test]
fn token_sizes_are_the_documented_ones() {
    for (signer, sealer, expected) in [
        (signing(), payload(), 509),
        (medium(), payload(), 680),
        (medium(), medium(), 910),
        (large(), large(), 1704),
    ] {
        let minter = Minter::new(signer.pkcs8.as_bytes(), sealer.spki.as_bytes()).unwrap();
        assert_eq!(minter.mint(NAME, NOW, 60).unwrap().len(), expected);
    }
}

#[test]
fn the_wrong_mode_opens_nothing() {
    let mode_a = Minter::new(signing().pkcs8.as_bytes(), payload().pkcs8.as_bytes()).unwrap();
    let text = mode_a.mint(NAME, NOW, 60).unwrap();
    assert!(check(&text).is_err());
    let documented = authenticator_of(&signing().spki, &payload().public_pkcs1);
    let released = token(NAME);
    let outcome = run(documented.authenticate(Token::new(&released).unwrap(), now()));
    assert_eq!(outcome.err(), Some(Error::BadSeal));
}

#[test]
fn keys_are_tried_in_order_until_the_policy_accepts() {
    let verify = format!("{}{}", stranger().spki, signing().public_pkcs1);
    // The wrong 1024-bit key opens every seal to random bytes.
    let open = format!("{}{}{}", stranger().pkcs8, medium().pkcs1, payload().pkcs8);
    let authenticator = authenticator_of(&verify, &open);
    for _ in 0..16 {
        let text = token(NAME);
        let desktop = run(authenticator.authenticate(Token::new(&text).unwrap(), now()));
        assert_eq!(desktop.unwrap().target.name().unwrap().as_str(), NAME);
    }
}

#[test]
fn new_keys_end_cached_answers() {
    let authenticator = authenticator();
    let text = token(NAME);
    let now = now();
    let ask = || run(authenticator.authenticate(Token::new(&text).unwrap(), now));
    let replace = |signing: &str| {
        authenticator.replace_keys(signing_keys(signing), payload_keys(&payload().pkcs8));
    };
    let first = ask().unwrap();
    assert!(Arc::ptr_eq(&first, &ask().unwrap()), "the second is cached");

    replace(&stranger().spki);
    assert_eq!(Arc::strong_count(&first), 1, "no longer kept");
    assert_eq!(ask().err(), Some(Error::BadSignature));

    replace(&signing().spki);
    assert!(ask().is_ok(), "the refusal is forgotten too");
    // What a request under way with older keys stores later is told apart by this.
    assert_eq!(authenticator.keys.load().generation, 2);
}

#[test]
fn explain_tells_each_step() {
    let authenticator = authenticator();
    let text = token(NAME);
    let steps = authenticator.explain(&format!("  Bearer {text}\n"), now());
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    assert_eq!(names, ["shape", "header", "signature", "times", "seal", "target"]);
    assert!(steps.iter().all(|step| step.outcome.is_ok()));
    assert_eq!(steps[5].target.as_deref(), Some(NAME));
    let told = steps.iter().map(|step| format!("{:?}", step.outcome)).collect::<String>();
    assert!(!told.contains(&text) && !told.contains("alice"), "{told}");

    let outside = authenticator.explain(&token("8.8.8.8"), now());
    assert_eq!(outside[4].target.as_deref(), Some("8.8.8.8"));
    assert_eq!(outside[5].outcome, Err(Error::OutsidePolicy));

    let last = |text: &str| {
        let steps = authenticator.explain(text, now());
        steps.last().map(|step| (step.name, step.outcome.clone())).unwrap()
    };
    assert_eq!(last(""), ("shape", Err(Error::Missing)));
    assert_eq!(last(&signed(r#"{"alg":"none"}"#, "{}")), ("header", Err(Error::Algorithm)));
    assert_eq!(last(&signed(HEADER, &expiring("7"))), ("times", Err(Error::Expired)));
    assert_eq!(last(&signed(HEADER, &hashed("\"AAAA\""))), ("seal", Err(Error::BadSeal)));
}

#[test]
fn nothing_prints_a_secret() {
    let authenticator = authenticator();
    let text = token("10.42.99.7");
    let token = Token::new(&text).unwrap();
    let desktop = run(authenticator.authenticate(token, now())).unwrap();
    let named = policy().confine(NAME.as_bytes()).unwrap();
    let keys = [payload_keys(&payload().pkcs8), payload_keys(&payload().spki)];
    let printed = format!(
        "{token:?} {} {desktop:?} {named:?} {authenticator:?} {keys:?} {:?} {:?} {:?} {:?} {:?}",
        token.fingerprint(),
        minter(),
        authenticator.explain(&text, now()),
        signing_keys(&signing().spki),
        file(&payload().pkcs8),
        Shaped::new(token).unwrap(),
    );
    let key_text = payload().pkcs8.lines().nth(3).unwrap();
    let claims = text.split('.').nth(1).unwrap();
    for secret in ["10.42.99.7", "alice", &text, claims, key_text] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(printed.contains(&token.fingerprint().to_string()));
    assert_eq!(token.fingerprint().to_string().len(), 12);
}

#[test]
fn every_error_has_its_own_reason_and_sentence() {
    let all = [
        Error::Missing,
        Error::TooLong,
        Error::Malformed(Flaw::Parts),
        Error::Algorithm,
        Error::UnsupportedHeader,
        Error::BadSignature,
        Error::Expired,
        Error::NotYetValid,
        Error::BadClaims,
        Error::MissingHash,
        Error::BadSeal,
        Error::OutsidePolicy,
    ];
    let reasons: std::collections::HashSet<_> = all.iter().map(Error::reason).collect();
    let sentences: std::collections::HashSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!((reasons.len(), sentences.len()), (all.len(), all.len()));
}

#[test]
fn the_authenticator_is_shared_between_threads() {
    fn shareable<T: Send + Sync>(_: &T) {}
    fn sendable<T: Send>(future: T) -> T {
        future
    }
    let authenticator = authenticator();
    shareable(&authenticator);
    let text = token(NAME);
    assert!(run(sendable(authenticator.authenticate(Token::new(&text).unwrap(), now()))).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_panic(text in any::<String>()) {
        prop_assert!(check(&text).is_err());
    }

    #[test]
    fn arbitrary_token_shapes_are_refused_without_panic(
        header in "\\PC{0,40}", claims in "\\PC{0,40}", signature in "[A-Za-z0-9_-]{171}",
    ) {
        let text = format!("{}.{signature}", message(&header, &claims));
        prop_assert!(check(&text).is_err());
    }

    #[test]
    fn arbitrary_signed_claims_are_refused_without_panic(claims in "\\PC{0,60}") {
        prop_assert!(check(&signed(HEADER, &claims)).is_err());
    }
}

//! Tokens and keys as pyos and the install documents make them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::auth::testing::{HEADER, *};
use crate::auth::{Token, mint::KeySet};

/// Runs openssl in `dir`; its output's bytes.
fn openssl(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {output:?}");
    output.stdout
}

#[test]
fn tokens_have_pyos_form() {
    let text = minter().mint("10.42.0.7", NOW, 420).unwrap();
    let parts: Vec<_> = text.split('.').collect();
    let decode = |part| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    assert_eq!(decode(parts[0]), HEADER);
    let claims = decode(parts[1]);
    let exp = NOW + 420;
    let head = format!(r#"{{"key":0,"nfb":{NOW},"hash":""#);
    let tail = format!(r#"","exp":{exp}}}"#);
    let hash = claims.strip_prefix(&head).and_then(|rest| rest.strip_suffix(&tail)).unwrap();
    assert_eq!(STANDARD.decode(hash).unwrap().len(), 128);
    assert!(hash.ends_with('='), "padded, as Python's b64encode does");
    // Random padding: never the same twice.
    assert_ne!(text, minter().mint("10.42.0.7", NOW, 420).unwrap());
}

#[test]
fn targets_must_fit_and_be_ascii() {
    let minter = minter();
    assert!(minter.mint(&"a".repeat(117), NOW, 60).is_ok());
    let outcome = minter.mint(&"a".repeat(118), NOW, 60);
    assert_eq!(outcome, Err(MintError::TooLong { limit: 117 }));
    assert_eq!(minter.mint("é", NOW, 60), Err(MintError::NotAscii));
}

#[test]
fn minter_wants_the_right_keys() {
    let fault =
        |signing: &str, payload: &str| match Minter::new(signing.as_bytes(), payload.as_bytes()) {
            Err(KeyError::Unusable { file, fault }) => (file, fault),
            other => panic!("{other:?}"),
        };
    let (private, public) = (&signing().pkcs8, &payload().spki);
    let signing_key = |fault| ("signing key".to_owned(), fault);
    assert_eq!(fault(public, public), signing_key(KeyFault::PublicForMinting));
    assert_eq!(fault("", public), signing_key(KeyFault::Empty));
    assert_eq!(fault(&private.repeat(2), public), signing_key(KeyFault::Several));
    assert_eq!(fault(private, "x"), ("payload key".to_owned(), KeyFault::Garbled));
}

#[test]
fn key_files_are_what_openssl_writes() {
    let dir = tempfile::tempdir().unwrap();
    let set = KeySet::generate(2048).unwrap();
    for (name, text) in set.files() {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let run = |args: &[&str]| openssl(dir.path(), args);
    for private in [KeySet::PAYLOAD_PRIVATE, KeySet::SIGNING_PRIVATE, KeySet::USER_SIGNING_PRIVATE]
    {
        let original = fs::read(dir.path().join(private)).unwrap();
        assert!(original.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(run(&["rsa", "-in", private]), original, "{private}");
        run(&["rsa", "-check", "-noout", "-in", private]);
    }
    let payload_public = run(&["rsa", "-in", KeySet::PAYLOAD_PRIVATE, "-RSAPublicKey_out"]);
    assert_eq!(payload_public, set.payload_public.as_bytes());
    let signing_public = run(&["rsa", "-in", KeySet::SIGNING_PRIVATE, "-pubout"]);
    assert_eq!(signing_public, set.signing_public.as_bytes());
    let user_public = run(&["rsa", "-in", KeySet::USER_SIGNING_PRIVATE, "-pubout"]);
    assert_eq!(user_public, set.user_signing_public.as_bytes());
    assert_ne!(payload_public, signing_public);

    let printed = format!("{set:?}");
    assert_eq!(printed, "KeySet { .. }");
    for (_, text) in set.files() {
        assert!(text.ends_with("-----\n") && !text.contains('\r'));
        assert!(text.lines().all(|line| line.len() <= 64));
    }
}

#[test]
fn generated_keys_work_together() {
    let set = KeySet::generate(1024).unwrap();
    let minter = Minter::new(set.signing_private.as_bytes(), set.payload_public.as_bytes());
    let text = minter.unwrap().mint(NAME, NOW, 60).unwrap();
    let gateway = authenticator_of(&set.signing_public, &set.payload_private);
    assert!(run(gateway.authenticate(Token::new(&text).unwrap(), now())).is_ok());
    for bits in [0, 512, 1023, 1025, 8200] {
        assert_eq!(KeySet::generate(bits).err(), Some(MintError::Size), "{bits}");
    }
}

/// `rsautl -sign`, as the documents have it; `pkeyutl -sign` refuses more than 64 bytes.
#[test]
fn seals_made_by_openssl_open() {
    let dir = tempfile::tempdir().unwrap();
    let run_openssl = |args: &[&str]| openssl(dir.path(), args);
    fs::write(dir.path().join("target"), NAME).unwrap();
    for bits in ["1024", "2048"] {
        run_openssl(&["genrsa", "-out", "new.pem", bits]);
        run_openssl(&["rsa", "-traditional", "-in", "new.pem", "-out", "old.pem"]);
        let public = run_openssl(&["rsa", "-in", "new.pem", "-RSAPublicKey_out"]);
        let spki = run_openssl(&["rsa", "-in", "old.pem", "-pubout"]);
        let [public, spki] = [public, spki].map(|pem| String::from_utf8(pem).unwrap());
        fs::write(dir.path().join("spki.pem"), &spki).unwrap();
        let [new, old] =
            ["new.pem", "old.pem"].map(|name| fs::read_to_string(dir.path().join(name)).unwrap());

        let signed_seal = run_openssl(&["rsautl", "-sign", "-inkey", "old.pem", "-in", "target"]);
        let encrypted =
            run_openssl(&["pkeyutl", "-encrypt", "-pubin", "-inkey", "spki.pem", "-in", "target"]);
        for (seal, openers) in [(&signed_seal, [&public, &spki]), (&encrypted, [&new, &old])] {
            let hash = STANDARD.encode(seal);
            let claims = format!(r#"{{"key":0,"nfb":{NOW},"hash":"{hash}","exp":{}}}"#, NOW + 60);
            let text = signed(HEADER, &claims);
            for opener in openers {
                let gateway = authenticator_of(&signing().spki, opener);
                let desktop = run(gateway.authenticate(Token::new(&text).unwrap(), now()));
                assert_eq!(desktop.unwrap().target.name().unwrap().as_str(), NAME);
            }
        }
        // Mode A is deterministic, so ours must be openssl's to the byte.
        let minter = Minter::new(signing().pkcs8.as_bytes(), old.as_bytes()).unwrap();
        assert_eq!(minter.seal(NAME).unwrap(), signed_seal);
    }
}

//! Which key files load, and what the refusal of the others says.

use std::process::Command;

use rsa::pkcs1::DecodeRsaPublicKey;

use super::*;
use crate::auth::testing::{file, large, medium, payload, signing, tiny};

fn signing_fault(pem: &str) -> KeyFault {
    fault(SigningKeys::load(&[file(pem)], false).map(|_| ()))
}

fn payload_fault(pem: &str) -> KeyFault {
    fault(PayloadKeys::load(&[file(pem)], false).map(|_| ()))
}

fn fault(outcome: Result<(), KeyError>) -> KeyFault {
    match outcome {
        Err(KeyError::Unusable { file, fault }) if file == "key.pem" => fault,
        other => panic!("expected an unusable key.pem, got {other:?}"),
    }
}

/// Runs openssl with `args`, `input` on its standard input.
fn openssl(args: &[&str], input: &str) -> String {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn all_sizes_and_forms_load() {
    for (bits, pair) in [(1024, payload()), (2048, medium()), (4096, large())] {
        for (form, pem) in [("SPKI", &pair.spki), ("PKCS#1 public", &pair.public_pkcs1)] {
            let lines = SigningKeys::load(&[file(pem)], false).unwrap().describe();
            assert_eq!(lines.len(), 1);
            assert!(lines[0].starts_with(&format!("RSA {bits}, {form}, sha256:")), "{lines:?}");
            let opening = PayloadKeys::load(&[file(pem)], false).unwrap().describe();
            assert_eq!(opening, lines);
        }
        for (form, pem) in [("PKCS#8", &pair.pkcs8), ("PKCS#1 private", &pair.pkcs1)] {
            let lines = PayloadKeys::load(&[file(pem)], false).unwrap().describe();
            assert!(lines[0].starts_with(&format!("RSA {bits}, {form}, sha256:")), "{lines:?}");
        }
    }
}

#[test]
fn the_fast_opener_is_used_where_it_can_be() {
    for (pair, fast) in [(payload(), false), (medium(), true), (large(), true)] {
        let keys = PayloadKeys::load(&[file(&pair.pkcs1)], false).unwrap();
        let opener = keys.iter().next().unwrap().opener();
        assert_eq!(matches!(opener, Opener::Private(_)), fast);
    }
}

#[test]
fn all_keys_but_small_public_ones_are_costly() {
    for (pair, cheap) in [(payload(), true), (medium(), false), (large(), false)] {
        for (pem, costly) in [(&pair.spki, !cheap), (&pair.pkcs8, true)] {
            let keys = PayloadKeys::load(&[file(pem)], false).unwrap();
            assert_eq!(keys.iter().next().unwrap().is_costly(), costly, "{:?}", keys.describe());
        }
    }
}

#[test]
fn descriptions_show_the_spki_digest() {
    let der = openssl(&["pkey", "-pubin", "-pubout", "-text_pub"], &signing().spki);
    assert!(der.contains("1024 bit"));
    let digest = digest(&SHA256, pem::parse(&signing().spki).unwrap().contents());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let line = SigningKeys::load(&[file(&signing().public_pkcs1)], false).unwrap().describe();
    assert_eq!(line, [format!("RSA 1024, PKCS#1 public, sha256:{}…", &hex[..12])]);
}

#[test]
fn several_keys_load_in_order() {
    let two = format!("{}\n# old\n{}", signing().spki, medium().public_pkcs1);
    let keys = SigningKeys::load(&[file(&two), file(&large().spki)], false).unwrap();
    let sizes: Vec<_> = keys.0.iter().map(|key| key.facts.bits).collect();
    assert_eq!(sizes, [1024, 2048, 4096]);

    let five = signing().spki.repeat(5);
    let outcome = SigningKeys::load(&[file(&five)], false).map(|_| ());
    assert_eq!(outcome, Err(KeyError::TooMany { file: "key.pem".into() }));
    assert_eq!(SigningKeys::load(&[], false).map(|_| ()), Err(KeyError::NoFile));
    // One bad block spoils the file, wherever it stands.
    assert_eq!(signing_fault(&format!("{two}{}", medium().pkcs8)), KeyFault::PrivateForSigning);
}

#[test]
fn foreign_line_ends_and_text_around_are_accepted() {
    let pem = &signing().spki;
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let one_line = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----");
    for text in [
        pem.replace('\n', "\r\n"),
        format!("\u{feff}{pem}"),
        format!("Subject: gateway\n\n{pem}trailing"),
        one_line,
    ] {
        assert!(SigningKeys::load(&[file(&text)], false).is_ok(), "{text}");
    }
}

#[test]
fn sizes_are_limited_in_words() {
    for pem in [&tiny().spki, &tiny().public_pkcs1] {
        assert_eq!(signing_fault(pem), KeyFault::TooSmall(512));
    }
    for pem in [&tiny().pkcs1, &tiny().pkcs8, &tiny().spki] {
        assert_eq!(payload_fault(pem), KeyFault::TooSmall(512));
    }
    let sentence = KeyFault::TooSmall(512).to_string();
    assert!(sentence.contains("512 bits") && sentence.contains("2048"), "{sentence}");

    let huge = pkcs1_public(&[0xff; 1025], &[1, 0, 1]);
    assert_eq!(signing_fault(&huge), KeyFault::TooLarge(8200));
    let limit = pkcs1_public(&[0xff; 1024], &[1, 0, 1]);
    assert!(SigningKeys::load(&[file(&limit)], false).is_ok());
    let almost = [&[0x7f][..], &[0xff; 127]].concat();
    assert_eq!(signing_fault(&pkcs1_public(&almost, &[1, 0, 1])), KeyFault::TooSmall(1023));
}

#[test]
fn unsound_public_keys_are_refused() {
    let even = [&[0xff; 127][..], &[0xfe]].concat();
    for pem in [
        pkcs1_public(&even, &[1, 0, 1]),
        pkcs1_public(&[0xff; 128], &[1]),
        pkcs1_public(&[0xff; 128], &[2]),
        pkcs1_public(&[0xff; 128], &[1, 0, 0, 0, 0, 1]),
    ] {
        assert_eq!(signing_fault(&pem), KeyFault::Invalid, "{pem}");
        assert_eq!(payload_fault(&pem), KeyFault::Invalid, "{pem}");
    }
}

#[test]
fn unsound_private_keys_are_refused() {
    let good = pem::parse(&payload().pkcs1).unwrap();
    // Somewhere in the private exponent.
    let mut der = good.contents().to_vec();
    der[200] ^= 1;
    let bad = pem::encode(&pem::Pem::new("RSA PRIVATE KEY", der));
    assert_eq!(payload_fault(&bad), KeyFault::Invalid);
    let trailing = [good.contents(), &[0]].concat();
    let bad = pem::encode(&pem::Pem::new("RSA PRIVATE KEY", trailing));
    assert_eq!(payload_fault(&bad), KeyFault::Invalid);
}

#[test]
fn labels_decide_and_are_named() {
    for pem in [&signing().pkcs1, &signing().pkcs8] {
        assert_eq!(signing_fault(pem), KeyFault::PrivateForSigning);
    }
    assert!(KeyFault::PrivateForSigning.to_string().contains("private key"));
    let relabelled = |label: &str, pem: &str| {
        pem::encode(&pem::Pem::new(label, pem::parse(pem).unwrap().into_contents()))
    };
    let spki = &signing().spki;
    for (label, expected) in [
        ("CERTIFICATE", KeyFault::Certificate),
        ("OPENSSH PRIVATE KEY", KeyFault::OpenSsh),
        ("ENCRYPTED PRIVATE KEY", KeyFault::Encrypted),
        ("EC PRIVATE KEY", KeyFault::NotRsa),
        ("RSA PUBLIC KEY", KeyFault::Invalid),
    ] {
        assert_eq!(signing_fault(&relabelled(label, spki)), expected, "{label}");
        assert_eq!(payload_fault(&relabelled(label, spki)), expected, "{label}");
    }
    // A label does not turn one form into another.
    assert_eq!(payload_fault(&relabelled("PRIVATE KEY", &payload().pkcs1)), KeyFault::Invalid);
    assert_eq!(payload_fault(&relabelled("RSA PRIVATE KEY", &payload().pkcs8)), KeyFault::Invalid);
    assert_eq!(payload_fault(&relabelled("PUBLIC KEY", &payload().pkcs8)), KeyFault::Invalid);
}

#[test]
fn garbage_is_refused() {
    let pem = &signing().spki;
    for text in ["", "  \n"] {
        assert_eq!(signing_fault(text), KeyFault::Empty);
    }
    let cut = &pem[..pem.len() - 40];
    for text in [
        "garbage".to_owned(),
        cut.to_owned(),
        format!("{pem}{cut}"),
        pem.replace("END PUBLIC", "END RSA PUBLIC"),
        pem.replacen('A', "*", 4),
    ] {
        assert_eq!(signing_fault(&text), KeyFault::Garbled, "{text}");
    }
    assert_eq!(signing_fault("ssh-rsa AAAAB3NzaC1yc2E user@host"), KeyFault::OpenSsh);
}

#[test]
fn openssl_keys_are_recognised() {
    let args = ["pkcs8", "-topk8", "-passout", "pass:secret"];
    let encrypted = openssl(&args, &payload().pkcs8);
    assert_eq!(payload_fault(&encrypted), KeyFault::Encrypted);
    let args = ["rsa", "-traditional", "-aes128", "-passout", "pass:secret"];
    let encrypted = openssl(&args, &payload().pkcs8);
    assert!(encrypted.contains("Proc-Type"));
    assert_eq!(payload_fault(&encrypted), KeyFault::Encrypted);

    let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let elliptic = openssl(&curve, "");
    assert_eq!(payload_fault(&elliptic), KeyFault::NotRsa);
    assert_eq!(signing_fault(&openssl(&["pkey", "-pubout"], &elliptic)), KeyFault::NotRsa);

    let request = ["req", "-x509", "-new", "-key", "/dev/stdin", "-subj", "/CN=x"];
    assert_eq!(signing_fault(&openssl(&request, &payload().pkcs8)), KeyFault::Certificate);

    let traditional = openssl(&["rsa", "-traditional"], &openssl(&["genrsa", "2048"], ""));
    assert!(traditional.starts_with("-----BEGIN RSA PRIVATE KEY"));
    assert!(PayloadKeys::load(&[file(&traditional)], false).is_ok());
}

#[test]
fn published_keys_are_refused_by_digest() {
    for known in PUBLISHED {
        let facts = Facts {
            bits: 2048,
            label: Label::Spki,
            digest: known.to_owned(),
            signs: true,
            used: ArcSwap::default(),
        };
        assert_eq!(facts.refuse_published(false), Err(KeyFault::Published));
        assert_eq!(facts.refuse_published(true), Ok(()));
    }
    // The digest is computed from the SPKI form, whichever form was loaded.
    let pair = signing();
    let expected = digest(&SHA256, pem::parse(&pair.spki).unwrap().contents());
    let key = PublicKey::from_pkcs1_pem(&pair.public_pkcs1).unwrap();
    let facts = Facts::new(Label::Pkcs1Public, &key, true).unwrap();
    let hex: String = expected.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(facts.digest, hex);
    assert_eq!(facts.refuse_published(false), Ok(()));
}

#[test]
fn errors_name_the_file_and_no_key() {
    let error = SigningKeys::load(&[file(&payload().pkcs8)], false).map(|_| ()).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.starts_with("key.pem: this is a private key"), "{text}");
    assert!(!text.contains(payload().pkcs8.lines().nth(2).unwrap()));
}

/// An `RSA PUBLIC KEY` block of any numbers.
fn pkcs1_public(modulus: &[u8], exponent: &[u8]) -> String {
    use rsa::pkcs1::{RsaPublicKeyRef, UintRef, der::Encode};
    let key = RsaPublicKeyRef {
        modulus: UintRef::new(modulus).unwrap(),
        public_exponent: UintRef::new(exponent).unwrap(),
    };
    pem::encode(&pem::Pem::new("RSA PUBLIC KEY", key.to_der().unwrap()))
}

//! Which files load, what is told about them, and who gets which certificate.

use std::io::Write;
use std::process::{Command, Stdio};

use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, date_time_ymd};

use super::*;
use crate::tls::testing::{Ca, NOW, Pair, der, parse};

fn fault(pair: &Pair) -> (String, CertificateFault) {
    match parse(&[pair]).unwrap_err() {
        CertificateError::Unusable { file, fault } => (file, fault),
        other @ CertificateError::NoFile => panic!("{other:?}"),
    }
}

/// Runs openssl with `args`, `input` on its standard input.
fn openssl(args: &[&str], input: &str) -> String {
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
fn all_forms_of_keys_load() {
    let ca = Ca::new("ca");
    let ecdsa = ca.issue(&["a.example"]);
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let rsa = ca.issue_with(&["a.example"], &rsa, |_| ());
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ed25519 = ca.issue_with(&["a.example"], &ed25519, |_| ());
    let sec1 = Pair { key: openssl(&["ec"], &ecdsa.key), ..ecdsa.clone() };
    assert!(sec1.key.contains("BEGIN EC PRIVATE KEY"));
    let pkcs1 = Pair { key: openssl(&["rsa", "-traditional"], &rsa.key), ..rsa.clone() };
    assert!(pkcs1.key.contains("BEGIN RSA PRIVATE KEY"));
    let parameters = openssl(&["ecparam", "-name", "prime256v1"], "");
    let with_parameters = Pair { key: format!("{parameters}{}", sec1.key), ..sec1.clone() };
    let one_file = format!("{}{}{}", ecdsa.key, ecdsa.chain, ca.pem);
    let one_file = Pair { chain: one_file.clone(), key: one_file };
    for pair in [ecdsa, rsa, ed25519, sec1, pkcs1, with_parameters, one_file] {
        parse(&[&pair]).unwrap();
    }
}

#[test]
fn an_unusable_file_is_named_with_its_fault() {
    let ca = Ca::new("ca");
    let good = ca.issue(&["a.example"]);
    let with_chain = |chain: &str| Pair { chain: chain.to_owned(), ..good.clone() };
    let with_key = |key: &str| Pair { key: key.to_owned(), ..good.clone() };
    let sealed = |args: &[&str]| openssl(args, &good.key);
    let pkcs8 = ["pkcs8", "-topk8", "-passout", "pass:x"];
    let legacy = ["ec", "-aes128", "-passout", "pass:x"];
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cut = &good.chain[..good.chain.len() / 2];
    for (pair, file, expected) in [
        (with_chain(" \n"), "tls.crt", CertificateFault::Empty),
        (with_chain("hello"), "tls.crt", CertificateFault::Garbled),
        (with_chain(cut), "tls.crt", CertificateFault::Garbled),
        (with_chain(&good.key), "tls.crt", CertificateFault::NoCertificate),
        (with_chain(broken), "tls.crt", CertificateFault::InvalidCertificate(1)),
        (
            with_chain(&format!("{}{broken}", good.chain)),
            "tls.crt",
            CertificateFault::InvalidCertificate(2),
        ),
        (with_key(""), "tls.key", CertificateFault::Empty),
        (with_key(&good.chain), "tls.key", CertificateFault::NoKey),
        (with_key(bad_key), "tls.key", CertificateFault::InvalidKey),
        (with_key(&good.key.repeat(2)), "tls.key", CertificateFault::SeveralKeys),
        (with_key(&sealed(&pkcs8)), "tls.key", CertificateFault::EncryptedKey),
        (with_key(&sealed(&legacy)), "tls.key", CertificateFault::EncryptedKey),
    ] {
        assert_eq!(fault(&pair), (file.to_owned(), expected));
    }
    assert_eq!(Certificates::parse(&[], NOW).unwrap_err(), CertificateError::NoFile);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Ca::new("ca");
    let (a, b) = (ca.issue(&["a.example"]), ca.issue(&["b.example"]));
    let mixed = Pair { chain: a.chain.clone(), key: b.key };
    let mismatch = CertificateFault::Mismatch { chain: "tls.crt".to_owned() };
    assert_eq!(fault(&mixed), ("tls.key".to_owned(), mismatch.clone()));
    let wrong_order = Pair { chain: format!("{}{}", ca.pem, a.chain), key: a.key };
    assert_eq!(fault(&wrong_order).1, mismatch);
}

#[test]
fn an_expired_certificate_loads_and_warns() {
    let ca = Ca::new("ca");
    let key = KeyPair::generate().unwrap();
    let pair = ca.issue_with(&["B.example", "*.b.example", "10.0.0.1", "::1"], &key, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let certificates = parse(&[&pair]).unwrap();
    let [description] = certificates.describe() else { panic!() };
    assert_eq!(description.file, "tls.crt");
    assert_eq!(description.names, ["b.example", "*.b.example", "10.0.0.1", "::1"]);
    assert_eq!(description.not_before, 1_577_836_800);
    assert_eq!(description.not_after, 1_609_459_200);
    assert_eq!(description.age(NOW + 60), Duration::from_secs(60));
    let expected = openssl(&["x509", "-noout", "-fingerprint", "-sha256"], &pair.chain);
    let expected = expected.trim().rsplit('=').next().unwrap().replace(':', "");
    assert_eq!(description.fingerprint, expected.to_ascii_lowercase());

    let warnings = |now| certificates.warnings(now);
    assert_eq!(
        warnings(1_577_836_800 - 7_200),
        ["tls.crt: the certificate becomes valid in 2 hours"]
    );
    assert!(warnings(1_600_000_000).is_empty());
    assert_eq!(warnings(1_609_459_200 - 7_200), ["tls.crt: the certificate expires in 2 hours"]);
    assert_eq!(warnings(1_609_459_200 + 86_401), ["tls.crt: the certificate expired 1 days ago"]);
}

#[test]
fn a_certificate_without_names_warns() {
    let pair = Ca::new("ca").issue(&[]);
    let warnings = parse(&[&pair]).unwrap().warnings(NOW);
    assert!(warnings[0].contains("no subject alternative name"), "{warnings:?}");
}

#[test]
fn the_name_chooses() {
    let ca = Ca::new("ca");
    let first = ca.issue(&["first.example"]);
    let exact = ca.issue(&["www.example.org"]);
    let wildcard = ca.issue(&["*.example.org"]);
    let certificates = parse(&[&first, &wildcard, &exact]).unwrap();
    let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
    for (name, pair) in [
        (None, &first),
        (Some("first.example"), &first),
        (Some("unknown.example"), &first),
        (Some("www.example.org"), &exact),
        (Some("WWW.Example.org"), &exact),
        (Some("other.example.org"), &wildcard),
        (Some("a.b.example.org"), &first),
        (Some("example.org"), &first),
        (Some("org"), &first),
    ] {
        let chosen = certificates.choose(name, &schemes);
        assert_eq!(chosen.cert[0].as_ref(), der(pair), "{name:?}");
    }
}

#[test]
fn of_one_name_the_client_gets_a_key_that_it_can_verify() {
    let ca = Ca::new("ca");
    let ecdsa = ca.issue(&["a.example"]);
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let rsa = ca.issue_with(&["a.example"], &rsa, |_| ());
    let certificates = parse(&[&ecdsa, &rsa]).unwrap();
    let (modern, old) = (SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PKCS1_SHA256);
    for (schemes, pair) in
        [(&[modern, old][..], &ecdsa), (&[old, modern][..], &ecdsa), (&[old][..], &rsa)]
    {
        let chosen = certificates.choose(Some("a.example"), schemes);
        assert_eq!(chosen.cert[0].as_ref(), der(pair));
    }
}

#[test]
fn nothing_of_a_key_is_printed() {
    let pair = Ca::new("ca").issue(&["a.example"]);
    let text = format!("{:?}", parse(&[&pair]).unwrap());
    assert!(text.contains("a.example"));
    let line = pair.key.lines().nth(1).unwrap();
    let file = PemFile { name: "tls.key", pem: pair.key.as_bytes() };
    assert!(!format!("{text}{file:?}").contains(line));
    assert!(!text.contains("key:"), "{text}");
}

//! The forms of a client's certificate.

use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

fn certificate(bytes: &[u8]) -> ClientCertificate {
    ClientCertificate(bytes.into())
}

#[test]
fn the_escaped_form_is_that_of_nginx() {
    // Gives base64 with all of its special characters.
    let short = certificate(&[0xfb, 0xff, 0xfe, 0x00]);
    assert_eq!(
        short.escaped_pem(),
        "-----BEGIN%20CERTIFICATE-----%0A%2B%2F%2F%2BAA%3D%3D%0A-----END%20CERTIFICATE-----%0A"
    );
}

#[test]
fn pem_has_full_lines_and_reads_back() {
    for length in [1, 47, 48, 49, 96, 1000] {
        let bytes = vec![0xa5; length];
        let certificate = certificate(&bytes);
        let pem = certificate.pem();
        assert!(pem.lines().all(|line| line.len() <= 64));
        assert!(pem.ends_with("-----END CERTIFICATE-----\n"));
        assert!(!pem.contains("\n\n"));
        assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref(), bytes);
        let escaped = certificate.escaped_pem();
        assert_eq!(percent_decode_str(&escaped).decode_utf8().unwrap(), pem);
        assert!(escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-%".contains(&byte)));
    }
}

#[test]
fn the_structured_form_is_one_line() {
    assert_eq!(certificate(&[0xfb, 0xff]).byte_sequence(), ":+/8=:");
}

#[test]
fn nothing_of_the_certificate_is_printed() {
    let text = format!("{:?}", certificate(b"alice"));
    assert_eq!(text, "ClientCertificate { bytes: 5, .. }");
}

//! PEM files (RFC 7468): certificates and the private key in them.
//!
//! May assume nothing about the bytes.

use std::fmt;

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

use super::error::CertificateFault;

/// One PEM file, already read.
#[derive(Clone, Copy)]
pub struct PemFile<'a> {
    /// Where it came from; only for messages.
    pub name: &'a str,
    /// Its contents.
    pub pem: &'a [u8],
}

impl fmt::Debug for PemFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A private key in DER; wiped when it goes.
pub(super) struct PrivateKey {
    der: Zeroizing<Vec<u8>>,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl PrivateKey {
    pub(super) fn der(&self) -> PrivateKeyDer<'_> {
        let der = self.der.as_slice();
        match self.form {
            Form::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
            Form::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
            Form::Sec1 => PrivateSec1KeyDer::from(der).into(),
        }
    }
}

/// All certificates of a file, in its order; other blocks are passed over.
pub(super) fn certificates(
    file: PemFile<'_>,
) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let found: Vec<_> = blocks(file)?
        .into_iter()
        .filter(|block| matches!(block.tag(), "CERTIFICATE" | "X509 CERTIFICATE"))
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    if found.is_empty() { Err(CertificateFault::NoCertificate) } else { Ok(found) }
}

/// The one private key of a file; other blocks are passed over.
pub(super) fn private_key(file: PemFile<'_>) -> Result<PrivateKey, CertificateFault> {
    let mut found = None;
    for block in blocks(file)? {
        let encrypted = block.headers().get("Proc-Type").is_some();
        let form = match block.tag() {
            "PRIVATE KEY" => Form::Pkcs8,
            "RSA PRIVATE KEY" => Form::Pkcs1,
            "EC PRIVATE KEY" => Form::Sec1,
            "ENCRYPTED PRIVATE KEY" => return Err(CertificateFault::EncryptedKey),
            _ => continue,
        };
        let der = Zeroizing::new(block.into_contents());
        if encrypted {
            return Err(CertificateFault::EncryptedKey);
        }
        if found.replace(PrivateKey { der, form }).is_some() {
            return Err(CertificateFault::SeveralKeys);
        }
    }
    found.ok_or(CertificateFault::NoKey)
}

fn blocks(file: PemFile<'_>) -> Result<Vec<pem::Pem>, CertificateFault> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    if file.pem.trim_ascii().is_empty() {
        return Err(CertificateFault::Empty);
    }
    let blocks = pem::parse_many(file.pem).map_err(|_| CertificateFault::Garbled)?;
    // The parser stops without an error at a block that is cut off.
    let begun = file.pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count();
    if blocks.is_empty() || blocks.len() != begun {
        return Err(CertificateFault::Garbled);
    }
    Ok(blocks)
}

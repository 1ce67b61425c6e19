//! One PEM block: its label, and the RSA key inside.
//!
//! May assume nothing about its bytes. The label alone decides what a block is taken for.

use std::fmt;

use rsa::pkcs1::{self, DecodeRsaPrivateKey, DecodeRsaPublicKey};
use rsa::pkcs8::PrivateKeyInfoRef;
use rsa::pkcs8::der::Decode;
use rsa::pkcs8::spki::SubjectPublicKeyInfoRef;
use rsa::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{KeyFault, KeyFile};

/// Accepted modulus lengths in bits.
///
/// RFC 7518 section 3.3 asks for 2048; abcdesktop's scripts up to 4.0 make 1024-bit keys.
const BITS: std::ops::RangeInclusive<usize> = 1024..=8192;

/// The four PEM labels an RSA key can have (RFC 7468, RFC 8017 appendix A.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) enum Label {
    /// `RSA PUBLIC KEY`
    Pkcs1Public,
    /// `PUBLIC KEY`
    Spki,
    /// `RSA PRIVATE KEY`
    Pkcs1Private,
    /// `PRIVATE KEY`
    Pkcs8,
}

impl Label {
    pub(in crate::auth) fn is_private(self) -> bool {
        match self {
            Self::Pkcs1Private | Self::Pkcs8 => true,
            Self::Pkcs1Public | Self::Spki => false,
        }
    }

    fn parse(tag: &str) -> Result<Self, KeyFault> {
        match tag {
            "RSA PUBLIC KEY" => Ok(Self::Pkcs1Public),
            "PUBLIC KEY" => Ok(Self::Spki),
            "RSA PRIVATE KEY" => Ok(Self::Pkcs1Private),
            "PRIVATE KEY" => Ok(Self::Pkcs8),
            "ENCRYPTED PRIVATE KEY" => Err(KeyFault::Encrypted),
            "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
                Err(KeyFault::Certificate)
            }
            "OPENSSH PRIVATE KEY" | "SSH2 PUBLIC KEY" => Err(KeyFault::OpenSsh),
            _ => Err(KeyFault::NotRsa),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pkcs1Public => "PKCS#1 public",
            Self::Spki => "SPKI",
            Self::Pkcs1Private => "PKCS#1 private",
            Self::Pkcs8 => "PKCS#8",
        })
    }
}

/// One block of a file; its bytes are wiped when it goes.
pub(in crate::auth) struct Block {
    pub(in crate::auth) label: Label,
    der: Zeroizing<Vec<u8>>,
}

impl Block {
    /// Reads every block of a file; text around the blocks is ignored, as OpenSSL does.
    pub(in crate::auth) fn read_all(file: &KeyFile<'_>) -> Result<Vec<Self>, KeyFault> {
        if file.pem.trim_ascii().is_empty() {
            return Err(KeyFault::Empty);
        }
        if file.pem.starts_with(b"ssh-rsa ") {
            return Err(KeyFault::OpenSsh);
        }
        let blocks = pem::parse_many(file.pem).map_err(|_| KeyFault::Garbled)?;
        // The parser stops without an error at a block that is cut off.
        if blocks.is_empty() || blocks.len() != count_begins(file.pem) {
            return Err(KeyFault::Garbled);
        }
        blocks
            .into_iter()
            .map(|block| {
                let encrypted = block.headers().get("Proc-Type").is_some();
                let label = Label::parse(block.tag());
                let der = Zeroizing::new(block.into_contents());
                if encrypted {
                    return Err(KeyFault::Encrypted);
                }
                Ok(Self { label: label?, der })
            })
            .collect()
    }

    /// The public key of a public block.
    pub(in crate::auth) fn public(&self) -> Result<PublicKey, KeyFault> {
        match self.label {
            Label::Pkcs1Public => public_key(&self.der),
            Label::Spki => {
                let info =
                    SubjectPublicKeyInfoRef::from_der(&self.der).map_err(|_| KeyFault::Invalid)?;
                if info.algorithm.oid != pkcs1::ALGORITHM_OID {
                    return Err(KeyFault::NotRsa);
                }
                let bits = info.subject_public_key.as_bytes();
                public_key(bits.ok_or(KeyFault::Invalid)?)
            }
            Label::Pkcs1Private | Label::Pkcs8 => Err(KeyFault::Invalid),
        }
    }

    /// The private key of a private block.
    pub(in crate::auth) fn private(&self) -> Result<PrivateKey, KeyFault> {
        match self.label {
            Label::Pkcs1Private => private_key(&self.der),
            Label::Pkcs8 => {
                let info = PrivateKeyInfoRef::from_der(&self.der).map_err(|_| KeyFault::Invalid)?;
                if info.algorithm.oid != pkcs1::ALGORITHM_OID {
                    return Err(KeyFault::NotRsa);
                }
                private_key(info.private_key.as_bytes())
            }
            Label::Pkcs1Public | Label::Spki => Err(KeyFault::Invalid),
        }
    }
}

/// Checks the size first: the `rsa` crate refuses small public keys without saying why, and
/// accepts small private ones.
fn public_key(der: &[u8]) -> Result<PublicKey, KeyFault> {
    let parts = pkcs1::RsaPublicKeyRef::from_der(der).map_err(|_| KeyFault::Invalid)?;
    check_size(parts.modulus.as_bytes())?;
    PublicKey::from_pkcs1_der(der).map_err(|_| KeyFault::Invalid)
}

fn private_key(der: &[u8]) -> Result<PrivateKey, KeyFault> {
    let parts = pkcs1::RsaPrivateKeyRef::from_der(der).map_err(|_| KeyFault::Invalid)?;
    check_size(parts.modulus.as_bytes())?;
    PrivateKey::from_pkcs1_der(der).map_err(|_| KeyFault::Invalid)
}

/// `modulus` is big-endian without leading zero bytes.
fn check_size(modulus: &[u8]) -> Result<(), KeyFault> {
    let unused = modulus.first().map_or(0, |byte| byte.leading_zeros());
    let bits = (modulus.len() * 8).saturating_sub(unused as usize);
    if bits < *BITS.start() {
        return Err(KeyFault::TooSmall(bits));
    }
    if bits > *BITS.end() {
        return Err(KeyFault::TooLarge(bits));
    }
    Ok(())
}

fn count_begins(pem: &[u8]) -> usize {
    const BEGIN: &[u8] = b"-----BEGIN ";
    pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count()
}

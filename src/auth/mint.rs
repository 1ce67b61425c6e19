//! pyos's side of the contract: makes desktop tokens, for the command line, the demo and tests.
//!
//! May assume that whoever holds the private keys may make tokens. The gateway's request path
//! never comes here.

mod key_set;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rsa::sha2::{Digest, Sha256};
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Encrypt, Pkcs1v15Sign, PrivateKey, PublicKey};
use serde::Serialize;

use super::keys::{Block, KeyError, KeyFault, KeyFile};
use super::random;
pub use key_set::KeySet;

/// Header of every token pyos signs; the order of its members depends on the PyJWT version.
const HEADER: &str = r#"{"typ":"JWT","alg":"RS256"}"#;

/// What PKCS#1 v1.5 padding takes at least (RFC 8017 section 7.2.1).
const PADDING: usize = 11;

/// Makes tokens with one pair of keys.
pub struct Minter {
    signing: PrivateKey,
    sealer: Sealer,
}

/// Which payload key pyos has, hence which one the gateway needs.
enum Sealer {
    /// Seals as pyos's released code does (mode B); the gateway opens with the private key.
    Public(PublicKey),
    /// Seals as the documents describe (mode A); the gateway opens with the public key.
    Private(Box<PrivateKey>),
}

impl Minter {
    /// Loads a private signing key and a payload key, whose label decides how targets are sealed.
    ///
    /// # Errors
    ///
    /// As [`SigningKeys::load`](super::SigningKeys::load); besides, a public signing key or
    /// several keys in one text.
    pub fn new(signing_private_pem: &[u8], payload_pem: &[u8]) -> Result<Self, KeyError> {
        let signing = read("signing key", signing_private_pem, |block| {
            if block.label.is_private() { block.private() } else { Err(KeyFault::PublicForMinting) }
        })?;
        let sealer = read("payload key", payload_pem, |block| {
            if block.label.is_private() {
                block.private().map(Box::new).map(Sealer::Private)
            } else {
                block.public().map(Sealer::Public)
            }
        })?;
        Ok(Self { signing, sealer })
    }

    /// Makes a token for `target` that is issued `now` (Unix seconds) and lives for `ttl` seconds.
    ///
    /// The target is sealed as it is, so that a test can seal what a gateway must refuse.
    ///
    /// # Errors
    ///
    /// A target that is not ASCII or too long for the payload key, or a key that fails.
    pub fn mint(&self, target: &str, now: u64, ttl: u64) -> Result<String, MintError> {
        let claims = Claims {
            key: 0,
            nfb: now,
            hash: STANDARD.encode(self.seal(target)?),
            exp: now.saturating_add(ttl),
        };
        let claims = serde_json::to_string(&claims).map_err(|_| MintError::Rsa)?;
        self.sign(HEADER, &claims)
    }

    /// Signs any header and claims (RFC 7515 section 7.1).
    pub(super) fn sign(&self, header: &str, claims: &str) -> Result<String, MintError> {
        let header = URL_SAFE_NO_PAD.encode(header);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = self
            .signing
            .sign(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(&message))
            .map_err(|_| MintError::Rsa)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The bytes of `hash` before base64.
    pub(super) fn seal(&self, target: &str) -> Result<Vec<u8>, MintError> {
        if !target.is_ascii() {
            return Err(MintError::NotAscii);
        }
        let limit = self.sealer.size() - PADDING;
        if target.len() > limit {
            return Err(MintError::TooLong { limit });
        }
        match &self.sealer {
            Sealer::Public(key) => {
                key.encrypt(&mut random::system(), Pkcs1v15Encrypt, target.as_bytes())
            }
            Sealer::Private(key) => key.sign(Pkcs1v15Sign::new_unprefixed(), target.as_bytes()),
        }
        .map_err(|_| MintError::Rsa)
    }
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").finish_non_exhaustive()
    }
}

impl Sealer {
    fn size(&self) -> usize {
        match self {
            Self::Public(key) => key.size(),
            Self::Private(key) => key.size(),
        }
    }
}

/// Why no token or no key could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// pyos encodes targets as ASCII.
    #[error("the target is not ASCII")]
    NotAscii,
    /// The modulus less 11 bytes (RFC 8017 section 7.2.1).
    #[error("the target is longer than the {limit} bytes this payload key can seal")]
    TooLong {
        /// The most bytes it can seal.
        limit: usize,
    },
    /// Only 1024 to 8192 bits are made, in whole bytes.
    #[error("keys have 1024 to 8192 bits, a multiple of 8")]
    Size,
    /// The RSA operation itself failed.
    #[error("the RSA operation failed")]
    Rsa,
}

/// In pyos's order.
#[derive(Serialize)]
struct Claims {
    key: u8,
    nfb: u64,
    hash: String,
    exp: u64,
}

/// Reads the one key of a text.
fn read<T>(
    name: &str,
    pem: &[u8],
    make: impl FnOnce(&Block) -> Result<T, KeyFault>,
) -> Result<T, KeyError> {
    let unusable = |fault| KeyError::Unusable { file: name.to_owned(), fault };
    let blocks = Block::read_all(&KeyFile { name, pem }).map_err(unusable)?;
    let [block] = blocks.as_slice() else {
        return Err(unusable(KeyFault::Several));
    };
    make(block).map_err(unusable)
}

#[cfg(test)]
mod tests;

//! The gateway's keys: PEM text in, keys that are known to work out.
//!
//! May assume nothing about the text. A key that loads here has an accepted size, the right label
//! for its purpose, and has done its work once, so that a wrong file stops the start instead of
//! refusing every token.

mod block;
mod error;
mod payload;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY};
use jsonwebtoken::DecodingKey;
use rsa::PublicKey;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::EncodePublicKey;
use rsa::traits::PublicKeyParts;

pub(super) use block::{Block, Label};
pub use error::{KeyError, KeyFault};
pub use payload::PayloadKeys;
pub(super) use payload::{Opener, PayloadKey};

/// Most keys of one kind: the current one, and a few of a rotation. A bad token costs one
/// verification per signing key.
const MAX_KEYS: usize = 4;

/// SHA-256 of the SPKI form of the default keys in the oc.nginx image (signing, payload). Their
/// private halves are public, so anyone can make tokens for them.
const PUBLISHED: [&str; 2] = [
    "90e2aa68622380190d94ef8df730fee76577d42f4707a2a47d16a90e440f1596",
    "de485303e71b7343a82ef6952a45b6245131962f4dc8be0795ba039c4fd97cb6",
];

/// One PEM file, already read. It may hold several blocks.
#[derive(Clone, Copy)]
pub struct KeyFile<'a> {
    /// Where it came from; only for messages.
    pub name: &'a str,
    /// Its contents.
    pub pem: &'a [u8],
}

impl fmt::Debug for KeyFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The public keys that verify signatures, tried in order.
pub struct SigningKeys(Vec<SigningKey>);

struct SigningKey {
    key: DecodingKey,
    facts: Facts,
}

impl SigningKeys {
    /// Loads every block of every file, at most four in all: `PUBLIC KEY` or `RSA PUBLIC KEY`.
    ///
    /// `allow_published` accepts the default keys whose private halves are public, for a test
    /// installation that insists on them.
    ///
    /// # Errors
    ///
    /// Says which file holds what instead of a usable public key; see [`KeyFault`].
    pub fn load(files: &[KeyFile<'_>], allow_published: bool) -> Result<Self, KeyError> {
        load(files, |block| {
            if block.label.is_private() {
                return Err(KeyFault::PrivateForSigning);
            }
            let key = block.public()?;
            let facts = Facts::new(block.label, &key, true)?;
            facts.refuse_published(allow_published)?;
            let der = key.to_pkcs1_der().map_err(|_| KeyFault::Invalid)?;
            // The verifier's own opinion, before the first token needs it.
            let algorithm = &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
            ParsedPublicKey::new(algorithm, der.as_bytes()).map_err(|_| KeyFault::SelfTest)?;
            Ok(SigningKey { key: DecodingKey::from_rsa_der(der.as_bytes()), facts })
        })
        .map(Self)
    }

    /// One line per key: `RSA 2048, SPKI, sha256:ab12cd34ef56…`, the digest being that of the
    /// public key in SPKI form.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        self.0.iter().map(|key| key.facts.to_string()).collect()
    }

    /// The facts of each key.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Facts> {
        self.0.iter().map(|key| &key.facts)
    }

    /// What may be told of each key.
    pub(super) fn facts(&self) -> impl Iterator<Item = KeyFacts> {
        self.counted().map(Facts::told)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DecodingKey, &Facts)> {
        self.0.iter().map(|key| (&key.key, &key.facts))
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKeys").field(&self.describe()).finish()
    }
}

/// What may be told about a key.
pub(super) struct Facts {
    bits: usize,
    label: Label,
    /// SHA-256 of the public key in SPKI form, in hex.
    digest: String,
    /// Whether it is for signatures, and not for seals.
    signs: bool,
    /// Tokens that this key has verified or opened, shared with the same key of a later configuration.
    used: ArcSwap<AtomicU64>,
}

/// What may be told about a key in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// `signing` or `payload`.
    pub kind: &'static str,
    /// Size of the modulus in bits.
    pub bits: usize,
    /// SHA-256 of the public key in SPKI form, in hex.
    pub digest: String,
    /// Tokens that it has verified or opened since the process first had it.
    pub used: u64,
}

impl Facts {
    fn new(label: Label, key: &PublicKey, signs: bool) -> Result<Self, KeyFault> {
        let spki = key.to_public_key_der().map_err(|_| KeyFault::Invalid)?;
        let digest = digest(&SHA256, spki.as_bytes());
        Ok(Self {
            bits: bits(key),
            label,
            digest: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            signs,
            used: ArcSwap::default(),
        })
    }

    /// Counts a token that the key was right for.
    pub(super) fn use_once(&self) {
        self.used.load().fetch_add(1, Ordering::Relaxed);
    }

    /// Whether both are of one key, for one purpose.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.signs == other.signs && self.digest == other.digest
    }

    /// Goes on counting where `other` stopped; both count into one from now on.
    pub(super) fn count_on(&self, other: &Self) {
        self.used.store(other.used.load_full());
    }

    fn told(&self) -> KeyFacts {
        let used = self.used.load().load(Ordering::Relaxed);
        let kind = if self.signs { "signing" } else { "payload" };
        KeyFacts { kind, bits: self.bits, digest: self.digest.clone(), used }
    }

    fn refuse_published(&self, allowed: bool) -> Result<(), KeyFault> {
        if !allowed && PUBLISHED.contains(&self.digest.as_str()) {
            return Err(KeyFault::Published);
        }
        Ok(())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bits, label, digest, .. } = self;
        write!(f, "RSA {bits}, {label}, sha256:{digest:.12}…")
    }
}

fn load<T>(
    files: &[KeyFile<'_>],
    make: impl Fn(Block) -> Result<T, KeyFault>,
) -> Result<Vec<T>, KeyError> {
    let mut keys = Vec::new();
    for file in files {
        let unusable = |fault| KeyError::Unusable { file: file.name.to_owned(), fault };
        for block in Block::read_all(file).map_err(unusable)? {
            if keys.len() == MAX_KEYS {
                return Err(KeyError::TooMany { file: file.name.to_owned() });
            }
            keys.push(make(block).map_err(unusable)?);
        }
    }
    if keys.is_empty() {
        return Err(KeyError::NoFile);
    }
    Ok(keys)
}

fn bits(key: &impl PublicKeyParts) -> usize {
    // Fits: a key has at most 8192 bits.
    key.n().bit_width() as usize
}

#[cfg(test)]
mod tests;

//! The keys that open seals: which mode each one means, and proof that it works.
//!
//! May assume that a block has an accepted size and a sound key; the label decides the mode.

use std::fmt;

use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use rsa::pkcs8::EncodePrivateKey;
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Encrypt, PrivateKey, PublicKey};

use super::{Block, Facts, KeyError, KeyFacts, KeyFault, KeyFile, bits, load};
use crate::auth::{random, seal};

/// From this size on aws-lc opens mode B seals, five times faster than the `rsa` crate; it refuses
/// smaller private keys.
const AWS_LC_MIN_BITS: usize = 2048;

/// Largest modulus of a public key whose seals are opened on the worker: 1024 bits.
const CHEAP_BYTES: usize = 128;

/// The keys that open the sealed `hash`, tried in order.
pub struct PayloadKeys(Vec<PayloadKey>);

impl PayloadKeys {
    /// Loads every block of every file, at most four in all. A private key (`PRIVATE KEY`,
    /// `RSA PRIVATE KEY`) opens what pyos's code seals with the public one; a public key
    /// (`PUBLIC KEY`, `RSA PUBLIC KEY`) opens what the documents describe.
    ///
    /// # Errors
    ///
    /// As for [`SigningKeys::load`](super::SigningKeys::load).
    pub fn load(files: &[KeyFile<'_>], allow_published: bool) -> Result<Self, KeyError> {
        load(files, |block| PayloadKey::new(&block, allow_published)).map(Self)
    }

    /// One line per key, as [`SigningKeys::describe`](super::SigningKeys::describe).
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        self.0.iter().map(|key| key.facts.to_string()).collect()
    }

    /// The facts of each key.
    pub(in crate::auth) fn counted(&self) -> impl Iterator<Item = &Facts> {
        self.0.iter().map(|key| &key.facts)
    }

    /// What may be told of each key.
    pub(in crate::auth) fn facts(&self) -> impl Iterator<Item = KeyFacts> {
        self.counted().map(Facts::told)
    }

    pub(in crate::auth) fn iter(&self) -> impl Iterator<Item = &PayloadKey> {
        self.0.iter()
    }
}

impl fmt::Debug for PayloadKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PayloadKeys").field(&self.describe()).finish()
    }
}

/// One payload key.
pub(in crate::auth) struct PayloadKey {
    opener: Opener,
    /// Length of the modulus in bytes, hence of every seal.
    size: usize,
    facts: Facts,
}

/// What opens a seal, chosen by the key's PEM label and its size.
pub(in crate::auth) enum Opener {
    /// Mode A.
    Public(PublicKey),
    /// Mode B, 2048 bits and more.
    Private(Pkcs1PrivateDecryptingKey),
    /// Mode B, below 2048 bits.
    SmallPrivate(Box<PrivateKey>),
}

impl PayloadKey {
    /// Whether a seal costs more to open than a worker's tunnels should wait for, also when ten come at
    /// once: all do but those of small public keys, which take a few hundredths of a millisecond.
    pub(in crate::auth) fn is_costly(&self) -> bool {
        match self.opener() {
            Opener::Public(_) => self.size > CHEAP_BYTES,
            Opener::Private(_) | Opener::SmallPrivate(_) => true,
        }
    }

    /// Counts a token that the key was right for.
    pub(in crate::auth) fn use_once(&self) {
        self.facts.use_once();
    }

    fn new(block: &Block, allow_published: bool) -> Result<Self, KeyFault> {
        let (public, opener) = if block.label.is_private() {
            let key = block.private()?;
            (key.to_public_key(), Opener::private(key)?)
        } else {
            let key = block.public()?;
            (key.clone(), Opener::Public(key))
        };
        let facts = Facts::new(block.label, &public, false)?;
        facts.refuse_published(allow_published)?;
        let size = public.size();
        let key = Self { opener, size, facts };
        key.test(&public)?;
        Ok(key)
    }

    /// A round trip where it is possible. A public key cannot make a seal to open.
    fn test(&self, public: &PublicKey) -> Result<(), KeyFault> {
        if let Opener::Public(_) = self.opener {
            return Ok(());
        }
        const TEXT: &[u8] = b"self-test";
        let sealed = public
            .encrypt(&mut random::system(), Pkcs1v15Encrypt, TEXT)
            .map_err(|_| KeyFault::SelfTest)?;
        match seal::open_with(self, &sealed) {
            Some(text) if *text == TEXT => Ok(()),
            _ => Err(KeyFault::SelfTest),
        }
    }

    pub(in crate::auth) fn opener(&self) -> &Opener {
        &self.opener
    }

    pub(in crate::auth) fn size(&self) -> usize {
        self.size
    }
}

impl Opener {
    fn private(key: PrivateKey) -> Result<Self, KeyFault> {
        if bits(&key) < AWS_LC_MIN_BITS {
            return Ok(Self::SmallPrivate(Box::new(key)));
        }
        // aws-lc reads PKCS#8 only, whichever form the file has.
        let der = key.to_pkcs8_der().map_err(|_| KeyFault::Invalid)?;
        PrivateDecryptingKey::from_pkcs8(der.as_bytes())
            .map_err(|_| KeyFault::Invalid)
            .and_then(|key| Pkcs1PrivateDecryptingKey::new(key).map_err(|_| KeyFault::Invalid))
            .map(Self::Private)
    }
}

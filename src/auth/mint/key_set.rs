//! The six key files of an installation, in the form the install documents make them.
//!
//! May assume nothing; it makes everything from the system's random numbers.

use std::fmt;

use rsa::PrivateKey;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use zeroize::Zeroizing;

use super::MintError;
use crate::auth::random;

/// Three key pairs as PEM text, byte for byte as OpenSSL 3 writes them.
pub struct KeySet {
    /// `openssl genrsa`: PKCS#8. The gateway opens seals with it.
    pub payload_private: Zeroizing<String>,
    /// `openssl rsa -RSAPublicKey_out`: PKCS#1, the form PyCryptodome wants. pyos seals with it.
    pub payload_public: String,
    /// `openssl genrsa`: PKCS#8. pyos signs desktop tokens with it.
    pub signing_private: Zeroizing<String>,
    /// `openssl rsa -pubout`: SPKI. The gateway verifies with it.
    pub signing_public: String,
    /// `openssl genrsa`: PKCS#8. pyos signs user tokens with it; the gateway never sees it.
    pub user_signing_private: Zeroizing<String>,
    /// `openssl rsa -pubout`: SPKI.
    pub user_signing_public: String,
}

impl KeySet {
    /// File name of [`payload_private`](Self::payload_private).
    pub const PAYLOAD_PRIVATE: &str = "abcdesktop_jwt_desktop_payload_private_key.pem";
    /// File name of [`payload_public`](Self::payload_public).
    pub const PAYLOAD_PUBLIC: &str = "abcdesktop_jwt_desktop_payload_public_key.pem";
    /// File name of [`signing_private`](Self::signing_private).
    pub const SIGNING_PRIVATE: &str = "abcdesktop_jwt_desktop_signing_private_key.pem";
    /// File name of [`signing_public`](Self::signing_public).
    pub const SIGNING_PUBLIC: &str = "abcdesktop_jwt_desktop_signing_public_key.pem";
    /// File name of [`user_signing_private`](Self::user_signing_private).
    pub const USER_SIGNING_PRIVATE: &str = "abcdesktop_jwt_user_signing_private_key.pem";
    /// File name of [`user_signing_public`](Self::user_signing_public).
    pub const USER_SIGNING_PUBLIC: &str = "abcdesktop_jwt_user_signing_public_key.pem";

    /// Makes three key pairs of `bits` each. Takes seconds at 4096 bits.
    ///
    /// # Errors
    ///
    /// [`MintError::Size`] for other sizes than 1024 to 8192 bits in whole bytes.
    pub fn generate(bits: usize) -> Result<Self, MintError> {
        if !(1024..=8192).contains(&bits) || !bits.is_multiple_of(8) {
            return Err(MintError::Size);
        }
        let (payload_private, payload) = pair(bits)?;
        let (signing_private, signing) = pair(bits)?;
        let (user_signing_private, user_signing) = pair(bits)?;
        let payload = payload.as_public_key();
        Ok(Self {
            payload_private,
            payload_public: payload.to_pkcs1_pem(LineEnding::LF).map_err(|_| MintError::Rsa)?,
            signing_private,
            signing_public: spki(&signing)?,
            user_signing_private,
            user_signing_public: spki(&user_signing)?,
        })
    }

    /// Every file's name and text.
    #[must_use]
    pub fn files(&self) -> [(&'static str, &str); 6] {
        [
            (Self::PAYLOAD_PRIVATE, &self.payload_private),
            (Self::PAYLOAD_PUBLIC, &self.payload_public),
            (Self::SIGNING_PRIVATE, &self.signing_private),
            (Self::SIGNING_PUBLIC, &self.signing_public),
            (Self::USER_SIGNING_PRIVATE, &self.user_signing_private),
            (Self::USER_SIGNING_PUBLIC, &self.user_signing_public),
        ]
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").finish_non_exhaustive()
    }
}

fn pair(bits: usize) -> Result<(Zeroizing<String>, PrivateKey), MintError> {
    let key = PrivateKey::new(&mut random::system(), bits).map_err(|_| MintError::Rsa)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| MintError::Rsa)?;
    Ok((pem, key))
}

fn spki(key: &PrivateKey) -> Result<String, MintError> {
    key.as_public_key().to_public_key_pem(LineEnding::LF).map_err(|_| MintError::Rsa)
}

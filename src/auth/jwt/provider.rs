//! The one signature algorithm, plugged into `jsonwebtoken`.
//!
//! May assume that `jsonwebtoken` is built without a backend of its own.

use aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};

/// Makes `jsonwebtoken` use our verifier, for the whole process.
///
/// `jsonwebtoken` is built without a backend: its own refuse 1024-bit keys, which most abcdesktop
/// installations have. Decoding before the first call would panic, and keep panicking, so `main`
/// calls this first; further calls change nothing.
pub fn install_provider() {
    // An error means that a provider is there already, and no one but us installs one.
    let _already_installed = PROVIDER.install_default();
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: rs256_verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::InvalidAlgorithm.into())
}

fn rs256_verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // Repeats the header check on purpose: HS256 with the public key's text as the secret opens
    // the nginx/Lua incumbent to anyone who has that text.
    if *algorithm != Algorithm::RS256 || key.family() != AlgorithmFamily::Rsa {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Rs256Verifier(key.clone())))
}

/// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3) for keys of 1024 to 8192 bits.
///
/// RFC 7518 wants 2048 bits and more, hence aws-lc's `LEGACY` name. abcdesktop's install scripts up
/// to 4.0 make 1024-bit keys; the size is refused or accepted when a key is loaded, in words.
struct Rs256Verifier(DecodingKey);

impl Verifier<Vec<u8>> for Rs256Verifier {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let key = self.0.try_get_as_bytes().map_err(|_| refused())?;
        UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, key)
            .verify(message, signature)
            .map_err(|_| refused())
    }
}

impl JwtVerifier for Rs256Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

fn refused() -> signature::Error {
    signature::Error::new()
}

//! Opens the RSA-sealed `hash` of [`VerifiedClaims`], and of nothing else.
//!
//! May assume that the claims are authentic: only a holder of the signing key chooses what is
//! opened here, which is what keeps padding oracles (Bleichenbacher, Marvin) out of reach.
//!
//! Two modes exist in the field. Mode B, what pyos's code does: sealed with the payload *public*
//! key (RFC 8017 section 7.2), opened with the private one. Mode A, what the documents describe:
//! made with the payload *private* key in signature padding without a digest (section 9.2, block
//! type 1), recovered with the public one. The key's PEM label decides, never trial and error.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rsa::hazmat::rsa_encrypt;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, Pkcs1v15Encrypt, PublicKey};
use zeroize::Zeroizing;

use super::Error;
use super::jwt::VerifiedClaims;
use super::keys::{Opener, PayloadKey, PayloadKeys};

/// Standard base64 with or without its padding, as the incumbent reads it; no URL-safe alphabet,
/// no white space, no stray bits.
const HASH: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Opens the seal with each payload key in turn until `accept` takes the text.
///
/// Opening alone proves nothing: with implicit rejection (the `rsa` crate below 2048 bits) a wrong
/// key yields random bytes instead of an error. `accept` must be strict.
///
/// # Errors
///
/// [`Error::BadSeal`] if no key opens it to printable text, otherwise the last error of `accept`.
pub(super) fn open<T>(
    keys: &PayloadKeys,
    claims: &VerifiedClaims,
    accept: impl Fn(&[u8]) -> Result<T, Error>,
) -> Result<T, Error> {
    let sealed = HASH.decode(claims.hash()).map_err(|_| Error::BadSeal)?;
    let mut refusal = Error::BadSeal;
    for key in keys.iter() {
        let Some(text) = open_with(key, &sealed) else {
            continue;
        };
        // Only sharpens the error: random bytes mean a wrong key rather than a wrong target.
        if !text.iter().all(u8::is_ascii_graphic) {
            continue;
        }
        match accept(&text) {
            Ok(accepted) => {
                key.use_once();
                return Ok(accepted);
            }
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Opens `sealed` with one key; `None` if its length or its padding is wrong for that key. A small private
/// key opens wrong padding to text that nobody chose, lest an error tell of it (implicit rejection).
pub(super) fn open_with(key: &PayloadKey, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // Libraries differ on short and zero-extended ciphertexts; RFC 8017 section 7.2.2 does not.
    if sealed.len() != key.size() {
        return None;
    }
    match key.opener() {
        Opener::Public(key) => recover(key, sealed),
        Opener::Private(key) => {
            let mut buffer = Zeroizing::new(vec![0; key.min_output_size()]);
            let length = key.decrypt(sealed, &mut buffer).ok()?.len();
            buffer.truncate(length);
            Some(buffer)
        }
        // Blinded, by the crate's `getrandom` feature.
        Opener::SmallPrivate(key) => key.decrypt(Pkcs1v15Encrypt, sealed).ok().map(Zeroizing::new),
    }
}

/// Mode A: the public operation, then block type 1 taken off.
fn recover(key: &PublicKey, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let sealed = BoxedUint::from_be_slice(sealed, key.n_bits_precision()).ok()?;
    // `rsa_encrypt` would reduce it, and one text would have two seals.
    if sealed >= *key.n().as_ref() {
        return None;
    }
    let block = rsa_encrypt(key, &sealed).ok()?.to_be_bytes();
    // Whole limbs, so possibly longer than the modulus.
    let excess = block.len().checked_sub(key.size())?;
    let text = unpad_type_1(block.get(excess..)?)?;
    Some(Zeroizing::new(text.to_vec()))
}

/// `00 01 FF.. 00 text` with at least eight `FF` (RFC 8017 section 9.2, RFC 2313 section 8.1).
fn unpad_type_1(block: &[u8]) -> Option<&[u8]> {
    let padded = block.strip_prefix(&[0, 1])?;
    let padding = padded.iter().take_while(|byte| **byte == 0xff).count();
    if padding < 8 {
        return None;
    }
    padded.get(padding..)?.strip_prefix(&[0])
}

#[cfg(test)]
mod tests;

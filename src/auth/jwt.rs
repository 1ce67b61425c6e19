//! RS256 signature and times: a token's text becomes [`VerifiedClaims`], or nothing.
//!
//! May assume that the signing keys were checked when they were loaded. Each check consumes the
//! value of the one before it, so that none can be skipped or reordered.

mod provider;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::keys::SigningKeys;
use super::{Error, Flaw, Token};
pub use provider::install_provider;

/// Longest header part, in base64url characters. `jsonwebtoken` parses the header twice before it
/// looks at the signature, so this bounds what a stranger can make us parse.
const MAX_HEADER: usize = 1024;

/// Longest claims part, in base64url characters: twice what an 8192-bit payload key needs.
const MAX_CLAIMS: usize = 4096;

/// Lengths of the signature part in base64url characters, for keys of 1024 to 8192 bits.
const SIGNATURE: std::ops::RangeInclusive<usize> = 171..=1366;

/// The last step's product: claims whose signature held and whose times are right.
///
/// Only `SignedClaims::current` makes one, and only this opens a seal.
pub struct VerifiedClaims {
    hash: String,
    expires: u64,
    issued: Option<u64>,
}

impl VerifiedClaims {
    /// The sealed target as it came: base64 text, still closed.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// `exp` in whole Unix seconds, rounded down.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// pyos's `nfb` in Unix seconds, if it is a number.
    #[must_use]
    pub fn issued(&self) -> Option<u64> {
        self.issued
    }
}

impl fmt::Debug for VerifiedClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedClaims")
            .field("expires", &self.expires)
            .field("issued", &self.issued)
            .finish_non_exhaustive()
    }
}

/// A token that has the form of a JWS (RFC 7515 section 7.1) within our limits.
pub(super) struct Shaped<'a> {
    text: &'a str,
    header: &'a str,
}

impl<'a> Shaped<'a> {
    /// Checks lengths, dots and alphabet, and decodes nothing.
    pub(super) fn new(token: Token<'a>) -> Result<Self, Error> {
        let text = token.as_str();
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Malformed(Flaw::Parts));
        };
        if !text.bytes().all(in_alphabet) {
            return Err(Error::Malformed(Flaw::Alphabet));
        }
        if header.is_empty() || header.len() > MAX_HEADER {
            return Err(Error::Malformed(Flaw::Header));
        }
        if claims.is_empty() || claims.len() > MAX_CLAIMS {
            return Err(Error::Malformed(Flaw::Claims));
        }
        if !SIGNATURE.contains(&signature.len()) {
            return Err(Error::Malformed(Flaw::Signature));
        }
        Ok(Self { text, header })
    }

    /// Checks the JOSE header (RFC 7515 section 4), which `jsonwebtoken` mostly ignores: it knows
    /// no `crit` at all, and reads past `enc` as well.
    pub(super) fn header(self) -> Result<Rs256<'a>, Error> {
        let malformed = Error::Malformed(Flaw::Header);
        let json = URL_SAFE_NO_PAD.decode(self.header).map_err(|_| malformed)?;
        let header: Header = serde_json::from_slice(&json).map_err(|_| malformed)?;
        if header.alg.as_deref() != Some("RS256") {
            return Err(Error::Algorithm);
        }
        let foreign = header.typ.as_deref().is_some_and(|typ| typ != "JWT");
        if foreign || header.asks_for_more() {
            return Err(Error::UnsupportedHeader);
        }
        Ok(Rs256(self.text))
    }
}

impl fmt::Debug for Shaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shaped").finish_non_exhaustive()
    }
}

/// A token that claims to be signed with RS256 and asks for nothing unusual.
pub(super) struct Rs256<'a>(&'a str);

impl Rs256<'_> {
    /// Tries the signing keys in order. A bad token costs one verification per key.
    pub(super) fn verify(self, keys: &SigningKeys) -> Result<SignedClaims, Error> {
        for (key, facts) in keys.iter() {
            match jsonwebtoken::decode::<Claims>(self.0, key, &VALIDATION) {
                Ok(token) => {
                    facts.use_once();
                    return Ok(SignedClaims(token.claims));
                }
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) if *error.kind() == ErrorKind::InvalidAlgorithm => {
                    return Err(Error::Algorithm);
                }
                Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => {
                    return Err(Error::Malformed(Flaw::Base64));
                }
                // Claims whose signature held, or a header member such as `kid` of a wrong type:
                // no other key would read them better.
                Err(_) => return Err(Error::BadClaims),
            }
        }
        Err(Error::BadSignature)
    }
}

/// Claims that a holder of a signing key wrote.
pub(super) struct SignedClaims(Claims);

impl SignedClaims {
    /// Checks `exp` and `nbf` (RFC 7519 sections 4.1.4 and 4.1.5) against `wall`, the time since
    /// the Unix epoch. `exp` must lie strictly in the future, without leeway, as the nginx/Lua
    /// incumbent has it.
    pub(super) fn current(self, wall: Duration) -> Result<VerifiedClaims, Error> {
        let Claims { exp, nbf, nfb, hash, .. } = self.0;
        let exp = exp.as_ref().and_then(numeric_date);
        let expires = exp.ok_or(Error::BadClaims)?.as_secs();
        if Duration::from_secs(expires) <= wall {
            return Err(Error::Expired);
        }
        if let Some(nbf) = nbf
            && numeric_date(&nbf).ok_or(Error::BadClaims)? > wall
        {
            return Err(Error::NotYetValid);
        }
        Ok(VerifiedClaims {
            hash: hash.ok_or(Error::MissingHash)?,
            expires,
            issued: nfb
                .as_ref()
                .and_then(Value::as_number)
                .and_then(numeric_date)
                .map(|issued| issued.as_secs()),
        })
    }
}

/// What is left for `jsonwebtoken` to validate: the algorithm, that `exp` is a number, and that
/// no `aud` addresses somebody else.
///
/// Its time checks are off because they read the system's clock, whereas our time is an argument;
/// they would also accept `exp == now` and round fractions up. [`SignedClaims::current`] replaces
/// them. The leeway, 60 s by default, is zeroed all the same.
static VALIDATION: LazyLock<Validation> = LazyLock::new(|| {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = 0;
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
});

/// The header members that matter. A derived struct refuses duplicates of them.
#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    enc: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
    #[serde(default, deserialize_with = "present")]
    jwk: bool,
    #[serde(default, deserialize_with = "present")]
    jku: bool,
    #[serde(default, deserialize_with = "present")]
    x5u: bool,
    #[serde(default, deserialize_with = "present")]
    x5c: bool,
}

impl Header {
    fn asks_for_more(&self) -> bool {
        let encrypted_or_critical = self.crit || self.enc || self.zip;
        let brings_its_key = self.jwk || self.jku || self.x5u || self.x5c;
        encrypted_or_critical || brings_its_key
    }
}

/// The claims of pyos's desktop token. A derived struct refuses duplicates, where a map would
/// silently keep the last.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "number")]
    exp: Option<Number>,
    #[serde(default, deserialize_with = "number")]
    nbf: Option<Number>,
    nfb: Option<Value>,
    hash: Option<String>,
    /// Without this, a JSON array would do for an object.
    #[serde(flatten)]
    _others: BTreeMap<String, IgnoredAny>,
}

/// True for a member that is there, whatever its value, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A number, and not `null` either: a time that is there must count.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Number>, D::Error> {
    Number::deserialize(deserializer).map(Some)
}

/// A NumericDate (RFC 7519 section 2) since the Unix epoch, fractions included; `None` before
/// 1970 and beyond what a `u64` of seconds holds.
fn numeric_date(number: &Number) -> Option<Duration> {
    match number.as_u64() {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => Duration::try_from_secs_f64(number.as_f64()?).ok(),
    }
}

fn in_alphabet(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests;

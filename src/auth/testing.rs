//! Keys, tokens and a fixed time for the tests of this room.
//!
//! Keys are made once per test run and shared.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rsa::PrivateKey;
use rsa::pkcs1::{EncodeRsaPrivateKey, EncodeRsaPublicKey};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};

use super::mint::Minter;
use super::{
    Authenticator, CacheLimits, Desktop, Error, KeyFile, Now, PayloadKeys, SigningKeys,
    TargetPolicy, Token, random,
};

pub(super) const DOMAIN: &str = "desktop.abcdesktop.svc.cluster.local";
pub(super) const NAME: &str = "alice-0b1c2d.desktop.abcdesktop.svc.cluster.local";
pub(super) const HEADER: &str = r#"{"typ":"JWT","alg":"RS256"}"#;
/// The tests' present, in Unix seconds.
pub(super) const NOW: u64 = 1_700_000_000;

/// One key in every PEM form.
pub(super) struct Pair {
    pub(super) key: PrivateKey,
    pub(super) pkcs1: String,
    pub(super) pkcs8: String,
    pub(super) public_pkcs1: String,
    pub(super) spki: String,
}

impl Pair {
    fn new(bits: usize) -> Self {
        let key = PrivateKey::new_unchecked(&mut random::system(), bits).unwrap();
        let public = key.to_public_key();
        Self {
            pkcs1: key.to_pkcs1_pem(LineEnding::LF).unwrap().to_string(),
            pkcs8: key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string(),
            public_pkcs1: public.to_pkcs1_pem(LineEnding::LF).unwrap(),
            spki: public.to_public_key_pem(LineEnding::LF).unwrap(),
            key,
        }
    }
}

macro_rules! pairs {
    ($($name:ident: $bits:literal),*) => {$(
        pub(super) fn $name() -> &'static Pair {
            static PAIR: OnceLock<Pair> = OnceLock::new();
            PAIR.get_or_init(|| Pair::new($bits))
        }
    )*};
}

pairs!(tiny: 512, signing: 1024, payload: 1024, stranger: 1024, medium: 2048, large: 4096);

pub(super) fn now() -> Now {
    Now { wall: Duration::from_secs(NOW), mono: Instant::now() }
}

pub(super) fn policy() -> TargetPolicy {
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
    TargetPolicy::new(Some(DOMAIN), networks.to_vec()).unwrap()
}

pub(super) fn file(pem: &str) -> KeyFile<'_> {
    KeyFile { name: "key.pem", pem: pem.as_bytes() }
}

pub(super) fn signing_keys(pem: &str) -> SigningKeys {
    SigningKeys::load(&[file(pem)], false).unwrap()
}

pub(super) fn payload_keys(pem: &str) -> PayloadKeys {
    PayloadKeys::load(&[file(pem)], false).unwrap()
}

pub(super) fn authenticator_of(signing_pem: &str, payload_pem: &str) -> Authenticator {
    Authenticator::new(
        signing_keys(signing_pem),
        payload_keys(payload_pem),
        policy(),
        CacheLimits { entries: 64 },
    )
}

/// Mode B, 1024 bits: the common installation.
pub(super) fn authenticator() -> Authenticator {
    authenticator_of(&signing().spki, &payload().pkcs8)
}

pub(super) fn minter() -> Minter {
    Minter::new(signing().pkcs8.as_bytes(), payload().public_pkcs1.as_bytes()).unwrap()
}

pub(super) fn sealed(target: &str) -> String {
    STANDARD.encode(minter().seal(target).unwrap())
}

pub(super) fn signed(header: &str, claims: &str) -> String {
    minter().sign(header, claims).unwrap()
}

/// `{header}.{claims}` before its signature.
pub(super) fn message(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}")
}

pub(super) fn claims(target: &str) -> String {
    let (hash, exp) = (sealed(target), NOW + 60);
    format!(r#"{{"key":0,"nfb":{NOW},"hash":"{hash}","exp":{exp}}}"#)
}

pub(super) fn token(target: &str) -> String {
    minter().mint(target, NOW, 60).unwrap()
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Authenticates without any memory of earlier calls.
pub(super) fn check(text: &str) -> Result<Desktop, Error> {
    check_at(text, now())
}

pub(super) fn check_at(text: &str, now: Now) -> Result<Desktop, Error> {
    run(authenticator().authenticate(Token::new(text)?, now)).map(|desktop| (*desktop).clone())
}

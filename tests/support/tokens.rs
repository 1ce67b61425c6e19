//! Desktop tokens, good ones as pyos makes them and bad ones made by hand.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use deskgate::auth::mint::{KeySet, Minter};
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::sha2::{Digest, Sha256, Sha512};
use rsa::{Pkcs1v15Sign, PrivateKey};
use serde_json::{Value, json};

/// A token's life where it does not matter.
pub(crate) const TTL: u64 = 420;

/// The keys of this run, which every gateway has unless it is told otherwise. Those of another
/// gateway come from the folder that the environment names.
pub(crate) fn keys() -> &'static KeySet {
    static KEYS: OnceLock<KeySet> = OnceLock::new();
    KEYS.get_or_init(|| match std::env::var_os("CONFORMANCE_KEYS") {
        Some(folder) => read_keys(Path::new(&folder)),
        None => KeySet::generate(1024).unwrap(),
    })
}

/// The six files of a running installation.
fn read_keys(folder: &Path) -> KeySet {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    KeySet {
        payload_private: read(KeySet::PAYLOAD_PRIVATE).into(),
        payload_public: read(KeySet::PAYLOAD_PUBLIC),
        signing_private: read(KeySet::SIGNING_PRIVATE).into(),
        signing_public: read(KeySet::SIGNING_PUBLIC),
        user_signing_private: read(KeySet::USER_SIGNING_PRIVATE).into(),
        user_signing_public: read(KeySet::USER_SIGNING_PUBLIC),
    }
}

/// Keys of the same form that no gateway knows.
pub(crate) fn foreign_keys() -> &'static KeySet {
    static KEYS: OnceLock<KeySet> = OnceLock::new();
    KEYS.get_or_init(|| KeySet::generate(1024).unwrap())
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Makes tokens as released pyos does.
pub(crate) fn minter(keys: &KeySet) -> Minter {
    Minter::new(keys.signing_private.as_bytes(), keys.payload_public.as_bytes()).unwrap()
}

/// A good token for a pod.
pub(crate) fn valid(pod: &str) -> String {
    minter(keys()).mint(pod, now(), TTL).unwrap()
}

pub(crate) fn expired(pod: &str) -> String {
    minter(keys()).mint(pod, now() - TTL, TTL - 1).unwrap()
}

/// Good in everything but the keys.
pub(crate) fn foreign(pod: &str) -> String {
    minter(foreign_keys()).mint(pod, now(), TTL).unwrap()
}

/// The claims of a token.
pub(crate) fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

/// A good token's claims with members replaced, or removed by `null`.
pub(crate) fn claims_with(pod: &str, changes: Value) -> Value {
    let mut claims = claims(&valid(pod));
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// Any header and claims with a true signature of our signing key.
pub(crate) fn signed(header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let pem = &keys().signing_private;
    let key = PrivateKey::from_pkcs8_pem(pem).or_else(|_| PrivateKey::from_pkcs1_pem(pem));
    let key = key.unwrap();
    let signature = match header["alg"].as_str() {
        Some("RS512") => key.sign(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(&message)),
        _ => key.sign(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(&message)),
    };
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.unwrap()))
}

pub(crate) fn rs256() -> Value {
    json!({"typ": "JWT", "alg": "RS256"})
}

/// Our claims, signed as RS256, with changes.
pub(crate) fn with(pod: &str, changes: Value) -> String {
    signed(&rs256(), &claims_with(pod, changes))
}

/// The classic confusion: an HMAC whose secret is the public key's text.
pub(crate) fn hs256_by_public_key(pod: &str) -> String {
    let message = message(&json!({"typ": "JWT", "alg": "HS256"}), &claims(&valid(pod)));
    let key = hmac::Key::new(hmac::HMAC_SHA256, keys().signing_public.as_bytes());
    let tag = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// Any header with this text as its signature.
pub(crate) fn unsigned(header: &Value, pod: &str, signature: &str) -> String {
    format!("{}.{signature}", message(header, &claims(&valid(pod))))
}

/// A good token of one pod with the signature of another.
pub(crate) fn tampered(pod: &str, other: &str) -> String {
    let (claims, signature) = (valid(pod), valid(other));
    let (message, _) = claims.rsplit_once('.').unwrap();
    format!("{message}.{}", signature.rsplit('.').next().unwrap())
}

/// `hash` of a good token, and its bytes.
pub(crate) fn seal(pod: &str) -> (String, Vec<u8>) {
    let text = claims(&valid(pod))["hash"].as_str().unwrap().to_owned();
    let bytes = STANDARD.decode(&text).unwrap();
    (text, bytes)
}

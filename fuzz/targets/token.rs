//! The whole way of a token: nothing but an authentic one opens a desktop.
//!
//! Input: a letter, then
//! `t` a token's text; `e` edits of a valid token, three bytes each; `c` a header and, after a
//! newline, claims, which get an authentic signature (`HASH` stands for a good hash); `s` a target
//! to seal.
#![no_main]

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deskgate_fuzz::auth::mint::{KeySet, Minter};
use deskgate_fuzz::auth::{
    Authenticator, CacheLimits, Desktop, Error, KeyFile, Now, PayloadKeys, SigningKeys,
    TargetPolicy, Token,
};
use libfuzzer_sys::fuzz_target;
use rsa::pkcs8::DecodePrivateKey;
use rsa::sha2::{Digest, Sha256};
use rsa::{Pkcs1v15Sign, PrivateKey};

const NOW: u64 = 1_700_000_000;
const DOMAIN: &str = "desktop.abcdesktop.svc.cluster.local";
const NAME: &str = "alice-0b1c2d.desktop.abcdesktop.svc.cluster.local";
/// Base64url's, in the order of its values.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// One installation in both modes.
struct Fixture {
    signing: PrivateKey,
    policy: TargetPolicy,
    modes: [Mode; 2],
    now: Now,
    /// A good `hash` for the first mode.
    hash: String,
}

struct Mode {
    minter: Minter,
    gateway: Authenticator,
    valid: String,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let keys = KeySet::generate(1024).unwrap();
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
    let policy = TargetPolicy::new(Some(DOMAIN), networks.to_vec()).unwrap();
    let file = |pem: &str| [KeyFile { name: "key.pem", pem: pem.to_owned().leak().as_bytes() }];
    let mode = |sealing: &str, opening: &str| {
        let minter = Minter::new(keys.signing_private.as_bytes(), sealing.as_bytes()).unwrap();
        let gateway = Authenticator::new(
            SigningKeys::load(&file(&keys.signing_public), false).unwrap(),
            PayloadKeys::load(&file(opening), false).unwrap(),
            policy.clone(),
            CacheLimits { entries: 64 },
        );
        let valid = minter.mint(NAME, NOW, 60).unwrap();
        Mode { minter, gateway, valid }
    };
    let modes = [
        mode(&keys.payload_public, &keys.payload_private),
        mode(&keys.payload_private, &keys.payload_public),
    ];
    let claims = URL_SAFE_NO_PAD.decode(modes[0].valid.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    Fixture {
        signing: PrivateKey::from_pkcs8_pem(&keys.signing_private).unwrap(),
        policy,
        now: Now { wall: Duration::from_secs(NOW), mono: Instant::now() },
        hash: claims["hash"].as_str().unwrap().to_owned(),
        modes,
    }
});

fuzz_target!(|data: &[u8]| {
    let fixture = &*FIXTURE;
    let Some((kind, input)) = deskgate_fuzz::seed(data).split_first() else { return };
    match kind {
        b't' => tampered(fixture, &String::from_utf8_lossy(input)),
        b'e' => tampered(fixture, &edited(&fixture.modes[0].valid, input)),
        b'c' => signed(fixture, input),
        b's' => sealed(fixture, &String::from_utf8_lossy(input)),
        _ => {}
    }
});

/// A text that nobody signed is refused, unless the edits left the valid token as it was.
fn tampered(fixture: &Fixture, text: &str) {
    for mode in &fixture.modes {
        if let Ok(desktop) = judged(fixture, mode, text) {
            assert!(text == fixture.modes[0].valid, "a forgery opens a desktop: {text}");
            assert_eq!(desktop.target.name().map(|name| name.as_str()), Some(NAME));
            assert_eq!((desktop.expires, desktop.issued), (NOW + 60, Some(NOW)));
        }
    }
}

/// Authentic claims of any content open at most what the hash in them names, and not for ever.
fn signed(fixture: &Fixture, input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let (header, claims) = input.split_once('\n').unwrap_or((r#"{"alg":"RS256"}"#, &input));
    let claims = claims.replace("HASH", &fixture.hash);
    let [head, body] = [header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = format!("{head}.{body}");
    let digest = Sha256::digest(&message);
    let signature = fixture.signing.sign(Pkcs1v15Sign::new::<Sha256>(), &digest).unwrap();
    let text = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    if let Ok(desktop) = judged(fixture, &fixture.modes[0], &text) {
        assert_eq!(desktop.target.name().map(|name| name.as_str()), Some(NAME), "{claims}");
        assert!(desktop.expires > NOW, "{claims}");
        let header: serde_json::Value = serde_json::from_str(header).unwrap();
        assert_eq!(header["alg"], "RS256", "{header}");
        assert!(header.get("crit").is_none(), "{header}");
    }
}

/// A sealed target opens exactly if the policy permits it, whatever the mode.
fn sealed(fixture: &Fixture, target: &str) {
    for mode in &fixture.modes {
        let Ok(text) = mode.minter.mint(target, NOW, 60) else { continue };
        let opened = judged(fixture, mode, &text).map(|desktop| desktop.target.clone());
        let permitted = fixture.policy.confine(target.as_bytes());
        assert_eq!(opened.ok(), permitted.ok(), "{target:?}");
    }
}

/// The verdict, which is the same the second time and when it is explained.
fn judged(fixture: &Fixture, mode: &Mode, text: &str) -> Result<Arc<Desktop>, Error> {
    let verdict = authenticated(mode, text, fixture.now);
    assert_eq!(authenticated(mode, text, fixture.now), verdict, "the cache disagrees on {text}");
    let steps = mode.gateway.explain(text, fixture.now);
    // It takes white space and the scheme away first.
    if text.trim() == text && !text.starts_with("Bearer ") {
        let last = steps.last().and_then(|step| step.outcome.clone().err());
        assert_eq!(last, verdict.as_ref().err().copied(), "explained otherwise: {text}");
    }
    if let Err(error) = &verdict {
        assert!(!error.to_string().is_empty() && !error.reason().is_empty());
    }
    verdict
}

/// Runs the future, which waits only for other threads, and there are none.
fn authenticated(mode: &Mode, text: &str, now: Now) -> Result<Arc<Desktop>, Error> {
    let mut future = pin!(mode.gateway.authenticate(Token::new(text)?, now));
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("nobody to wait for"),
    }
}

/// Edits of three bytes each: what to do, at which place, with which byte.
fn edited(valid: &str, edits: &[u8]) -> String {
    let mut text = valid.as_bytes().to_vec();
    for edit in edits.chunks_exact(3).take(16) {
        let [what, place, byte] = [edit[0], edit[1], edit[2]];
        // One place in each half: a byte counts from the front or from the back.
        let place = usize::from(place & 0x7f) * if what & 8 == 0 { 1 } else { 3 };
        let at = if edit[1] < 0x80 { place } else { text.len().saturating_sub(1 + place) };
        let at = at.min(text.len());
        match what & 7 {
            0 => text.truncate(at),
            1 => text.insert(at, byte),
            2 => drop(text.splice(at..(at + 1).min(text.len()), [])),
            3 => text.extend_from_slice(&valid.as_bytes()[at.min(valid.len())..]),
            4 => text.rotate_left(at),
            // Some bits of one character, such as those that a lenient decoder drops.
            5 => text.iter_mut().skip(at).take(1).for_each(|old| {
                let value = ALPHABET.iter().position(|known| known == old).unwrap_or_default();
                *old = ALPHABET[(value ^ usize::from(byte)) & 63];
            }),
            _ => text.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

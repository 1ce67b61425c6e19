//! The tokens that rows name: good ones and every way to be a bad one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::pods;
use crate::support::tokens;

/// The pod's name that the gateway's table of hosts knows.
pub(super) const FQDN: &str = "pod.desktop.abcdesktop.svc.cluster.local";

/// Each placeholder and its token.
pub(super) fn all() -> Vec<(&'static str, String)> {
    let mut all = good();
    all.extend(bad_claims());
    all.extend(bad_forms());
    all.extend(targets());
    all
}

fn good() -> Vec<(&'static str, String)> {
    let [pod, other] = pods();
    let now = tokens::now();
    let with = |changes| tokens::with(pod, changes);
    let header = |header| tokens::signed(&header, &tokens::claims_with(pod, json!({})));
    vec![
        ("TOKEN_A", tokens::valid(pod)),
        ("TOKEN_B", tokens::valid(other)),
        ("EXP_FLOAT", with(json!({"exp": now as f64 + 300.5}))),
        ("NFB_FUTURE", with(json!({"nfb": now + 5000}))),
        ("NO_NFB", with(json!({"nfb": null}))),
        ("NBF_PAST", with(json!({"nbf": 1}))),
        ("EXTRA_CLAIMS", with(json!({"iss": "x", "jti": ["y"]}))),
        ("HASH_UNPADDED", with(json!({"hash": tokens::seal(pod).0.trim_end_matches('=')}))),
        ("KID", header(json!({"typ": "JWT", "alg": "RS256", "kid": "1"}))),
        ("NO_TYP", header(json!({"alg": "RS256"}))),
    ]
}

fn bad_claims() -> Vec<(&'static str, String)> {
    let [pod, _] = pods();
    let now = tokens::now();
    let with = |changes| tokens::with(pod, changes);
    let (hash, _) = tokens::seal(pod);
    let (start, end) = hash.split_at(40);
    vec![
        ("EXPIRED", tokens::expired(pod)),
        ("EXP_NOW", with(json!({"exp": now}))),
        ("EXP_STRING", with(json!({"exp": (now + 300).to_string()}))),
        ("NO_EXP", with(json!({"exp": null}))),
        ("NBF_FUTURE", with(json!({"nbf": now + 5000}))),
        ("NO_HASH", with(json!({"hash": null}))),
        ("HASH_NUMBER", with(json!({"hash": 1}))),
        ("HASH_EMPTY", with(json!({"hash": ""}))),
        ("HASH_GARBAGE", with(json!({"hash": "!!!"}))),
        ("HASH_NEWLINE", with(json!({"hash": format!("{start}\n{end}")}))),
        ("HASH_URLSAFE", with(json!({"hash": url_safe_hash()}))),
        ("HASH_UNDECRYPTABLE", with(json!({"hash": STANDARD.encode([7; 128])}))),
    ]
}

/// A seal whose text differs between the two alphabets of base64.
fn url_safe_hash() -> String {
    loop {
        let (hash, _) = tokens::seal(pods()[0]);
        if hash.contains(['+', '/']) {
            return hash.replace('+', "-").replace('/', "_");
        }
    }
}

fn bad_forms() -> Vec<(&'static str, String)> {
    let [pod, other] = pods();
    let valid = tokens::valid(pod);
    let (message, _) = valid.rsplit_once('.').unwrap();
    let header = |header| tokens::signed(&header, &tokens::claims_with(pod, json!({})));
    let algorithm = |name| header(json!({"typ": "JWT", "alg": name}));
    let enc = json!({"typ": "JWT", "alg": "RS256", "enc": "A256GCM"});
    vec![
        ("FOREIGN", tokens::foreign(pod)),
        ("TAMPERED", tokens::tampered(pod, other)),
        ("PADDED", format!("{valid}=")),
        ("TWO_PARTS", message.to_owned()),
        ("NOT_JSON", format!("eyJ4.eyJ4.{}", "x".repeat(171))),
        ("SIGNATURE_CUT", valid[..valid.len() - 4].to_owned()),
        ("LONG", format!("eyJ{}.x.x", "x".repeat(9000))),
        ("ALG_NONE", tokens::unsigned(&json!({"typ": "JWT", "alg": "none"}), pod, "")),
        ("HS256", tokens::hs256_by_public_key(pod)),
        ("RS512", algorithm("RS512")),
        ("RS384", algorithm("RS384")),
        ("PS256", algorithm("PS256")),
        ("ENC", tokens::unsigned(&enc, pod, "")),
        ("ENC_SIGNED", header(enc)),
        ("CRIT", header(json!({"typ": "JWT", "alg": "RS256", "crit": ["x"], "x": 1}))),
    ]
}

fn targets() -> Vec<(&'static str, String)> {
    let mint = |target: &str| {
        tokens::minter(tokens::keys()).mint(target, tokens::now(), tokens::TTL).unwrap()
    };
    let [pod, _] = pods();
    vec![
        ("FQDN", mint(FQDN)),
        ("FQDN_DOT", mint(&format!("{FQDN}."))),
        ("FQDN_UPPER", mint(&FQDN.to_ascii_uppercase())),
        ("TARGET_EMPTY", mint("")),
        ("TARGET_PORT", mint(&format!("{pod}:8080"))),
        ("TARGET_PATH", mint(&format!("{pod}/evil?x="))),
        ("TARGET_USERINFO", mint(&format!("user@{pod}"))),
        ("TARGET_PUBLIC", mint("203.0.113.9")),
        ("TARGET_SERVICE", mint("kubernetes.default.svc.cluster.local")),
        ("TARGET_DEEPER", mint(&format!("a.{FQDN}"))),
        ("TARGET_V6", mint("::1")),
        ("TARGET_V6_BRACKETS", mint("[::1]")),
        ("TARGET_CLOSED", mint("127.0.0.9")),
        ("TARGET_NXDOMAIN", mint("gone.desktop.abcdesktop.svc.cluster.local")),
    ]
}

//! The rotation of a signing key as docs/operate.md tells it, step by step, and nobody is logged out.

use std::net::SocketAddr;
use std::path::Path;

use deskgate::auth::mint::KeySet;

use crate::support::{PODS, Site, echo, eventually, free_port, raw, tokens};

/// Tokens that each key has verified or opened, by kind and in the order of the keys.
fn used(admin: SocketAddr) -> Vec<(String, u64)> {
    let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = raw(admin, head).unwrap().text();
    let lines = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("deskgate_key_tokens_verified_total{kind=\"")?;
        let (kind, rest) = rest.split_once("\",key=\"")?;
        let (key, count) = rest.split_once("\"} ")?;
        Some((format!("{kind} {key}"), count.parse().unwrap()))
    });
    lines.collect()
}

/// Puts a file in the place of another, as a mounted Secret changes.
fn replace(path: &Path, parts: &[&str]) {
    let new = path.with_extension("new");
    std::fs::write(&new, parts.concat()).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn text(keys: &KeySet, wanted: &str) -> String {
    let mut files = keys.files().into_iter();
    files.find(|(name, _)| *name == wanted).map(|(_, text)| text.to_string()).unwrap()
}

#[test]
fn a_signing_key_is_rotated_and_nobody_is_logged_out() {
    let folder = tempfile::TempDir::new().unwrap();
    let (old, next) = (tokens::keys(), KeySet::generate(2048).unwrap());
    let signing = folder.path().join("signing.pem");
    let payload = folder.path().join("payload.pem");
    let (first, second) = (text(old, KeySet::SIGNING_PUBLIC), text(&next, KeySet::SIGNING_PUBLIC));
    replace(&signing, &[&first]);
    let opens = [text(old, KeySet::PAYLOAD_PRIVATE), text(&next, KeySet::PAYLOAD_PRIVATE)];
    replace(&payload, &[&opens[0], &opens[1]]);
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::configured_serving(
        &format!(
            "[auth]\nsigning_keys = [{signing:?}]\npayload_keys = [{payload:?}]\n\
             [admin]\nlisten = [\"{admin}\"]\n"
        ),
        |exchange| match exchange.header("upgrade") {
            Some(_) => echo(exchange),
            None => exchange.answer("200 OK", "", "the pod"),
        },
    );
    let status = |token: &str| site.get("/filer", &format!("ABCAuthorization: {token}\r\n")).status;
    let old_token = |n: u64| tokens::minter(old).mint(PODS[1], tokens::now(), tokens::TTL + n);
    let next_token = |n: u64| tokens::minter(&next).mint(PODS[1], tokens::now(), tokens::TTL + n);
    let mut socket = site.websocket(&format!("/websockify?{}", old_token(0).unwrap()));
    let mut works = || {
        socket.send("still".into()).unwrap();
        assert_eq!(socket.read().unwrap(), "still".into());
    };
    works();
    assert_eq!((status(&old_token(1).unwrap()), status(&next_token(1).unwrap())), (200, 401));
    let count = |kind: &str, at: usize| {
        let mut keys = used(admin).into_iter().filter(|(name, _)| name.starts_with(kind));
        keys.nth(at).map(|(_, count)| count)
    };
    assert_eq!((count("signing", 0), count("signing", 1)), (Some(2), None));

    // The edge learns the new key beside the old one: both open desktops.
    replace(&signing, &[&first, &second]);
    eventually("the new key", || (status(&next_token(2).unwrap()) == 200).then_some(()));
    assert_eq!(status(&old_token(2).unwrap()), 200);
    // It goes on counting where it was.
    assert_eq!((count("signing", 0), count("signing", 1)), (Some(3), Some(1)));
    assert_eq!((count("payload", 0), count("payload", 1)), (Some(3), Some(1)));
    works();

    // pyos signs with the new key: the old one's number stands still.
    for n in 3..8 {
        assert_eq!(status(&next_token(n).unwrap()), 200);
    }
    assert_eq!((count("signing", 0), count("signing", 1)), (Some(3), Some(6)));

    // So the old one is safe to remove.
    replace(&signing, &[&second]);
    eventually("the old key is gone", || (status(&old_token(9).unwrap()) == 401).then_some(()));
    assert_eq!(status(&next_token(9).unwrap()), 200);
    assert_eq!((count("signing", 0), count("signing", 1)), (Some(7), None));
    works();
}

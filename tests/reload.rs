use std::os::unix::fs::symlink;
use std::path::Path;

use deskgate::auth::mint::KeySet;

use crate::support::{Gateway, PODS, Site, eventually, tokens, write_keys};

const TEXT: &str = "[[route]]\nname = \"word\"\nmatch = { exact = \"/word\" }\nbackend = ";

fn word(text: &str) -> String {
    format!("{TEXT}{{ text = \"{text}\" }}\n")
}

fn said(gateway: &Gateway) -> String {
    let request = "GET /word HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    crate::support::raw(gateway.address(), request).unwrap().text()
}

#[test]
fn a_signal_takes_a_new_file_into_use() {
    let gateway = Gateway::start(&word("old"));
    assert_eq!(said(&gateway), "old");
    gateway.reconfigure(&word("new"));
    gateway.signal("HUP");
    gateway.wait_for_line("configuration reloaded");
    assert_eq!(said(&gateway), "new");
}

#[test]
fn a_changed_file_is_noticed_without_a_signal() {
    let gateway = Gateway::start(&word("old"));
    gateway.reconfigure(&word("new"));
    eventually("the new text", || (said(&gateway) == "new").then_some(()));
}

#[test]
fn a_bad_file_is_refused_whole_and_told_with_its_line() {
    let gateway = Gateway::start(&word("old"));
    gateway.reconfigure(&format!("{}\n[listen]\nkeepalive = \"soon\"\n", word("new")));
    gateway.signal("HUP");
    let line = gateway.wait_for_line("configuration refused");
    assert!(line.contains("listen.keepalive: "), "{line}");
    assert!(line.contains("deskgate.toml:"), "{line}");
    assert_eq!(said(&gateway), "old");
    gateway.reconfigure(&word("newer"));
    eventually("the next text", || (said(&gateway) == "newer").then_some(()));
}

#[test]
fn what_only_a_start_can_change_is_told() {
    let gateway = Gateway::start(&word("old"));
    gateway.reconfigure(&format!("[server]\nthreads = 1\n{}", word("new")));
    gateway.signal("HUP");
    gateway.wait_for_line("server.threads");
    gateway.wait_for_line("configuration reloaded");
    assert_eq!(said(&gateway), "new");
}

/// Key files as the kubelet mounts a Secret: links through `..data`, which is swapped.
fn mount(folder: &Path, generation: &str, keys: &KeySet) {
    let data = folder.join(generation);
    std::fs::create_dir_all(&data).unwrap();
    write_keys(&data, keys);
    let link = folder.join("..new");
    symlink(&data, &link).unwrap();
    std::fs::rename(link, folder.join("..data")).unwrap();
}

#[test]
fn keys_are_rotated_through_the_link_of_a_mounted_secret() {
    let mounted = tempfile::TempDir::new().unwrap();
    let fresh = KeySet::generate(2048).unwrap();
    mount(mounted.path(), "one", tokens::keys());
    for name in [KeySet::SIGNING_PUBLIC, KeySet::PAYLOAD_PRIVATE] {
        symlink(Path::new("..data").join(name), mounted.path().join(name)).unwrap();
    }
    let site = Site::configured(&format!(
        "[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n",
        mounted.path().join(KeySet::SIGNING_PUBLIC),
        mounted.path().join(KeySet::PAYLOAD_PRIVATE),
    ));
    let status = |token: &str| site.get("/filer", &format!("ABCAuthorization: {token}\r\n")).status;
    let old = tokens::valid(PODS[1]);
    let new = tokens::minter(&fresh).mint(PODS[1], tokens::now(), tokens::TTL).unwrap();
    assert_eq!((status(&old), status(&new)), (200, 401));
    mount(mounted.path(), "two", &fresh);
    eventually("the new keys", || (status(&new) == 200).then_some(()));
    assert_eq!(status(&old), 401);
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use deskgate::auth::mint::KeySet;
use tempfile::TempDir;

use crate::support::{PODS, Site, echo, raw, tokens, write_keys};

/// Threads of a process.
fn threads(site: &Site) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", site.gateway.pid())).unwrap().count()
}

#[test]
fn costly_tokens_are_opened_beside_the_worker_and_its_tunnels_go_on() {
    const CLIENTS: usize = 4;
    const EACH: usize = 50;
    let keys = KeySet::generate(2048).unwrap();
    let folder = TempDir::new().unwrap();
    write_keys(folder.path(), &keys);
    let path = |name: &str| folder.path().join(name);
    let site = Site::configured_serving(
        &format!(
            "[server]\nthreads = 1\n[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n",
            path(KeySet::SIGNING_PUBLIC),
            path(KeySet::PAYLOAD_PRIVATE)
        ),
        |exchange| match exchange.header("upgrade") {
            Some(_) => echo(exchange),
            None => exchange.answer("200 OK", "", "served"),
        },
    );
    let minter = tokens::minter(&keys);
    let token = || minter.mint(PODS[0], tokens::now(), tokens::TTL).unwrap();
    let before = threads(&site);
    let mut socket = site.websocket(&format!("/websockify?{}", token()));
    let served = AtomicUsize::new(0);
    let all: Vec<Vec<String>> =
        (0..CLIENTS).map(|_| (0..EACH).map(|_| token()).collect()).collect();
    thread::scope(|scope| {
        let (site, served) = (&site, &served);
        for mine in &all {
            scope.spawn(move || {
                for token in mine {
                    let head = format!(
                        "GET /filer HTTP/1.1\r\nHost: x\r\nABCAuthorization: {token}\r\n\r\n"
                    );
                    assert_eq!(raw(site.address(), head).unwrap().text(), "served");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while served.load(Ordering::SeqCst) < CLIENTS * EACH {
            socket.send("still".into()).unwrap();
            assert_eq!(socket.read().unwrap(), "still".into());
        }
    });
    // One worker, and beside it whoever opened the seals.
    assert!(threads(&site) > before, "nobody but the worker has opened them");
}

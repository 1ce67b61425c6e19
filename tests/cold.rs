use std::fs;
use std::thread;

use deskgate::auth::mint::KeySet;
use tempfile::TempDir;

use crate::support::{PODS, Site, echo, eventually, raw, tokens, write_keys};

/// Number of the policy of threads that yield to all others.
const SCHED_IDLE: u32 = 5;

/// Scheduling policies (sched(7)) of the gateway's threads of this name.
fn policies(site: &Site, name: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", site.gateway.pid())).unwrap();
    // A thread may end while they are read.
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let policy = |stat: String| {
        let (before, after) = stat.rsplit_once(") ")?;
        // The 41st field; the third comes first here.
        let policy = after.split(' ').nth(38)?.parse().ok()?;
        before.ends_with(&format!("({name}")).then_some(policy)
    };
    stats.filter_map(policy).collect()
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
    assert!(policies(&site, "seals").is_empty());
    let mut socket = site.websocket(&format!("/websockify?{}", token()));
    let all: Vec<Vec<String>> =
        (0..CLIENTS).map(|_| (0..EACH).map(|_| token()).collect()).collect();
    thread::scope(|scope| {
        let site = &site;
        let ask = move |token: &str| {
            let head =
                format!("GET /filer HTTP/1.1\r\nHost: x\r\nABCAuthorization: {token}\r\n\r\n");
            assert_eq!(raw(site.address(), head).unwrap().text(), "served");
        };
        let clients: Vec<_> = all
            .iter()
            .map(|mine| scope.spawn(move || mine.iter().for_each(|token| ask(token))))
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            socket.send("still".into()).unwrap();
            assert_eq!(socket.read().unwrap(), "still".into());
        }
    });
    // A thread that has just begun does not yield yet.
    eventually("not only the worker has opened them, and who else has yields", || {
        let policies = policies(&site, "seals");
        let yields = policies.iter().all(|policy| *policy == SCHED_IDLE);
        (yields && !policies.is_empty()).then_some(())
    });
}

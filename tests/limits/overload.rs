use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use tokio_tungstenite::tungstenite::Message;

use super::{Watched, answer_or_echo, refusal};
use crate::support::{Client, Gateway, Origin, Site, eventually, raw};

/// Writes the memory files of a cgroup that uses this share of its limit, in percent.
fn use_memory(cgroup: &Path, percent: u64) {
    let limit = 1_u64 << 30;
    // Page cache that can be dropped counts for nothing.
    let cache = 100 << 20;
    if !cgroup.join("memory.max").exists() {
        fs::write(cgroup.join("memory.max"), format!("{limit}\n")).unwrap();
        fs::write(cgroup.join("memory.stat"), format!("anon 1\ninactive_file {cache}\n")).unwrap();
    }
    // Never half written, as the kernel's are not.
    let new = cgroup.join("new");
    fs::write(&new, format!("{}\n", limit * percent / 100 + cache)).unwrap();
    fs::rename(new, cgroup.join("memory.current")).unwrap();
}

#[test]
fn as_memory_runs_out_new_work_is_refused_and_desktops_live_on() {
    let cgroup = tempfile::TempDir::new().unwrap();
    use_memory(cgroup.path(), 50);
    let watched = Watched::start(&format!("[overload]\ncgroup = {:?}\n", cgroup.path()));
    let site = &watched.site;
    let at = |percent, level| {
        use_memory(cgroup.path(), percent);
        watched.until("deskgate_pressure", level);
    };
    let mut desktop = site.websocket(&Site::screen());
    let mut lives = || {
        desktop.send(Message::binary(vec![7; 100_000])).unwrap();
        assert_eq!(desktop.read().unwrap().len(), 100_000);
    };
    let upgrade = || raw(site.address(), Site::upgrade(&Site::screen())).unwrap();
    lives();

    at(82, 1.0);
    assert_eq!(refusal(&upgrade()), (503, "overload_tunnels".to_owned(), 10));
    assert_eq!(site.get("/API/x", "").status, 200);
    lives();
    assert_eq!(watched.metric("deskgate_memory_limit_bytes"), Some((1_u64 << 30) as f64));

    at(91, 2.0);
    lives();

    at(96, 3.0);
    let answer = site.client().ask("GET /API/x HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));

    at(99, 4.0);
    assert_eq!(refusal(&site.get("/API/y", "")), (503, "overload_requests".to_owned(), 10));
    assert_eq!(site.get("/healthz", "").status, 200);
    lives();
    site.gateway.wait_for_line("memory is short");

    // Just below the share at which it began, a level lasts.
    at(95, 4.0);
    at(78, 1.0);
    assert_eq!(upgrade().status, 503);
    at(60, 0.0);
    assert_eq!(upgrade().status, 101);
    site.gateway.wait_for_line("memory suffices again");
    assert_eq!(watched.refused("overload_tunnels"), 2.0);
}

#[test]
fn the_older_kind_of_cgroup_is_read_as_well() {
    let cgroup = tempfile::TempDir::new().unwrap();
    fs::write(cgroup.path().join("memory.limit_in_bytes"), "1000\n").unwrap();
    fs::write(cgroup.path().join("memory.usage_in_bytes"), "999\n").unwrap();
    fs::write(cgroup.path().join("memory.stat"), "total_inactive_file 100\n").unwrap();
    let watched = Watched::start(&format!("[overload]\ncgroup = {:?}\n", cgroup.path()));
    watched.until("deskgate_pressure", 1.0);
    assert_eq!(watched.metric("deskgate_memory_used_bytes"), Some(899.0));
}

#[test]
fn without_descriptors_clients_are_told_and_served_again_when_there_are_some() {
    let gateway = Gateway::with_descriptors("", 80);
    let mut held: Vec<Client> = Vec::new();
    // Idle connections until there is no descriptor left.
    let refused = eventually("no descriptor", || {
        let mut client = Client::connect(gateway.address());
        client.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = client.response();
        if answer.status == 200 {
            held.push(client);
            return None;
        }
        Some(answer)
    });
    assert_eq!(refusal(&refused), (503, "descriptors".to_owned(), 2));
    assert!(held.len() > 20, "{}", held.len());
    // And so is everybody who comes after, at whichever worker; but one may get the descriptor that
    // the gateway had for a file at the moment of the first refusal, and hears nothing.
    let mut spare = 1;
    for _ in 0..10 {
        let mut client = Client::connect(gateway.address());
        match client.try_response("GET") {
            Err(error) if spare > 0 && error.kind() == ErrorKind::WouldBlock => {
                spare -= 1;
                held.push(client);
            }
            answer => {
                assert_eq!(refusal(&answer.unwrap()), (503, "descriptors".to_owned(), 2));
            }
        }
    }
    gateway.wait_for_line("no connection can be accepted");
    gateway.wait_for_line("\"reason\":\"descriptors\"");
    // Who is connected is served.
    let last = held.last_mut().unwrap();
    assert_eq!(last.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
    drop(held);
    eventually("service", || {
        let ask = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        raw(gateway.address(), ask).ok().filter(|answer| answer.status == 200).map(drop)
    });
}

#[test]
fn without_descriptors_a_request_that_needs_another_is_told_to_come_again() {
    let pyos = Origin::start(answer_or_echo);
    let at = pyos.address();
    let toml = format!("[upstreams.pyos]\nhost = \"{}\"\nport = {}\n", at.ip(), at.port());
    let gateway = Gateway::with_descriptors(&toml, 80);
    let mut held = Vec::new();
    eventually("no descriptor", || {
        let mut client = Client::connect(gateway.address());
        let served = client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status == 200;
        held.push(client);
        (!served).then_some(())
    });
    held.pop();
    // Each takes a descriptor to pyos and keeps it.
    for client in &mut held {
        client.send("POST /API/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n");
    }
    gateway.wait_for_line("\"reason\":\"exhausted\"");
    for client in &mut held {
        drop(client.stream().write_all(b"body"));
    }
    let answers: Vec<_> = held.iter_mut().map(Client::response).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    for answer in &refused {
        assert_eq!(refusal(answer), (503, "exhausted".to_owned(), 2), "{answer:?}");
    }
    assert!(!refused.is_empty());
    assert_eq!(pyos.seen().len(), answers.len() - refused.len());
    drop(held);
    let ask = "GET /API/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    eventually("service", || {
        raw(gateway.address(), ask).ok().filter(|answer| answer.status == 200).map(drop)
    });
}

#[test]
fn small_reads_carry_everything() {
    let cgroup = tempfile::TempDir::new().unwrap();
    use_memory(cgroup.path(), 50);
    let toml = format!("[overload]\ncgroup = {:?}\n", cgroup.path());
    let site = Site::configured_serving(&toml, answer_or_echo);
    let mut socket = site.websocket(&Site::screen());
    use_memory(cgroup.path(), 93);
    site.gateway.wait_for_line("small_buffers");
    let message = Message::binary(crate::support::noise(8 << 20));
    socket.send(message.clone()).unwrap();
    assert!(socket.read().unwrap() == message);
}

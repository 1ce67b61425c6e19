use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::rig::{
    BINARY, CLOSE, Held, LATE, Program, Rig, TEXT, masked, plain, read_frame, reset_at_drop,
    screen, source, tool, with_port,
};
use crate::support::{
    Client, Gateway, PODS, Site, eventually, free_port, noise, pod_listeners, raw,
};

/// Runs `act` and waits for the other side's end: well before a ping could have been missed.
fn ends(what: &str, act: impl FnOnce()) {
    let begun = Instant::now();
    act();
    assert!(begun.elapsed() < LATE, "{what}: {:?}", begun.elapsed());
}

fn python_pod() -> (Program, Gateway) {
    let (listeners, port) = pod_listeners();
    drop(listeners);
    let mut command = Command::new(tool("venv/bin/python"));
    command.arg(source("peer.py")).args(["pod", PODS[0], &port.to_string()]);
    let pod = Program::start("pod", &mut command);
    assert_eq!(pod.line(LATE * 5), "ready");
    (pod, Gateway::start(&with_port("", port)))
}

fn upgraded(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.address());
    client.send(Site::upgrade(&Site::screen()));
    assert_eq!(client.head().unwrap().status, 101);
    client.send(masked(TEXT, b"there?"));
    assert_eq!(read_frame(&mut client.from).unwrap().payload, b"there?");
    client
}

#[test]
fn a_pod_s_process_that_is_killed_ends_its_tunnels() {
    let (mut pod, gateway) = python_pod();
    let before = gateway.descriptors();
    let mut clients: Vec<_> = (0..5).map(|_| upgraded(&gateway)).collect();
    pod.kill();
    ends("the clients", || {
        for client in &mut clients {
            assert_eq!(client.rest(), b"");
        }
    });
    drop(clients);
    let ends = || Some(gateway.access("/websockify")).filter(|lines| lines.len() == 5);
    for line in eventually("all have ended", ends) {
        assert_eq!(line["reason"], "pod_close", "{line}");
    }
    eventually("the descriptors are back", || (gateway.descriptors() <= before).then_some(()));
}

#[test]
fn a_pod_s_process_that_is_killed_while_it_is_talked_to_is_lost() {
    let (mut pod, gateway) = python_pod();
    let mut client = upgraded(&gateway);
    let mut typist = client.stream().try_clone().unwrap();
    let typing = thread::spawn(move || {
        let piece = masked(BINARY, &noise(100_000));
        while typist.write_all(&piece).is_ok() {}
    });
    for _ in 0..3 {
        assert_eq!(read_frame(&mut client.from).unwrap().payload.len(), 100_000);
    }
    pod.kill();
    ends("the client", || drop(client.rest()));
    drop(client);
    typing.join().unwrap();
    assert_eq!(gateway.logged("/websockify")["reason"], "pod_lost");
}

#[test]
fn a_reset_by_either_side_ends_the_other_at_once() {
    let rig = Rig::start("");
    let before = rig.warm();
    for _ in 0..5 {
        let (mut client, pod) = rig.open();
        ends("the client", || {
            pod.reset();
            assert_eq!(client.rest(), b"");
        });
        assert_eq!(rig.end(), "pod_lost");

        let (client, mut pod) = rig.open();
        ends("the pod", || {
            reset_at_drop(client.stream());
            drop(client);
            pod.wait_for_end();
        });
        assert_eq!(rig.end(), "client_lost");
    }
    rig.settled(before);
}

#[test]
fn a_reset_ends_the_other_side_also_in_the_middle_of_frames() {
    let rig = Rig::start("");
    let before = rig.warm();
    let (mut client, mut pod) = rig.open();
    pod.send(&plain(BINARY, &noise(5000))[..3000]);
    client.bytes(3000);
    client.send(&masked(BINARY, &noise(5000))[..3000]);
    pod.send("x");
    client.bytes(1);
    ends("the client", || {
        pod.reset();
        assert_eq!(client.rest(), b"");
    });
    assert_eq!(rig.end(), "pod_lost");
    rig.settled(before);
}

/// Nobody listens to a side whose other side takes nothing, so its end shows late, but it does.
#[test]
fn a_reset_frees_a_tunnel_whose_other_side_takes_nothing() {
    let rig = Rig::start("[tunnel]\nuser_timeout = \"1s\"\n");
    let before = rig.warm();
    let (client, pod) = rig.open();
    stall(client, &masked(BINARY, &noise(1 << 20)));
    assert!(["client_lost", "pod_lost"].contains(&rig.end().as_str()));
    drop(pod);
    let (client, mut pod) = rig.open();
    reset_at_drop(pod.stream.get_ref());
    fill(pod.stream.get_mut(), &plain(BINARY, &noise(1 << 20)));
    drop(pod);
    assert!(["client_lost", "pod_lost"].contains(&rig.end().as_str()));
    rig.settled(before);
    drop(client);
}

/// Sends until nothing more is taken, then resets.
fn stall(mut client: Client, piece: &[u8]) {
    reset_at_drop(client.stream());
    fill(client.from.get_mut(), piece);
}

fn fill(stream: &mut std::net::TcpStream, piece: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while stream.write_all(piece).is_ok() {}
}

/// Longer than a busy machine is silent where it should talk.
const IMPATIENT: &str = "timeouts = { idle = \"4s\" }";
const IDLE: Duration = Duration::from_secs(4);

/// Both ways round: who ends his half first, and the other.
fn half_closed(client_first: bool, talks_on: bool) {
    let rig = Rig::start(&screen(IMPATIENT));
    let before = rig.warm();
    let (mut client, mut pod) = rig.open();
    let begun = Instant::now();
    if client_first {
        client.finish();
        assert_eq!(pod.frame(), None);
    } else {
        pod.finish();
        assert_eq!(read_frame(&mut client.from), None);
    }
    if talks_on {
        // For twice as long as it may be silent.
        while begun.elapsed() < IDLE * 2 {
            say(&mut client, &mut pod, client_first);
            thread::sleep(IDLE / 20);
        }
        drop((client, pod));
        let want = if client_first { "client_close" } else { "pod_close" };
        assert_eq!(rig.end(), want);
    } else {
        assert_eq!(rig.end(), "half_closed");
        let lasted = begun.elapsed();
        assert!(lasted >= IDLE && lasted < IDLE + LATE, "{lasted:?}");
        rig.settled(before);
    }
}

fn both(talks_on: bool) {
    thread::scope(|scope| {
        scope.spawn(|| half_closed(true, talks_on));
        scope.spawn(|| half_closed(false, talks_on));
    });
}

fn say(client: &mut Client, pod: &mut Held, to_client: bool) {
    if to_client {
        pod.send(plain(TEXT, b"on"));
        assert_eq!(read_frame(&mut client.from).unwrap().payload, b"on");
    } else {
        client.send(masked(TEXT, b"on"));
        assert_eq!(pod.frame().unwrap().payload, b"on");
    }
}

#[test]
fn a_side_that_does_not_follow_the_other_s_goodbye_is_ended_in_its_time() {
    both(false);
}

#[test]
fn a_side_that_talks_on_after_the_other_s_goodbye_is_heard() {
    both(true);
}

/// Takes little at a time from now on, so that what it is sent waits in the gateway's system.
fn narrow(client: &Client) {
    SockRef::from(client.stream()).set_recv_buffer_size(16_384).unwrap();
}

/// Reads what was sent before the end: a picture, and why.
fn last_words(client: &mut Client, picture: &[u8]) -> (u16, String) {
    // A stream that was closed while somebody speaks on it is reset.
    client.send(masked(TEXT, b"still here"));
    assert!(read_frame(&mut client.from).expect("the picture").payload == picture);
    let close = read_frame(&mut client.from).expect("a reason").close();
    assert_eq!(client.rest(), b"");
    close
}

#[test]
fn the_last_words_of_a_pod_reach_a_client_that_talks_on() {
    let rig = Rig::start("");
    let (mut client, mut pod) = rig.open();
    narrow(&client);
    let picture = noise(100_000);
    pod.send(plain(BINARY, &picture));
    pod.send(plain(CLOSE, &1000_u16.to_be_bytes()));
    drop(pod);
    let line = eventually("the tunnel has ended", || {
        client.send(masked(TEXT, b"and on"));
        rig.gateway.access("/websockify").pop()
    });
    assert_eq!(line["reason"], "pod_close", "{line}");
    assert_eq!(last_words(&mut client, &picture).0, 1000);
}

#[test]
fn why_a_tunnel_was_ended_reaches_a_client_that_is_behind_and_talks_on() {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let rig = Rig::start(&format!("[admin]\nlisten = [\"{admin}\"]\n"));
    let ask = |line: &str| {
        raw(admin, format!("{line} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"))
            .unwrap()
    };
    let (mut client, mut pod) = rig.open();
    narrow(&client);
    let picture = noise(100_000);
    pod.send(plain(BINARY, &picture));
    let tunnel = eventually("the picture has left", || {
        let list = ask("GET /admin/tunnels").json();
        let tunnel = list["tunnels"][0].clone();
        (tunnel["to_client"].as_u64()? > 100_000).then_some(tunnel)
    });
    assert_eq!(ask(&format!("DELETE /admin/tunnels/{}", tunnel["id"])).status, 202);
    let line = eventually("the tunnel has ended", || {
        client.send(masked(TEXT, b"and on"));
        rig.gateway.access("/websockify").pop()
    });
    assert_eq!(line["reason"], "operator", "{line}");
    let (_, why) = last_words(&mut client, &picture);
    assert!(why.contains("operator"), "{why}");
}

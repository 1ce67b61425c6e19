use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Client, Gateway, KeyDir, PODS, SOON, Site, binary, echo, eventually, tokens};

const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// What ends within [`SOON`] has not waited for all that the drain may take.
const LONG: &str = "[server]\ndrain = \"60s\"\n";
/// Time to ask something for who has connected before the end.
const MOMENT: Duration = Duration::from_secs(1);

#[test]
fn with_nothing_under_way_a_signal_ends_it_at_once() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Gateway::start(LONG);
        // An idle connection is nothing to wait for.
        let mut idle = Client::connect(gateway.address());
        assert_eq!(idle.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
        gateway.logged("/healthz");
        gateway.signal(signal);
        let (status, _) = gateway.wait(SOON);
        assert_eq!(status.code(), Some(0), "{signal}: {}", gateway.output());
    }
}

#[test]
fn memory_is_taken_as_it_is_needed() {
    let anonymous = |env: &[(&str, &str)]| {
        let gateway = Gateway::start_with("", env);
        gateway.anonymous()
    };
    // As the allocator would do it by itself.
    let at_once = anonymous(&[("MIMALLOC_ARENA_EAGER_COMMIT", "1")]);
    let needed = anonymous(&[]);
    assert!(
        needed + 2048 < at_once,
        "{needed} KiB, {at_once} KiB at once: was mimalloc built with other CFLAGS than .cargo/config.toml's?"
    );
}

#[test]
fn a_request_under_way_is_finished_first() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let mut site = Site::configured_serving(LONG, move |exchange| {
        wait.lock().unwrap().recv().unwrap();
        exchange.answer("200 OK", "", "finished");
    });
    let mut client = site.client();
    client.send("GET /API/slow HTTP/1.1\r\nHost: x\r\n\r\n");
    site.pyos.last();
    site.gateway.signal("TERM");
    site.gateway.wait_for_line("draining");
    assert!(site.gateway.is_running());
    go.send(()).unwrap();
    assert_eq!(client.response().text(), "finished");
    let (status, _) = site.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert_eq!(site.gateway.logged("/API/slow")["status"], 200);
}

#[test]
fn while_it_lingers_everything_is_served() {
    // The drain is so long that it does not come to the tunnel while that is looked at.
    let long = "[server]\nlinger = \"8s\"\ndrain = \"24h\"\n";
    let mut site = Site::configured_serving(long, |exchange| match exchange.header("upgrade") {
        Some(_) => echo(exchange),
        None => exchange.answer("200 OK", "", "answered"),
    });
    site.gateway.signal("TERM");
    site.gateway.wait_for_line("leaving");
    // Kubernetes sends requests until every node has learnt of the end.
    assert_eq!(site.get("/API/late", "").text(), "answered");
    let mut socket = site.websocket(&Site::screen());
    site.gateway.wait_for_line("draining");
    socket.send("still".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "still".into());
    drop(socket);
    let (status, _) = site.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0));
}

const ASK: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// Asks on connections that had asked nothing when the signal came. False if that was too late to
/// say anything.
fn asks_in_the_moment(signal: &str, line: &str, upgraded: u16) -> bool {
    let mut site = silent(LONG);
    let mut idle = site.client();
    assert_eq!(idle.ask(ASK).status, 200);
    let (mut first, mut second) = (site.client(), site.client());
    let upgrade = Site::upgrade(&Site::screen());
    let begun = Instant::now();
    site.gateway.signal(signal);
    site.gateway.wait_for_line(line);
    second.send(upgrade);
    first.send(ASK);
    if begun.elapsed() > MOMENT / 2 {
        return false;
    }
    assert_eq!(second.head().unwrap().status, upgraded, "{signal}");
    assert_eq!(first.response().status, 200, "{signal}");
    // One that was served before is closed.
    assert_eq!(idle.rest(), b"");
    drop((first, second));
    let (status, _) = site.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0), "{signal}");
    true
}

#[test]
fn who_has_connected_and_asked_nothing_yet_has_a_moment_to() {
    for (signal, line, upgraded) in [("QUIT", "retired", 101), ("TERM", "draining", 503)] {
        let asked = (0..20).any(|_| asks_in_the_moment(signal, line, upgraded));
        assert!(asked, "{signal}: never in time");
    }
}

#[test]
fn who_waits_to_be_accepted_at_the_end_is_served() {
    for signal in ["QUIT", "TERM"] {
        let mut gateway = Gateway::start(LONG);
        gateway.signal("STOP");
        let connect = || {
            let mut client = Client::connect(gateway.address());
            client.send(ASK);
            client
        };
        let clients: Vec<_> = std::iter::repeat_with(connect).take(50).collect();
        gateway.signal(signal);
        gateway.signal("CONT");
        for mut client in clients {
            assert_eq!(client.response().status, 200, "{signal}");
        }
        let (status, _) = gateway.wait(SOON);
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

fn silent_tunnel(site: &Site) -> Client {
    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()));
    assert_eq!(client.head().unwrap().status, 101);
    client
}

fn silent(toml: &str) -> Site {
    Site::configured_serving(toml, |exchange| {
        exchange.write(ACCEPT);
        drop(exchange.from.read(&mut [0]));
    })
}

#[test]
fn a_tunnel_is_closed_with_a_reason_within_the_limit() {
    let mut site = silent("[server]\ndrain = \"3s\"\n");
    let mut client = silent_tunnel(&site);
    site.gateway.signal("TERM");
    // The limit, a moment for the Close frame that is not answered, and a busy machine's.
    let (status, _) = site.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert_eq!(
        client.rest(),
        [&[0x88, 20][..], &1012_u16.to_be_bytes(), b"{\"reason\":\"drain\"}"].concat()
    );
}

#[test]
fn int_and_a_second_term_end_it_at_once_whatever_is_under_way() {
    for signals in [["INT", ""], ["TERM", "TERM"], ["TERM", "INT"]] {
        let mut site = silent(LONG);
        let _client = silent_tunnel(&site);
        site.gateway.signal(signals[0]);
        if !signals[1].is_empty() {
            site.gateway.wait_for_line("draining");
            site.gateway.signal(signals[1]);
        }
        let (status, _) = site.gateway.wait(SOON);
        assert_eq!(status.code(), Some(0), "{signals:?}");
    }
}

fn run(config: &str) -> Output {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("deskgate.toml");
    std::fs::write(&path, config).unwrap();
    Command::new(binary()).args(["run", "--config"]).arg(path).env_clear().output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_taken_address_is_told_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let keys = KeyDir::new();
    let address = taken.local_addr().unwrap();
    let start = Instant::now();
    let output = run(&format!("[listen]\nhttp = [\"{address}\"]\n{}", keys.auth()));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let want = format!("deskgate: cannot listen on {address}: Address already in use");
    assert!(said(&output).contains(&want), "{}", said(&output));
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_wrong_configuration_is_told_with_its_line_and_key() {
    let output = run("[listen]\nhttp = [\"127.0.0.1:0\"]\nkeepalive = \"soon\"\n");
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("deskgate.toml:3: listen.keepalive: "), "{}", said(&output));
    let output = run("[listen]\nhttp = [\"127.0.0.1:0\"]\n[auth]\nsigning_keys = [\"/nowhere\"]\n");
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("deskgate.toml:4: auth.signing_keys: "), "{}", said(&output));
}

#[test]
fn clients_that_come_and_go_at_the_end_do_not_keep_it() {
    let mut site = Site::configured(LONG);
    let address = site.address();
    let flood = thread::spawn(move || {
        let request = "GET /API HTTP/1.1\r\nHost: x\r\n\r\n";
        while crate::support::raw(address, request).is_ok() {}
    });
    eventually("requests flow", || (site.pyos.seen().len() > 20).then_some(()));
    let token = tokens::valid(PODS[1]);
    assert_eq!(site.get("/filer", &format!("ABCAuthorization: {token}\r\n")).status, 200);
    site.gateway.signal("TERM");
    // A moment without a request comes soon.
    let (status, _) = site.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0));
    flood.join().unwrap();
}

/// Whether the system gives a process these signals (proc(5): `SigCgt`), or ends it for them.
fn catches(pid: u32, signals: &[u32]) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    signals.iter().all(|signal| caught >> (signal - 1) & 1 == 1)
}

/// Whether one of its threads serves clients.
fn serves(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut names = threads.map(|thread| std::fs::read_to_string(thread.path().join("comm")));
    names.any(|name| name.is_ok_and(|name| name.starts_with("worker-")))
}

#[test]
fn signals_are_received_before_anybody_is_served() {
    const HUP_INT_QUIT_TERM: [u32; 4] = [1, 2, 3, 15];
    let (dir, keys) = (TempDir::new().unwrap(), KeyDir::new());
    let path = dir.path().join("deskgate.toml");
    let config = "[listen]\nhttp = [\"127.0.0.1:0\"]\n[admin]\nlisten = []\n";
    std::fs::write(&path, format!("{config}{}", keys.auth())).unwrap();
    for _ in 0..5 {
        let mut command = Command::new(binary());
        let command = command.args(["run", "--config"]).arg(&path).env_clear();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + SOON;
        while !serves(child.id()) && Instant::now() < end {
            assert!(child.try_wait().unwrap().is_none(), "it does not start");
        }
        let (served, caught) = (serves(child.id()), catches(child.id(), &HUP_INT_QUIT_TERM));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(served && caught, "serves: {served}, catches: {caught}");
    }
}

#[test]
fn a_new_process_takes_the_sockets_and_old_tunnels_live_on() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("handover");
    let toml = format!("[server]\nhandover = {path:?}\ndrain = \"30s\"\n");
    let mut site = Site::configured_serving(&toml, |exchange| match exchange.header("upgrade") {
        Some(_) => echo(exchange),
        None => exchange.answer("200 OK", "", "answered"),
    });
    let mut socket = site.websocket(&Site::screen());
    let address = site.address();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flood = thread::spawn({
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        move || {
            let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(crate::support::raw(address, request).unwrap().status, 200);
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let successor = site.gateway.successor(&toml);
    site.gateway.wait_for_line("retired");
    socket.send("still".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "still".into());
    // Requests reach the new process now, all of them, once every worker of the old one knows.
    let mut round = 0;
    eventually("the new one serves all", || {
        round += 1;
        let target = format!("/healthz?after{round}-");
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        for _ in 0..50 {
            assert_eq!(crate::support::raw(address, &request).unwrap().status, 200);
        }
        let new = eventually("their lines", || {
            let new = successor.access(&target).len();
            (new + site.gateway.access(&target).len() == 50).then_some(new)
        });
        (new == 50).then_some(())
    });
    eventually("a flood", || {
        (flood.is_finished() || served.load(Ordering::Relaxed) > 50).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert!(site.gateway.is_running());
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    let (status, _) = site.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", site.gateway.output());
}

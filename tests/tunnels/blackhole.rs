//! Two network namespaces and a cable between them that is pulled: no FIN, no RST, no ICMP.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::rig::{LATE, Program, screen, skipped, source, tool};
use crate::support::{KeyDir, PODS, eventually, tokens};

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// `here` has the gateway and the peer that stays, `there` the one that is cut off.
struct Cable {
    here: String,
    there: String,
}

/// Addresses that are kept for measurements, so nobody's (RFC 2544).
const HERE: &str = "198.18.7.1";
const THERE: &str = "198.18.7.2";

impl Cable {
    /// None if this process may not make namespaces.
    fn plugged() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dg{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let cable = Self { here: format!("{name}-a"), there: format!("{name}-b") };
        let (here, there) = (&cable.here, &cable.there);
        let made = ip(&format!("netns add {here}")) && ip(&format!("netns add {there}"));
        if !made {
            skipped("it needs root, and `ip netns`");
            return None;
        }
        for step in [
            format!("-n {here} link add va type veth peer name vb netns {there}"),
            format!("-n {here} address add {HERE}/24 dev va"),
            format!("-n {there} address add {THERE}/24 dev vb"),
            format!("-n {here} link set lo up"),
            format!("-n {there} link set lo up"),
            format!("-n {here} link set va up"),
            format!("-n {there} link set vb up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        Some(cable)
    }

    /// From now on nothing passes.
    fn pull(&self) {
        assert!(ip(&format!("-n {} link set vb down", self.there)));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.here));
        ip(&format!("netns delete {}", self.there));
    }
}

fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// A gateway and a pod and a client, one of whom is cut off.
struct Scene {
    client: Program,
    pod: Program,
    gateway: Program,
    cable: Cable,
    before: usize,
    _keys: KeyDir,
}

fn descriptors(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count()
}

impl Scene {
    /// `how` are the words for peer.py's silent or talking ones.
    fn start(client_is_far: bool, toml: &str, client: &[&str]) -> Option<Self> {
        let cable = Cable::plugged()?;
        let keys = KeyDir::new();
        let pod_at = if client_is_far { PODS[0] } else { THERE };
        let config = keys.path().join("deskgate.toml");
        let text = format!(
            "{toml}\n[listen]\nhttp = [\"{HERE}:80\", \"127.0.0.1:80\"]\n[desktop]\n\
             cidrs = [\"127.0.0.0/8\", \"198.18.0.0/15\"]\nports = {{ vnc = 6081 }}\n{}",
            keys.auth()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = inside(&cable.here, crate::support::binary());
        let gateway = Program::start("gateway", command.args(["run", "--config"]).arg(&config));
        while !gateway.line(LATE * 5).contains("listening") {}
        let (near, far) = (&cable.here, &cable.there);
        let (client_in, pod_in) = if client_is_far { (far, near) } else { (near, far) };
        let python = |namespace: &str| {
            let mut command = inside(namespace, tool("venv/bin/python"));
            command.arg(source("peer.py"));
            command
        };
        let pod = Program::start("pod", python(pod_in).args(["pod", pod_at, "6081"]));
        assert_eq!(pod.line(LATE * 5), "ready");
        let before = descriptors(&gateway);
        let address = if client_is_far { HERE } else { "127.0.0.1" };
        let url = format!("ws://{address}:80/websockify?{}", tokens::valid(pod_at));
        let mut command = python(client_in);
        let client = Program::start("client", command.arg(client[0]).arg(&url).args(&client[1..]));
        assert_eq!(client.line(LATE * 5), "open");
        Some(Self { client, pod, gateway, cable, before, _keys: keys })
    }

    /// Pulls the cable, and waits until the gateway has ended the tunnel. Why and when it did.
    fn cut(&self) -> (String, Duration) {
        assert!(descriptors(&self.gateway) > self.before);
        self.cable.pull();
        let begun = Instant::now();
        let reason = loop {
            let line = self.gateway.report(Duration::from_secs(30));
            if line["status"] == 101 {
                break line["reason"].as_str().unwrap().to_owned();
            }
        };
        let lasted = begun.elapsed();
        eventually("both sockets are closed", || {
            (descriptors(&self.gateway) <= self.before).then_some(())
        });
        (reason, lasted)
    }
}

/// Long enough for the end that stays to answer in it on a busy machine.
const PING: Duration = Duration::from_secs(2);
const PINGS: &str = "tunnel = { ping = \"2s\" }";
const NO_PINGS: &str = "tunnel = { ping = \"0s\" }";

#[test]
fn a_silent_end_whose_cable_is_pulled_is_missed_after_three_intervals() {
    thread::scope(|scope| {
        scope.spawn(a_silent_client_is_missed);
        scope.spawn(a_silent_pod_is_missed);
    });
}

fn a_silent_client_is_missed() {
    let Some(scene) = Scene::start(true, &screen(PINGS), &["hold"]) else { return };
    let (reason, lasted) = scene.cut();
    assert_eq!(reason, "client_lost");
    assert!(lasted < PING * 3 + LATE, "{lasted:?}");
}

fn a_silent_pod_is_missed() {
    let Some(scene) = Scene::start(false, &screen(PINGS), &["hold"]) else { return };
    // It must have answered once, to be missed; its first ping is an interval old by then.
    assert_eq!(scene.client.line(LATE * 5), "pinged twice");
    let (reason, lasted) = scene.cut();
    assert_eq!(reason, "pod_lost");
    assert!(lasted < PING * 3 + LATE, "{lasted:?}");
    // The client learns of it, though the pod can say nothing.
    assert_eq!(scene.client.report(LATE)["code"], 1006);
}

/// Bytes that nobody acknowledges.
fn unacknowledged(client_is_far: bool, client: &str, want: &str) {
    let toml = format!("{}\n[tunnel]\nuser_timeout = \"1500ms\"\n", screen(NO_PINGS));
    let Some(scene) = Scene::start(client_is_far, &toml, &[client]) else { return };
    let (reason, lasted) = scene.cut();
    assert_eq!(reason, want);
    // The system looks when it sends again, which it does ever less often.
    assert!(lasted < Duration::from_millis(1500) * 2 + LATE, "{lasted:?}");
}

#[test]
fn an_end_that_is_talked_to_through_a_pulled_cable_is_lost_by_the_system_s_limit() {
    thread::scope(|scope| {
        scope.spawn(|| unacknowledged(true, "listen", "client_lost"));
        scope.spawn(|| unacknowledged(false, "talk", "pod_lost"));
    });
}

/// Without pings and without a byte, there are the system's own questions.
#[test]
fn two_silent_ends_without_pings_are_asked_by_the_system() {
    let sockets = "[tunnel]\nkeepalive = \"1s\"\nuser_timeout = \"1500ms\"\n";
    let toml = format!("{}\n{sockets}", screen(NO_PINGS));
    let Some(scene) = Scene::start(true, &toml, &["hold"]) else { return };
    let (reason, lasted) = scene.cut();
    assert_eq!(reason, "client_lost");
    assert!(lasted < Duration::from_secs(6) + LATE, "{lasted:?}");
    drop(scene.pod);
}

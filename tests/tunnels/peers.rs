use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::rig::{LATE, Program, screen, skipped, slow, source, tool, with_port};
use crate::support::{Gateway, PODS, Site, pod_listeners};

/// A library that speaks WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    Python,
    Node,
}

impl Library {
    pub(super) fn command(self) -> Command {
        let (program, script) = match self {
            Self::Python => (tool("venv/bin/python"), "peer.py"),
            Self::Node => ("node".into(), "peer.mjs"),
        };
        let mut command = Command::new(program);
        command.arg(source(script)).env("DESKGATE_TOOLS", tool(""));
        command
    }

    /// A pod; its port was free a moment ago.
    pub(super) fn pod(self) -> (Program, u16) {
        let (listeners, port) = pod_listeners();
        drop(listeners);
        let pod = Program::start("pod", self.command().args(["pod", PODS[0], &port.to_string()]));
        assert_eq!(pod.line(LATE * 5), "ready");
        (pod, port)
    }
}

pub(super) fn url(gateway: &Gateway) -> String {
    format!("ws://{}{}", gateway.address(), Site::screen())
}

fn every_message_comes_back(client: Library, pod: Library, seed: &str) {
    // Nobody is silent for much longer than an interval: a ping that is late may not be needed any
    // more. Once at least it is in time.
    let pinged = (0..3).any(|_| {
        let (report, reason) = went_through(client, pod, "1s", &[seed]);
        assert_eq!(report["messages"], 24, "{report}");
        assert_eq!(reason, "client_close");
        [("client", "pod"), ("pod", "client")].into_iter().all(|(side, other)| {
            // Its own were answered, and there were more pings than the other side's.
            assert!(report[side]["pongs"].as_u64() > Some(0), "{report}");
            report[side]["pings"].as_u64() > report[other]["pongs"].as_u64()
        })
    });
    assert!(pinged, "no pings flowed to both sides");
}

/// What a client tells at its end, and what the gateway says of that.
fn went_through(client: Library, pod: Library, ping: &str, how: &[&str]) -> (Value, Value) {
    let (_pod, port) = pod.pod();
    let row = screen(&format!("tunnel = {{ ping = {ping:?} }}"));
    let gateway = Gateway::start(&with_port(&row, port));
    let url = url(&gateway);
    let client = Program::start("client", client.command().args(["client", &url]).args(how));
    let report = client.report_or(Duration::from_secs(240), || gateway.output());
    assert_eq!(report["closed"], json!([4001, "grüße"]), "{report}");
    for side in ["client", "pod"] {
        let strange = &report[side]["strange"];
        assert_eq!(*strange, 0, "{side} got a pong that is not its own: {report}");
    }
    let reason = gateway.logged("/websockify")["reason"].clone();
    (report, reason)
}

#[test]
fn every_message_between_python_and_python_comes_back_as_it_was_while_pings_flow() {
    every_message_comes_back(Library::Python, Library::Python, "1");
}

#[test]
fn every_message_between_python_and_node_comes_back_as_it_was_while_pings_flow() {
    every_message_comes_back(Library::Python, Library::Node, "2");
}

#[test]
fn every_message_between_node_and_python_comes_back_as_it_was_while_pings_flow() {
    every_message_comes_back(Library::Node, Library::Python, "3");
}

#[test]
fn every_message_between_node_and_node_comes_back_as_it_was_while_pings_flow() {
    every_message_comes_back(Library::Node, Library::Node, "4");
}

/// Who hashes so much at once says nothing for a while, so these are asked less often.
#[test]
fn the_largest_messages_come_back_as_they_were_while_pings_flow() {
    let size = (64 << 20).to_string();
    for (client, pod) in [(Library::Python, Library::Node), (Library::Node, Library::Python)] {
        let (report, reason) = went_through(client, pod, "2s", &["5", &size]);
        assert_eq!((&report["messages"], &reason), (&json!(1), &json!("client_close")), "{report}");
    }
}

/// The times at which other proxies end what is silent, each just passed.
#[test]
fn slow_a_silent_tunnel_outlives_every_peer_s_usual_limit() {
    if !slow() {
        skipped("it takes five minutes, and runs with DESKGATE_SLOW=1");
        return;
    }
    std::thread::scope(|scope| {
        for pod in [Library::Python, Library::Node] {
            scope.spawn(move || stays_open(pod));
        }
    });
}

fn stays_open(pod: Library) {
    let (_pod, port) = pod.pod();
    let gateway = Gateway::start(&with_port("", port));
    let url = url(&gateway);
    let times = ["61", "121", "301"];
    let hold = |seconds: &str| {
        Program::start("client", Library::Python.command().args(["hold", &url, seconds]))
    };
    let clients = times.map(hold);
    for (client, seconds) in clients.iter().zip(times) {
        assert_eq!(client.line(LATE * 5), "open");
        let told = client.report_or(Duration::from_secs(330), || gateway.output());
        assert_eq!(told["said"], "still", "{seconds}: {told}");
        // One in 25 seconds; an answer takes its time, too.
        let pings = seconds.parse::<u64>().unwrap() / 25;
        let seen = told["pings"].as_u64().unwrap();
        assert!(seen + 1 >= pings && seen <= pings, "{seconds}: {told}");
        assert_eq!(client.report(Duration::from_secs(30))["code"], 1000);
    }
}

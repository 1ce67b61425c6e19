//! How the system is told to treat both sockets of a tunnel.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use super::peers::Library;
use super::rig::{LATE, Program, Rig, TEXT, masked};
use crate::support::{Client, eventually};

/// What the gateway has set at its end of a connection of ours.
fn policy(sockets: &Value, ours: &TcpStream) -> Value {
    let is = |value: &Value, address: SocketAddr| *value == address.to_string();
    let (here, there) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
    let mut all = sockets.as_array().unwrap().iter();
    let socket = all.find(|socket| is(&socket["local"], there) && is(&socket["peer"], here));
    socket.unwrap_or_else(|| panic!("the gateway has no such socket: {sockets}")).clone()
}

/// All sockets of the gateway, as the system describes them.
fn sockets(rig: &Rig) -> Value {
    let mut look = Library::Python.command();
    let look = Program::start("look", look.args(["sockets", &rig.gateway.pid().to_string()]));
    look.report(LATE * 5)
}

/// `unsent` in bytes, the others in seconds.
fn both_sides(toml: &str, unsent: u32, user_timeout: u32, keepalive: u32) {
    let rig = Rig::start(toml);
    let (mut client, mut pod) = rig.open();
    // The client has its answer before the sockets are set, and the pod its first word after.
    client.send(masked(TEXT, b"there?"));
    assert_eq!(pod.frame().unwrap().payload, b"there?");
    let sockets = sockets(&rig);
    for stream in [client.stream(), pod.stream.get_ref()] {
        let mut policy = policy(&sockets, stream);
        let policy = policy.as_object_mut().unwrap();
        policy.retain(|name, _| name.contains('_'));
        let want = json!({
            "TCP_NODELAY": 1,
            "TCP_NOTSENT_LOWAT": unsent,
            "TCP_USER_TIMEOUT": user_timeout * 1000,
            "SO_KEEPALIVE": 1,
            "TCP_KEEPIDLE": keepalive,
            "TCP_KEEPINTVL": keepalive / 2,
            "TCP_KEEPCNT": 3,
        });
        assert_eq!(Value::Object(policy.clone()), want);
    }
}

#[test]
fn small_writes_go_at_once_little_waits_unsent_and_the_dead_are_noticed() {
    both_sides("", 128 * 1024, 30, 30);
}

#[test]
fn the_configuration_says_how() {
    let keys = "unsent = \"64KiB\"\nuser_timeout = \"12s\"\nkeepalive = \"20s\"";
    both_sides(&format!("[tunnel]\n{keys}\n"), 64 * 1024, 12, 20);
}

#[test]
fn clients_have_the_options_of_their_listener_and_of_the_latest_configuration() {
    let rig = Rig::start("[listen]\nwrite_timeout = \"17s\"\n");
    let is_set = |seconds: u32| {
        let mut client = Client::connect(rig.gateway.address());
        // It is accepted when it is answered.
        assert_eq!(client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
        let policy = policy(&sockets(&rig), client.stream());
        policy["TCP_NODELAY"] == 1
            && policy["SO_KEEPALIVE"] == 1
            && policy["TCP_USER_TIMEOUT"] == seconds * 1000
            && policy["TCP_KEEPIDLE"] == seconds
    };
    // Who comes before a worker has begun has no options yet.
    eventually("clients have the listener's options", || is_set(17).then_some(()));
    rig.gateway.reconfigure_with(|text| text.replace("17s", "23s"));
    eventually("new clients have the new options", || is_set(23).then_some(()));
}

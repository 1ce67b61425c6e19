use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use tokio_tungstenite::tungstenite::Message;

use super::{Watched, answer_or_echo, refusal};
use crate::support::{Client, SOON, Site, eventually, free_port};
use crate::tls::{Issued, Tls};

const ASK: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// A connection that has its place.
fn seated(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    assert_eq!(client.ask(ASK).status, 200);
    client
}

/// What a connection gets that has none.
fn turned_away(address: SocketAddr, status: u16, error: &str) {
    let start = Instant::now();
    let mut client = Client::connect(address);
    let answer = client.response();
    assert_eq!((answer.status, answer.error().as_str()), (status, error));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(client.rest(), b"");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

/// Connections whose place is still being given up take one of the next.
fn eventually_seated(address: SocketAddr) -> Client {
    eventually("a free place", || {
        let mut client = Client::connect(address);
        client.send(ASK);
        client.try_response("GET").ok().filter(|answer| answer.status == 200).map(|_| client)
    })
}

#[test]
fn one_connection_more_than_there_are_places_is_told_so() {
    let watched = Watched::start("[limits]\nconnections = 3\n");
    let address = watched.site.address();
    let mut held: Vec<_> = (0..3).map(|_| eventually_seated(address)).collect();
    let before = watched.refused("connections");
    turned_away(address, 503, "connections");
    assert_eq!(watched.refused("connections") - before, 1.0);
    let line = watched.site.gateway.wait_for_line("\"reason\":\"connections\"");
    assert!(line.contains("127.0.0.1") && line.contains("503"), "{line}");
    for client in &mut held {
        assert_eq!(client.ask(ASK).status, 200, "who is there stays");
    }
    held.pop();
    drop(eventually_seated(address));
}

#[test]
fn a_listener_has_so_many_places() {
    let site = Site::configured("[limits]\nconnections_per_listener = 2\n");
    let address = site.address();
    let _held = [eventually_seated(address), eventually_seated(address)];
    turned_away(address, 503, "listener_connections");
}

#[test]
fn an_address_has_no_more_places_than_others_have_left() {
    let site = Site::configured(
        "[listen]\nproxy_protocol = [\"127.0.0.1/32\"]\n[limits]\nconnections_per_address = 2\n",
    );
    let connect = |header: &str| {
        let mut client = Client::connect(site.address());
        client.send(format!("{header}\r\n{ASK}"));
        let answer = client.response();
        (client, answer)
    };
    let one = "PROXY TCP4 203.0.113.7 127.0.0.1 1 2";
    let held = [connect(one), connect(one)];
    assert!(held.iter().all(|(_, answer)| answer.status == 200));
    let (mut gone, answer) = connect(one);
    assert_eq!(refusal(&answer), (429, "address_connections".to_owned(), 10));
    assert_eq!(gone.rest(), b"");
    // Another client; the load balancer itself; a network of IPv6 counts as one.
    assert_eq!(connect("PROXY TCP4 203.0.113.8 127.0.0.1 1 2").1.status, 200);
    let _balancer: Vec<_> = (0..4)
        .map(|_| connect("PROXY UNKNOWN"))
        .inspect(|(_, answer)| assert_eq!(answer.status, 200))
        .collect();
    let six = |host: &str| connect(&format!("PROXY TCP6 2001:db8::{host} ::1 1 2"));
    let _six = [six("1"), six("2")];
    assert_eq!(six("3").1.status, 429);
    assert_eq!(connect("PROXY TCP6 2001:db8:0:1::3 ::1 1 2").1.status, 200);
    drop(held);
    eventually("a place for the address", || (connect(one).1.status == 200).then_some(()));
}

#[test]
fn over_tls_a_connection_without_a_place_is_closed_without_a_handshake() {
    let (port, issued) = (free_port(), Issued::new());
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // Whoever had a handshake to begin would be waited for longer than the test waits.
    let more = format!(
        "handshake_timeout = \"60s\"\n[admin]\nlisten = [\"{admin}\"]\n\
         [limits]\nconnections = 1\n"
    );
    let watched = Watched { site: issued.site(port, &more), admin };
    watched.site.gateway.wait_for_line("admin interface listening");
    let served = |tls: &mut Tls| {
        let mut start = [0; 12];
        tls.write_all(ASK.as_bytes()).and_then(|()| tls.read_exact(&mut start)).is_ok()
            && start == *b"HTTP/1.1 200"
    };
    let mut held = eventually("a free place", || {
        let mut tls = issued.connect(port);
        served(&mut tls).then_some(tls)
    });
    let before = watched.refused("connections");
    // One that says nothing, and one that begins a handshake.
    let start = Instant::now();
    assert_eq!(Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).rest(), b"");
    let mut stranger = issued.connect(port);
    assert!(!served(&mut stranger) && stranger.conn.is_handshaking());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(watched.refused("connections") - before, 2.0);
    // Who is there stays, and leaves a place.
    let mut rest = [0; 4096];
    drop(held.read(&mut rest));
    assert!(
        held.write_all(ASK.as_bytes()).is_ok() && held.read(&mut rest).is_ok_and(|got| got > 0)
    );
    drop(held);
    eventually("a free place", || served(&mut issued.connect(port)).then_some(()));
}

#[test]
fn a_tunnel_keeps_the_place_of_its_connection() {
    let watched = Watched::start("[limits]\nconnections = 1\n");
    let site = &watched.site;
    let mut socket = eventually("a tunnel", || {
        let mut client = site.client();
        client.send(Site::upgrade(&Site::screen()));
        client.head().ok().filter(|answer| answer.status == 101).map(|_| client)
    });
    turned_away(site.address(), 503, "connections");
    socket.send([0x82, 0x80, 0, 0, 0, 0]); // an empty message
    assert_eq!(socket.bytes(2), [0x82, 0]);
    drop(socket);
    drop(eventually_seated(site.address()));
    watched.until("deskgate_connections", 0.0);
}

#[test]
fn new_limits_hold_for_connections_that_are_there() {
    let site = Site::configured_serving("", answer_or_echo);
    let _held = [seated(site.address()), seated(site.address())];
    let mut socket = site.websocket(&Site::screen());
    site.gateway.reconfigure("[limits]\nconnections = 2\n");
    site.gateway.signal("HUP");
    site.gateway.wait_for_line("configuration reloaded");
    turned_away(site.address(), 503, "connections");
    socket.send(Message::text("still there")).unwrap();
    assert_eq!(socket.read().unwrap(), "still there".into());
}

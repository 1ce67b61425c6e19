use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_tungstenite::tungstenite::Message;

use super::rig::{BINARY, CLOSE, Frame, LATE, Rig, TEXT, masked, plain, read_frame, screen};
use crate::routing::name_server;
use crate::support::{
    Client, Exchange, PODS, SOON, Site, echo, eventually, noise, raw, tokens, websocket,
};

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A token that expires within the second before so many are over.
fn short(pod: &str, seconds: u64) -> (String, Duration) {
    short_of(tokens::now(), pod, seconds)
}

/// The same, counted from then.
fn short_of(now: u64, pod: &str, seconds: u64) -> (String, Duration) {
    let token = tokens::minter(tokens::keys()).mint(pod, now, seconds).unwrap();
    (token, Duration::from_secs(now + seconds))
}

fn closed(client: &mut Client) -> (u16, String) {
    read_frame(&mut client.from).expect("a Close frame").close()
}

fn word(code: u16, reason: &str) -> (u16, String) {
    (code, format!("{{\"reason\":\"{reason}\"}}"))
}

#[test]
fn both_sides_are_told_that_the_edge_ends_and_may_answer() {
    for (signal, client_told, reason) in
        [("TERM", word(1012, "drain"), "drain"), ("INT", word(1001, "shutdown"), "shutdown")]
    {
        let mut rig = Rig::start("[server]\ndrain = \"2s\"\n");
        let (mut client, mut pod) = rig.open();
        rig.gateway.signal(signal);
        let begun = Instant::now();
        let told = read_frame(&mut client.from).map(|frame| frame.close());
        assert_eq!(told, Some(client_told), "{signal}: {}", rig.gateway.output());
        let told = pod.frame().unwrap();
        assert!(told.masked);
        assert_eq!(told.close(), word(1001, reason));
        // Answers go nowhere, but end the wait for them.
        client.send(masked(CLOSE, &1012_u16.to_be_bytes()));
        pod.send(plain(CLOSE, &1001_u16.to_be_bytes()));
        assert_eq!((read_frame(&mut client.from), pod.frame()), (None, None));
        let (status, _) = rig.gateway.wait(SOON);
        assert_eq!(status.code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(rig.end(), reason);
    }
}

/// The gateway waits so long for the end of a frame, and no longer.
const UNDER_WAY: Duration = Duration::from_secs(1);

#[test]
fn a_close_frame_of_ours_waits_for_the_end_of_the_frame_under_way() {
    eventually("a frame that ends in its time", waits_for_the_end_of_a_frame);
}

/// None if that end was late, which proves nothing.
fn waits_for_the_end_of_a_frame() -> Option<()> {
    let rig = Rig::start("");
    let (mut client, mut pod) = rig.open();
    let whole = plain(BINARY, &noise(5000));
    let (first, second) = whole.split_at(3000);
    pod.send(first);
    let mut seen = client.bytes(3000);
    let begun = Instant::now();
    rig.gateway.signal("INT");
    // The pod is told, so the client would have been.
    let told = pod.frame();
    let sent = pod.stream.get_mut().write_all(second);
    let mut rest = vec![0; second.len()];
    let came = client.from.read_exact(&mut rest);
    let last = read_frame(&mut client.from);
    if begun.elapsed() >= UNDER_WAY {
        return None;
    }
    assert_eq!(told.unwrap().code, CLOSE);
    sent.and(came).unwrap();
    seen.extend(rest);
    assert!(seen == whole);
    assert_eq!(last.unwrap().close(), word(1001, "shutdown"));
    Some(())
}

#[test]
fn every_close_frame_of_either_end_passes_byte_for_byte() {
    let rig = Rig::start("");
    let mut payloads = vec![Vec::new(), [&1000_u16.to_be_bytes(), &noise(123)[..]].concat()];
    for code in [1000_u16, 1001, 1003, 1008, 1011, 1012, 3000, 4000, 4401, 4999] {
        payloads.push([&code.to_be_bytes()[..], "aus grünem Grund".as_bytes()].concat());
    }
    for payload in payloads {
        let (mut client, mut pod) = rig.open();
        pod.send(plain(CLOSE, &payload));
        let want = Frame { last: true, code: CLOSE, masked: false, payload: payload.clone() };
        assert_eq!(read_frame(&mut client.from), Some(want.clone()));
        client.send(masked(CLOSE, &payload));
        assert_eq!(pod.frame(), Some(Frame { masked: true, ..want.clone() }));
        drop(pod);
        assert_eq!(read_frame(&mut client.from), None);
        drop(client);
        assert_eq!(rig.end(), "pod_close");

        let (mut client, mut pod) = rig.open();
        client.send(masked(CLOSE, &payload));
        assert_eq!(pod.frame(), Some(Frame { masked: true, ..want.clone() }));
        pod.send(plain(CLOSE, &payload));
        assert_eq!(read_frame(&mut client.from), Some(want));
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert_eq!(pod.frame(), None);
        drop(pod);
        assert_eq!(rig.end(), "client_close");
    }
}

#[test]
fn nothing_is_said_to_a_browser_that_its_pod_has_said_goodbye_to() {
    let mut rig = Rig::start("[server]\ndrain = \"2s\"\n");
    let (mut client, mut pod) = rig.open();
    pod.send(plain(CLOSE, &4000_u16.to_be_bytes()));
    assert_eq!(closed(&mut client), (4000, String::new()));
    rig.gateway.signal("INT");
    assert_eq!(pod.frame().unwrap().close(), word(1001, "shutdown"));
    assert_eq!(client.rest(), b"");
    rig.gateway.wait(SOON);
}

/// The last words of a pod that goes without waiting for an answer, while its user goes on typing.
#[test]
fn a_pod_s_last_words_arrive_although_the_client_goes_on_talking() {
    const SIZE: usize = 20_000;
    let rig = Rig::start("");
    for _ in 0..100 {
        let (mut client, mut pod) = rig.open();
        let mut typist = client.stream().try_clone().unwrap();
        let typing = thread::spawn(move || {
            while typist.write_all(&masked(TEXT, b"key")).is_ok() {
                thread::sleep(Duration::from_micros(300));
            }
        });
        pod.send(plain(BINARY, &noise(SIZE)));
        pod.send(plain(CLOSE, &4001_u16.to_be_bytes()));
        drop(pod);
        assert!(read_frame(&mut client.from).expect("the picture").payload == noise(SIZE));
        assert_eq!(closed(&mut client), (4001, String::new()));
        client.stream().shutdown(Shutdown::Both).unwrap();
        typing.join().unwrap();
    }
}

const TOKEN: &str = "tunnel = { lifetime = \"token\", grace = \"1s\" }";
const GRACE: Duration = Duration::from_secs(1);

#[test]
fn a_tunnel_ends_with_its_token_and_the_grace_where_the_route_says_so() {
    let site = Site::configured_serving(&screen(TOKEN), echo);
    let (token, expires) = short(PODS[0], 5);
    let mut socket = site.websocket(&format!("/websockify?{token}"));
    socket.send("in time".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "in time".into());
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    let at = wall();
    assert_eq!((u16::from(frame.code), frame.reason.to_string()), word(4401, "token_expired"));
    // Our clock of the wall and theirs of the process may differ by a little.
    assert!(at + Duration::from_millis(50) > expires + GRACE, "{at:?} {expires:?}");
    assert!(at < expires + GRACE + LATE, "{at:?} {expires:?}");
    drop(socket);
    assert_eq!(site.gateway.logged("/websockify")["reason"], "token_expired");
}

#[test]
fn a_fresh_token_for_the_same_pod_moves_the_end_and_no_other_does() {
    let site = Site::configured_serving(&screen(TOKEN), echo);
    let renew = |token: &str| {
        let token = format!("ABCAuthorization: {token}\r\nContent-Length: 0\r\n");
        site.ask("POST", "/gw/renew", &token)
    };
    let (expired, foreign) = (tokens::expired(PODS[0]), tokens::foreign(PODS[0]));
    // One moment for all: which of them ends later does not depend on when it is used.
    let now = tokens::now();
    let (token, first) = short_of(now, PODS[0], 6);
    let (sooner, _) = short_of(now, PODS[0], 5);
    let (fresh, second) = short_of(now, PODS[0], 13);
    let mut socket = site.websocket(&format!("/websockify?{token}"));
    // A second tunnel of the same pod that nobody may keep, and one whose pod nobody renews.
    let mut same = site.websocket(&format!("/websockify?{token}"));
    let mut other = site.websocket(&format!("/websockify?{}", short_of(now, PODS[1], 6).0));
    assert_eq!(renew(&expired).status, 401);
    assert_eq!(renew(&foreign).status, 401);
    assert_eq!(site.get("/gw/renew", &Site::bearer()).status, 405);
    // Nor a token that ends no later.
    assert_eq!(renew(&sooner).json()["renewed"], 0);
    let answer = renew(&fresh);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), serde_json::json!({"renewed": 2, "expires": second.as_secs()}));

    let Message::Close(Some(frame)) = other.read().unwrap() else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 4401);
    assert!(wall() < second);
    // Past the first end.
    while wall() < first + GRACE + Duration::from_millis(300) {
        socket.send("on and on".into()).unwrap();
        assert_eq!(socket.read().unwrap(), "on and on".into());
        thread::sleep(Duration::from_millis(20));
    }
    for socket in [&mut socket, &mut same] {
        let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
        assert_eq!(u16::from(frame.code), 4401);
        assert!(wall() + Duration::from_millis(50) > second + GRACE);
    }
}

#[test]
fn where_the_route_does_not_say_so_a_tunnel_outlives_its_token() {
    let site = Site::serving(echo);
    let (token, expires) = short(PODS[0], 5);
    let mut socket = site.websocket(&format!("/websockify?{token}"));
    while wall() < expires + Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(20));
    }
    socket.send("still".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "still".into());
    let answer = site.client().ask(Site::upgrade(&format!("/websockify?{token}")));
    assert_eq!(answer.status, 401);
}

#[test]
fn a_page_is_told_why_its_socket_is_refused_and_programs_get_the_plain_answer() {
    let gone = "gone.desktop.abcdesktop.svc.cluster.local";
    let nobody = name_server(&Arc::default());
    let site = Site::configured_serving(
        &format!(
            "{}\n[[route]]\nname = \"broadcast\"\ntunnel = {{ refusal = \"close\" }}\n\
             [desktop.ports]\nbroadcast = 9\n\
             [dns]\nservers = [\"{nobody}\"]\ntimeout = \"10s\"\n",
            screen("tunnel = { refusal = \"close\" }")
        ),
        echo,
    );
    let screen = |token: String| format!("/websockify?{token}");
    let cases = [
        (screen(tokens::expired(PODS[0])), 4401, 401),
        (screen(tokens::tampered(PODS[0], PODS[1])), 4403, 401),
        (screen(tokens::foreign(PODS[0])), 4403, 401),
        (screen("nonsense".to_owned()), 4403, 401),
        (screen(tokens::valid(gone)), 4404, 502),
        (format!("/broadcast?{}", tokens::valid(PODS[0])), 4408, 502),
    ];
    let mut times = Vec::new();
    for (target, code, status) in cases {
        let begun = Instant::now();
        let origin = [("Origin", "https://desk.example")];
        let (mut socket, answer) = site.websocket_with(&target, &origin);
        assert_eq!(answer.status(), 101);
        let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
        assert_eq!(u16::from(frame.code), code, "{target}: {frame:?}");
        let reason: serde_json::Value = serde_json::from_str(&frame.reason).unwrap();
        assert!(reason["reason"].is_string(), "{reason}");
        // The library answers. Only the end of the connection is an event for a page.
        while socket.read().is_ok() {}
        times.push(begun.elapsed());

        let plainly = site.client().ask(Site::upgrade(&target));
        assert_eq!(plainly.status, status, "{target}: {plainly:?}");
        assert_eq!(plainly.header("upgrade"), None);
    }
    // Two seconds are the limit for who does not answer, and these six did: a busy machine may be
    // as late as that, but not for most of them.
    times.sort_unstable();
    assert!(times[2] < Duration::from_secs(2), "{times:?}");
    // Not a word of that where the route does not say so.
    let terminal = format!("/terminals/1?{}", tokens::expired(PODS[0]));
    let page = Site::upgrade(&terminal).replace("\r\n\r\n", "\r\nOrigin: https://x\r\n\r\n");
    assert_eq!(raw(site.address(), page).unwrap().status, 401);
}

#[test]
fn a_draining_edge_opens_no_tunnel_and_says_when_to_come_again() {
    let site = Site::configured_serving(
        &format!(
            "[server]\ndrain = \"40s\"\n[listen]\nheader_timeout = \"40s\"\n{}",
            screen("tunnel = { refusal = \"close\" }")
        ),
        |exchange: &mut Exchange| drop(exchange.from.read(&mut [0])),
    );
    // Something to wait for that does not end, and two that had begun before nobody was let in any
    // more.
    let mut waiting = site.client();
    waiting.send("GET /API/x HTTP/1.1\r\nHost: x\r\n\r\n");
    site.pyos.last();
    let (mut program, mut page) = (site.client(), site.client());
    program.send("GET ");
    page.send("GET ");
    let mut plain = site.client();
    assert_eq!(plain.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
    site.gateway.signal("TERM");
    site.gateway.wait_for_line("draining");
    let rest = |head: String| head.strip_prefix("GET ").unwrap().to_owned();
    let answer = program.ask(rest(Site::upgrade(&Site::screen())));
    assert_eq!((answer.status, answer.error().as_str()), (503, "draining"));
    assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()));
    let upgrade = Site::upgrade(&Site::screen());
    let upgrade = upgrade.replace("\r\n\r\n", "\r\nOrigin: https://desk.example\r\n\r\n");
    page.send(rest(upgrade));
    assert_eq!(page.head().unwrap().status, 101);
    assert_eq!(closed(&mut page).0, 1012);
}

/// It began before, and would be forgotten.
#[test]
fn a_tunnel_whose_pod_accepts_it_while_the_edge_drains_is_told_too() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let mut site = Site::configured_serving("[server]\ndrain = \"60s\"\n", move |exchange| {
        wait.lock().unwrap().recv().unwrap();
        let mut socket = websocket(exchange, "");
        while socket.read().is_ok() {}
        exchange.close();
    });
    let mut client = site.client();
    client.send(Site::upgrade(&Site::screen()));
    site.pods[0].last();
    site.gateway.signal("TERM");
    site.gateway.wait_for_line("draining");
    go.send(()).unwrap();
    let begun = Instant::now();
    if client.head().unwrap().status == 101 {
        assert_eq!(closed(&mut client), word(1012, "drain"));
    }
    drop(client);
    let (status, _) = site.gateway.wait(SOON * 2);
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < SOON * 2, "it was waited for to the end");
}

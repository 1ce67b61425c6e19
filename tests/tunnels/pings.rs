use std::io::{Read, Write};
use std::iter;
use std::thread;
use std::time::{Duration, Instant};

use super::rig::{
    BINARY, Frame, Held, LATE, PING, PONG, Rig, TEXT, frame, masked, plain, read_frame, screen,
};
use crate::support::{Client, noise};

/// Where nobody answers.
const EVERY: Duration = Duration::from_millis(500);
const OFTEN: &str = "tunnel = { ping = \"500ms\" }";

/// Long enough for a busy machine to answer in it.
const CALM: Duration = Duration::from_secs(2);
const SELDOM: &str = "tunnel = { ping = \"2s\" }";

/// Leaves time to say something before the first ping, and gives up a silent tunnel after three.
const IMPATIENT: &str = "tunnel = { ping = \"2500ms\" }\ntimeouts = { idle = \"8s\" }";
const IDLE: Duration = Duration::from_secs(8);

fn next(client: &mut Client) -> Option<Frame> {
    read_frame(&mut client.from)
}

/// The next frame that is no ping; pings are answered.
fn answering(client: &mut Client) -> Option<Frame> {
    loop {
        match next(client) {
            Some(frame) if frame.code == PING => {
                // The gateway may have ended meanwhile.
                let _ = client.from.get_mut().write_all(&masked(PONG, &frame.payload));
            }
            other => return other,
        }
    }
}

/// The next frame that is no ping; nothing is answered.
fn ignoring(pod: &mut Held) -> Option<Frame> {
    loop {
        match pod.frame() {
            Some(frame) if frame.code == PING => assert!(frame.masked, "{frame:?}"),
            other => return other,
        }
    }
}

#[test]
fn a_silent_client_is_asked_twice_and_then_both_sides_are_freed() {
    let rig = Rig::start(&screen(OFTEN));
    let before = rig.warm();
    let begun = Instant::now();
    let (mut client, mut pod) = rig.open();
    let mut pings = Vec::new();
    while let Some(frame) = next(&mut client) {
        assert_eq!((frame.code, frame.masked, frame.last), (PING, false, true));
        pings.push((begun.elapsed(), frame.payload));
    }
    let lasted = begun.elapsed();
    assert_eq!(pings.len(), 2, "{pings:?}");
    assert!(pings[0].0 >= EVERY && pings[1].0 >= EVERY * 2, "{pings:?}");
    assert_ne!(pings[0].1, pings[1].1);
    assert!(lasted >= EVERY * 3 && lasted < EVERY * 3 + LATE, "{lasted:?}");
    pod.wait_for_end();
    assert_eq!(rig.end(), "client_lost");
    rig.settled(before);
}

#[test]
fn a_client_that_answers_lives_on_and_its_answers_go_no_further() {
    let rig = Rig::start(&screen(SELDOM));
    let (mut client, mut pod) = rig.open();
    // One that does not answer gets two.
    for _ in 0..4 {
        let ping = next(&mut client).expect("it lives on");
        assert_eq!(ping.code, PING);
        client.send(masked(PONG, &ping.payload));
    }
    client.send(masked(TEXT, b"still"));
    // The pod answered none of its own pings, which is not held against one that never did.
    let mut asked = 0;
    let frame = loop {
        let frame = pod.frame().expect("it lives on");
        match frame.code {
            PING => asked += 1,
            _ => break frame,
        }
    };
    assert_eq!((frame.code, frame.payload.as_slice(), frame.masked), (TEXT, &b"still"[..], true));
    assert_eq!(asked, 2);
    pod.send(plain(TEXT, b"heard"));
    assert_eq!(answering(&mut client).unwrap().payload, b"heard");
}

#[test]
fn pings_and_pongs_of_the_two_ends_pass_as_they_are() {
    let rig = Rig::start(&screen(SELDOM));
    // All at once: the first ping of each comes after the same time.
    let tunnels = [0, 1, 7, 8, 9, 125].map(|size| (size, rig.open()));
    for (size, (mut client, mut pod)) in tunnels {
        // Nobody asked for it, and one of deskgate's own waits for an answer.
        assert_eq!(next(&mut client).unwrap().code, PING);
        client.send(masked(PONG, &noise(size)));
        let seen = ignoring(&mut pod).unwrap();
        assert_eq!((seen.code, seen.payload), (PONG, noise(size)));
        client.send(masked(PING, &noise(size)));
        // The gateway's own pings to the pod stand between, at most two of them.
        let mut seen = iter::from_fn(|| pod.frame()).take_while(|frame| frame.code == PING).take(3);
        assert!(seen.any(|frame| frame.payload == noise(size)), "{size}");
    }
}

#[test]
fn a_pod_that_answered_once_is_lost_when_it_stops() {
    let rig = Rig::start(&screen(SELDOM));
    let before = rig.warm();
    let (mut client, mut pod) = rig.open();
    let client = thread::spawn(move || answering(&mut client));
    for _ in 0..2 {
        let ping = pod.frame().expect("it lives on");
        assert_eq!((ping.code, ping.masked), (PING, true));
        pod.send(plain(PONG, &ping.payload));
    }
    let begun = Instant::now();
    let mut asked = 0;
    while let Some(frame) = pod.frame() {
        assert_eq!(frame.code, PING);
        asked += 1;
        // One more may have been on its way when the last answer was sent.
        assert!(asked <= 3, "it is asked on and on");
    }
    assert!(asked >= 2, "it is lost after {asked}");
    let lasted = begun.elapsed();
    assert!(lasted < CALM * 3 + LATE, "{lasted:?}");
    // No pong came to the client, nor anything else.
    assert_eq!(client.join().unwrap(), None);
    assert_eq!(rig.end(), "pod_lost");
    rig.settled(before);
}

#[test]
fn an_answer_in_pieces_is_taken_out_whole() {
    let rig = Rig::start(&screen(SELDOM));
    // All at once: the first ping of each comes after the same time.
    let tunnels: Vec<_> = (1..14).map(|cut| (cut, rig.open())).collect();
    for (cut, (mut client, mut pod)) in tunnels {
        let ping = next(&mut client).expect("it lives on");
        assert_eq!(ping.code, PING);
        let pong = masked(PONG, &ping.payload);
        let (first, second) = pong.split_at(cut);
        client.send([&masked(TEXT, b"before"), first].concat());
        // Most often long enough for the gateway to see the first piece alone.
        thread::sleep(Duration::from_millis(3));
        client.send([second, &masked(TEXT, b"after")].concat());
        for want in ["before", "after"] {
            let seen = ignoring(&mut pod).unwrap();
            assert_eq!((seen.code, seen.payload.as_slice()), (TEXT, want.as_bytes()), "{cut}");
        }
    }
}

#[test]
fn a_ping_goes_between_the_fragments_of_a_message_and_never_into_one() {
    let rig = Rig::start(&screen(SELDOM));
    let (mut client, mut pod) = rig.open();
    // Half a frame, for longer than a client may be silent: it cannot be asked, so it is not lost.
    let whole = frame(false, TEXT, &noise(1000), None);
    let (first, second) = whole.split_at(600);
    pod.send(first);
    let mut piece = vec![0; 600];
    client.from.read_exact(&mut piece).unwrap();
    assert_eq!(piece, first);
    thread::sleep(CALM * 4);
    client.stream().set_nonblocking(true).unwrap();
    let early = client.from.read(&mut [0; 600]).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
    client.stream().set_nonblocking(false).unwrap();
    pod.send(second);
    let mut piece = vec![0; second.len()];
    client.from.read_exact(&mut piece).unwrap();
    assert_eq!(piece, second);
    let ping = next(&mut client).expect("it is not lost");
    assert_eq!(ping.code, PING);
    client.send(masked(PONG, &ping.payload));
    pod.send(frame(true, 0, b"end", None));
    let last = answering(&mut client).unwrap();
    assert_eq!((last.code, last.payload.as_slice()), (0, &b"end"[..]));
}

#[test]
fn who_speaks_no_websocket_is_never_asked_and_lives_to_the_idle_limit() {
    thread::scope(|scope| {
        for (by_client, by_pod) in [(true, true), (false, true), (true, false)] {
            scope.spawn(move || speaks_garbage(by_client, by_pod));
        }
    });
}

fn speaks_garbage(by_client: bool, by_pod: bool) {
    let garbage = [0xff; 40];
    let rig = Rig::start(&screen(IMPATIENT));
    let (mut client, mut pod) = rig.open();
    let begun = Instant::now();
    if by_client {
        client.send(garbage);
        let mut seen = [0; 40];
        pod.stream.read_exact(&mut seen).unwrap();
        assert_eq!(seen, garbage);
    }
    if by_pod {
        pod.send(garbage);
        assert_eq!(client.bytes(40), garbage);
    }
    assert_eq!(client.rest(), b"", "by client: {by_client}, by pod: {by_pod}");
    let lasted = begun.elapsed();
    assert!(lasted >= IDLE && lasted < IDLE + LATE, "{lasted:?} {by_client} {by_pod}");
    assert_eq!(rig.end(), "idle", "by client: {by_client}, by pod: {by_pod}");
    pod.wait_for_end();
}

#[test]
fn a_route_that_never_pings_says_nothing_of_its_own() {
    let rig = Rig::start(&screen("tunnel = { ping = \"0s\" }\ntimeouts = { idle = \"1500ms\" }"));
    let (mut client, mut pod) = rig.open();
    assert_eq!(next(&mut client), None);
    assert_eq!(pod.frame(), None);
    assert_eq!(rig.end(), "idle");
}

/// While a frame that takes long is under way the client cannot be asked, but it takes bytes.
#[test]
fn a_client_that_takes_a_long_frame_slowly_is_not_lost() {
    const SIZE: usize = 6 << 20;
    let rig = Rig::start(&screen(SELDOM));
    let (picture, long) = (noise(SIZE), plain(BINARY, &noise(SIZE)));
    let (mut client, mut pod) = rig.open();
    let small = 64 * 1024;
    socket2::SockRef::from(client.stream()).set_recv_buffer_size(small).unwrap();
    let sender = thread::spawn(move || {
        pod.send(long);
        pod
    });
    let head = 10;
    let mut seen = Vec::with_capacity(SIZE + head);
    let begun = Instant::now();
    // A line that carries so much and no more.
    while seen.len() < SIZE + head {
        let mut piece = vec![0; small.min(SIZE + head - seen.len())];
        let read = client.from.read_exact(&mut piece);
        read.unwrap_or_else(|e| panic!("cut off at {} in {:?}: {e}", seen.len(), begun.elapsed()));
        seen.extend(piece);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(seen[head..] == picture);
    assert!(begun.elapsed() > CALM * 4, "too fast to prove anything: {:?}", begun.elapsed());
    let mut pod = sender.join().unwrap();
    let ping = next(&mut client).expect("it lives on");
    assert_eq!(ping.code, PING);
    client.send([masked(PONG, &ping.payload), masked(TEXT, b"still")].concat());
    assert_eq!(ignoring(&mut pod).unwrap().payload, b"still");
}

#[test]
fn a_client_that_takes_nothing_is_lost() {
    let rig = Rig::start(&screen(OFTEN));
    let before = rig.warm();
    let (client, mut pod) = rig.open();
    let sent = thread::spawn(move || {
        let piece = plain(BINARY, &noise(1 << 20));
        while pod.stream.get_mut().write_all(&piece).is_ok() {}
    });
    assert_eq!(rig.end(), "client_lost");
    sent.join().unwrap();
    rig.settled(before);
    drop(client);
}

/// Its silence means nothing as long as nobody listens.
#[test]
fn a_client_whose_pod_takes_nothing_is_not_lost() {
    const SIZE: usize = 12 << 20;
    let rig = Rig::start(&screen(SELDOM));
    let (picture, long) = (noise(SIZE), masked(BINARY, &noise(SIZE)));
    let (mut client, mut pod) = rig.open();
    let sender = thread::spawn(move || {
        client.send(long);
        client.send(masked(TEXT, b"all"));
        answering(&mut client)
    });
    thread::sleep(CALM * 4);
    let got = ignoring(&mut pod).expect("it lives on");
    assert!(got.payload == picture);
    assert_eq!(ignoring(&mut pod).unwrap().payload, b"all");
    pod.send(plain(TEXT, b"thanks"));
    assert_eq!(sender.join().unwrap().unwrap().payload, b"thanks");
}

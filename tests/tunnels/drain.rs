use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::rig::{CLOSE, Held, Rig, TEXT, masked, plain, read_frame, screen};
use crate::support::{Client, Gateway, KeyDir, SOON, eventually};

const TUNNELS: usize = 60;
const BUSY: usize = 15;
const DRAIN: Duration = Duration::from_secs(10);

/// Well after it, and before the end of one as long as where nobody says otherwise.
const DRAINED: Duration = Duration::from_secs(18);

/// Silent tunnels have nothing to say before their end.
const NO_PINGS: &str = "tunnel = { ping = \"0s\" }";

/// What the test and the two sides of its tunnels tell each other.
#[derive(Default)]
struct Signs {
    /// All tunnels are open, and the silent ones have been silent.
    open: AtomicBool,
    /// Busy tunnels that have carried a key since.
    busy: AtomicUsize,
    /// The gateway has ended.
    over: AtomicBool,
}

/// One side's user: types if he is busy, until he is told to go. When that was.
fn user(mut client: Client, busy: bool, signs: &Signs) -> Instant {
    client.stream().set_read_timeout(Some(SOON * 3)).unwrap();
    let mut typist: TcpStream = client.stream().try_clone().unwrap();
    thread::scope(|scope| {
        if busy {
            scope.spawn(move || {
                let end = Instant::now() + SOON * 3;
                while !signs.over.load(Ordering::SeqCst) && Instant::now() < end {
                    let key = if signs.open.load(Ordering::SeqCst) { b"K" } else { b"k" };
                    if typist.write_all(&masked(TEXT, key)).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let frame = read_frame(&mut client.from).expect("an end without a word");
        let at = Instant::now();
        assert_eq!(frame.close(), (1012, "{\"reason\":\"drain\"}".to_owned()));
        // The gateway may have ended meanwhile.
        let _ = client.from.get_mut().write_all(&masked(CLOSE, &1012_u16.to_be_bytes()));
        drop(client);
        at
    })
}

/// The other side: counts itself once it hears a key of now, and answers a goodbye.
fn desktop(mut pod: Held, signs: &Signs) {
    pod.stream.get_ref().set_read_timeout(Some(SOON * 3)).unwrap();
    let mut counted = false;
    while let Some(frame) = pod.frame() {
        if frame.code == CLOSE {
            let _ = pod.stream.get_mut().write_all(&plain(CLOSE, &1001_u16.to_be_bytes()));
            return;
        }
        if frame.payload == b"K" && !counted {
            counted = true;
            signs.busy.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn tunnels_are_closed_over_the_whole_drain_and_the_busy_ones_last() {
    let mut rig = Rig::start(&format!("[server]\ndrain = \"10s\"\n{}", screen(NO_PINGS)));
    let signs = Signs::default();
    let told = Mutex::new(Vec::new());
    let mut begun = Instant::now();
    thread::scope(|scope| {
        for n in 0..TUNNELS {
            let (client, pod) = rig.open();
            // Busy ones are neither the first nor the last to come.
            let busy = n % (TUNNELS / BUSY) == 1;
            let (signs, told) = (&signs, &told);
            scope.spawn(move || {
                let at = user(client, busy, signs);
                told.lock().unwrap().push((at, busy));
            });
            scope.spawn(move || desktop(pod, signs));
        }
        // Time for the silent ones to have been silent.
        thread::sleep(Duration::from_secs(1));
        signs.open.store(true, Ordering::SeqCst);
        eventually("the busy ones are busy", || {
            (signs.busy.load(Ordering::SeqCst) == BUSY).then_some(())
        });
        begun = Instant::now();
        rig.gateway.signal("TERM");
        let (status, _) = rig.gateway.wait(SOON);
        signs.over.store(true, Ordering::SeqCst);
        assert!(begun.elapsed() < DRAINED, "{:?}", begun.elapsed());
        assert_eq!(status.code(), Some(0));
    });
    let mut told = told.into_inner().unwrap();
    told.sort_unstable();
    assert_eq!(told.len(), TUNNELS);
    let times: Vec<_> = told.iter().map(|(at, _)| *at - begun).collect();
    assert!(times[TUNNELS - 1] - times[0] > DRAIN / 2, "{times:?}");
    // How even the spread is, is told where the clock is (`src/tunnel/drain/tests.rs`).
    assert!(times[TUNNELS - 1] < DRAINED, "{times:?}");
    // Those who are told during a pause of this machine hear of it together, so at the border the
    // order may be another one. Chance would make four of the last ones busy.
    let last = told.iter().rev().take(BUSY).filter(|(_, busy)| *busy).count();
    assert!(last > BUSY / 2, "{last} of the last {BUSY} were busy: {told:?}");
    let lines = rig.gateway.access("/websockify");
    assert_eq!(lines.len(), TUNNELS);
    assert!(lines.iter().all(|line| line["reason"] == "drain"), "{lines:#?}");
}

fn says(client: &mut Client, pod: &mut Held) {
    client.send(masked(TEXT, b"up"));
    assert_eq!(pod.frame().unwrap().payload, b"up");
    pod.send(plain(TEXT, b"down"));
    assert_eq!(read_frame(&mut client.from).unwrap().payload, b"down");
}

#[test]
fn another_gateway_takes_over_the_address_while_open_tunnels_live_on() {
    let keys = KeyDir::new();
    let mut old = Rig::start(&format!("{}{}", keys.auth(), screen(NO_PINGS)));
    let (mut client, mut pod) = old.open();
    let mut idle = Client::connect(old.gateway.address());
    assert_eq!(idle.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
    old.gateway.signal("QUIT");
    old.gateway.wait_for_line("retired");
    // Which would be refused while anybody else listens there.
    let new = eventually("another one listens", || {
        Gateway::start_at(
            &format!("[server]\nnode_name = \"new\"\n{}", keys.auth()),
            old.gateway.address(),
        )
    });
    let whose = "GET /node HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for _ in 0..20 {
        let answer = crate::support::raw(new.address(), whose).unwrap();
        assert!(answer.text().contains("new"), "{answer:?}");
    }
    says(&mut client, &mut pod);
    assert!(old.gateway.is_running());
    drop(new);
    says(&mut client, &mut pod);
    client.send(masked(CLOSE, &1000_u16.to_be_bytes()));
    assert_eq!(pod.frame().unwrap().close().0, 1000);
    drop((client, pod));
    let (status, _) = old.gateway.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert_eq!(old.end(), "client_close");
}

#[test]
fn a_retired_gateway_drains_at_its_limit_and_at_a_signal() {
    for (retire, signal) in [("5s", None), ("1h", Some("TERM"))] {
        let mut rig = Rig::start(&format!("[server]\ndrain = \"2s\"\nretire = \"{retire}\"\n"));
        let (mut client, mut pod) = rig.open();
        rig.gateway.signal("QUIT");
        rig.gateway.wait_for_line("retired");
        says(&mut client, &mut pod);
        if let Some(signal) = signal {
            rig.gateway.signal(signal);
        }
        let told = read_frame(&mut client.from).unwrap().close();
        assert_eq!(told.0, 1012, "{retire}");
        drop((client, pod));
        let (status, _) = rig.gateway.wait(SOON);
        assert_eq!(status.code(), Some(0));
    }
}

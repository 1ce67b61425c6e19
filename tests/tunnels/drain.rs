use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::rig::{CLOSE, LATE, Rig, TEXT, masked, plain, read_frame};
use crate::support::{Client, Gateway, KeyDir, eventually};

const TUNNELS: usize = 60;
const BUSY: usize = 15;
const DRAIN: Duration = Duration::from_secs(6);

/// One side's user: types if he is busy, until he is told to go. When that was.
fn user(mut client: Client, busy: bool, stop: &AtomicBool) -> Instant {
    let mut typist: TcpStream = client.stream().try_clone().unwrap();
    thread::scope(|scope| {
        if busy {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) && typist.write_all(&masked(TEXT, b"k")).is_ok()
                {
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let frame = read_frame(&mut client.from).expect("an end without a word");
        let at = Instant::now();
        assert_eq!(frame.close(), (1012, "{\"reason\":\"drain\"}".to_owned()));
        client.send(masked(CLOSE, &1012_u16.to_be_bytes()));
        drop(client);
        at
    })
}

#[test]
fn tunnels_are_closed_over_the_whole_drain_and_the_busy_ones_last() {
    let mut rig = Rig::start(&format!("[server]\ndrain = {:?}\n", "6s"));
    let stop = AtomicBool::new(false);
    let told = Mutex::new(Vec::new());
    let mut begun = Instant::now();
    thread::scope(|scope| {
        for n in 0..TUNNELS {
            let (client, mut pod) = rig.open();
            // Busy ones are neither the first nor the last to come.
            let busy = n % (TUNNELS / BUSY) == 1;
            let (stop, told) = (&stop, &told);
            scope.spawn(move || {
                let at = user(client, busy, stop);
                told.lock().unwrap().push((at, busy));
            });
            scope.spawn(move || {
                while let Some(frame) = pod.frame() {
                    if frame.code == CLOSE {
                        pod.send(plain(CLOSE, &1001_u16.to_be_bytes()));
                        return;
                    }
                }
            });
        }
        // Time for the silent ones to have been silent.
        thread::sleep(Duration::from_secs(1));
        begun = Instant::now();
        rig.gateway.signal("TERM");
        let (status, _) = rig.gateway.wait(DRAIN * 2);
        assert!(begun.elapsed() < DRAIN + LATE, "{:?}", begun.elapsed());
        assert_eq!(status.code(), Some(0));
        stop.store(true, Ordering::SeqCst);
    });
    let mut told = told.into_inner().unwrap();
    told.sort_unstable();
    assert_eq!(told.len(), TUNNELS);
    let times: Vec<_> = told.iter().map(|(at, _)| *at - begun).collect();
    assert!(times[TUNNELS - 1] - times[0] > DRAIN / 2, "{times:?}");
    // How even the spread is, is told where the clock is (`src/tunnel/drain/tests.rs`).
    assert!(times[TUNNELS - 1] < DRAIN + LATE, "{times:?}");
    let last = told.iter().rev().take(BUSY).filter(|(_, busy)| *busy).count();
    assert!(last + 1 >= BUSY, "{last} of the last {BUSY} were busy: {told:?}");
    let lines = rig.gateway.access("/websockify");
    assert_eq!(lines.len(), TUNNELS);
    assert!(lines.iter().all(|line| line["reason"] == "drain"), "{lines:#?}");
}

fn says(client: &mut Client, pod: &mut super::rig::Held) {
    client.send(masked(TEXT, b"up"));
    assert_eq!(pod.frame().unwrap().payload, b"up");
    pod.send(plain(TEXT, b"down"));
    assert_eq!(read_frame(&mut client.from).unwrap().payload, b"down");
}

#[test]
fn another_gateway_takes_over_the_address_while_open_tunnels_live_on() {
    let keys = KeyDir::new();
    let mut old = Rig::start(&keys.auth());
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
    let (status, _) = old.gateway.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0));
    assert_eq!(old.end(), "client_close");
}

#[test]
fn a_retired_gateway_drains_at_its_limit_and_at_a_signal() {
    for (retire, signal) in [("1s", None), ("1h", Some("TERM"))] {
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
        let (status, _) = rig.gateway.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0));
    }
}

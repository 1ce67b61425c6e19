use std::io::Write;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use super::rig::{BINARY, Held, Rig, TEXT, frame, masked, plain, read_frame};
use crate::support::{Client, eventually, noise};

/// One worker, so that whoever is in the way is in everybody's. Who takes nothing is not given up,
/// however long all of it lasts.
const ONE: &str = "[server]\nthreads = 1\n[tunnel]\nuser_timeout = \"10m\"\n\
    [[route]]\nname = \"websockify\"\ntunnel = { ping = \"0s\" }\n";

/// The same noise for everybody, made once.
fn piece(number: u64) -> Vec<u8> {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let mut piece = NOISE.get_or_init(|| noise(PIECE)).clone();
    piece[..8].copy_from_slice(&number.to_be_bytes());
    piece
}

const PIECE: usize = 1 << 20;
const PIECES: usize = 200;

/// Sends numbered pieces, as fast as they are taken, and waits for as long as they are not.
fn flood(mut pod: Held, pieces: usize) -> JoinHandle<Held> {
    pod.stream.get_ref().set_write_timeout(None).unwrap();
    thread::spawn(move || {
        for n in 0..pieces {
            if pod.stream.get_mut().write_all(&plain(BINARY, &piece(n as u64))).is_err() {
                break;
            }
        }
        pod
    })
}

fn take(client: &mut Client, pieces: usize) {
    for n in 0..pieces {
        let got = read_frame(&mut client.from).expect("cut off");
        assert!(got.payload == piece(n as u64), "piece {n} is another one");
    }
}

fn echo(client: &mut Client, pod: &mut Held) {
    for n in 0..200_u32 {
        client.send(masked(TEXT, &n.to_be_bytes()));
        assert_eq!(pod.frame().unwrap().payload, n.to_be_bytes());
        pod.send(plain(TEXT, &n.to_be_bytes()));
        assert_eq!(read_frame(&mut client.from).unwrap().payload, n.to_be_bytes());
    }
}

/// Waits until memory grows no more: whatever can pile up has.
fn settled(rig: &Rig) -> u64 {
    let (mut most, mut same) = (0, 0);
    eventually("memory stands still", || {
        thread::sleep(std::time::Duration::from_millis(20));
        let now = rig.gateway.rss();
        same = if now > most { 0 } else { same + 1 };
        most = most.max(now);
        (same > 25).then_some(most)
    })
}

#[test]
fn stalled_browsers_cost_little_and_delay_nobody_and_get_everything_in_the_end() {
    const STALLED: usize = 24;
    let rig = Rig::start(ONE);
    // What the first ones take for good.
    for _ in 0..3 {
        let (mut client, pod) = rig.open();
        let flooding = flood(pod, 20);
        take(&mut client, 20);
        drop(flooding.join());
    }
    let (mut lively, mut its_pod) = rig.open();
    echo(&mut lively, &mut its_pod);
    let before = rig.gateway.rss();
    let stalled: Vec<_> = (0..STALLED)
        .map(|_| {
            let (client, pod) = rig.open();
            (client, flood(pod, PIECES))
        })
        .collect();
    let each = settled(&rig).saturating_sub(before) / STALLED as u64;
    assert!(each <= 256, "{each} KiB for each stalled browser");
    echo(&mut lively, &mut its_pod);
    let mut stalled = stalled.into_iter();
    let (mut one, its_flood) = stalled.next().unwrap();
    thread::scope(|scope| {
        // Others go on while it takes what has waited.
        scope.spawn(|| echo(&mut lively, &mut its_pod));
        take(&mut one, PIECES);
    });
    drop(its_flood.join().unwrap());
    for (client, flooding) in stalled {
        drop(client);
        drop(flooding.join());
    }
}

#[test]
fn a_stalled_pod_costs_little_and_gets_everything_in_the_end() {
    let rig = Rig::start(ONE);
    rig.warm();
    let (mut client, mut pod) = rig.open();
    client.stream().set_write_timeout(None).unwrap();
    let before = rig.gateway.rss();
    let flooding = thread::spawn(move || {
        for n in 0..64_u64 {
            client.send(frame(true, BINARY, &piece(n), Some([0; 4])));
        }
        client
    });
    let grown = settled(&rig).saturating_sub(before);
    assert!(grown <= 2048, "{grown} KiB");
    for n in 0..64_u64 {
        assert!(pod.frame().expect("cut off").payload == piece(n), "piece {n} is another one");
    }
    drop(flooding.join().unwrap());
}

#[test]
fn when_memory_is_short_a_stalled_browser_costs_a_small_piece() {
    const STALLED: usize = 24;
    let cgroup = tempfile::TempDir::new().unwrap();
    let memory = |name: &str, bytes: u64| {
        std::fs::write(cgroup.path().join(name), format!("{bytes}\n")).unwrap();
    };
    memory("memory.max", 1000);
    memory("memory.current", 500);
    let rig = Rig::start(&format!("{ONE}[overload]\ncgroup = {:?}\n", cgroup.path()));
    // They have got large pieces so far.
    let opened: Vec<_> = (0..STALLED)
        .map(|_| {
            let (mut client, pod) = rig.open();
            let flooding = flood(pod, 3);
            take(&mut client, 3);
            (client, flooding.join().unwrap())
        })
        .collect();
    memory("memory.current", 930);
    rig.gateway.wait_for_line("small_buffers");
    let before = settled(&rig);
    let stalled: Vec<_> =
        opened.into_iter().map(|(client, pod)| (client, flood(pod, PIECES))).collect();
    let each = settled(&rig).saturating_sub(before) / STALLED as u64;
    assert!(each <= 40, "{each} KiB for each stalled browser");
    for (client, flooding) in stalled {
        drop(client);
        drop(flooding.join());
    }
}

/// What a keystroke's answer may have before it: buffers of both connections, whatever the system
/// makes of them. A relay that served the picture first would never come to the key.
const BETWEEN: usize = 64 << 20;

#[test]
fn keys_come_back_while_the_same_tunnel_carries_a_picture_as_fast_as_it_goes() {
    const KEYS: u32 = 50;
    const PICTURE: usize = 64 * 1024;
    let rig = Rig::start(ONE);
    let (mut client, pod) = rig.open();
    let (key, keys) = channel();
    let mut pixels = pod.stream.get_ref().try_clone().unwrap();
    let mut pod = pod;
    let listening = thread::spawn(move || {
        for _ in 0..KEYS {
            key.send(pod.frame().unwrap().payload).unwrap();
        }
        pod
    });
    let painting = thread::spawn(move || {
        let (mut pictures, mut echoed) = (0_u64, 0);
        while echoed < KEYS {
            while let Ok(key) = keys.try_recv() {
                pixels.write_all(&plain(TEXT, &key)).unwrap();
                echoed += 1;
            }
            pixels.write_all(&plain(BINARY, &piece(pictures)[..PICTURE])).unwrap();
            pictures += 1;
        }
    });
    let mut pictures = 0_u64;
    for number in 0..KEYS {
        client.send(masked(TEXT, &number.to_be_bytes()));
        let before = pictures;
        loop {
            let got = read_frame(&mut client.from).expect("cut off");
            if got.code == TEXT {
                assert_eq!(got.payload, number.to_be_bytes());
                break;
            }
            assert!(got.payload == piece(pictures)[..PICTURE], "picture {pictures} is another one");
            pictures += 1;
            let between = (pictures - before) as usize * PICTURE;
            assert!(between <= BETWEEN, "key {number} did not come back within {between} bytes");
        }
    }
    painting.join().unwrap();
    drop(listening.join().unwrap());
}

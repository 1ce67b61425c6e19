use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::rig::{length, metric, skipped, tell, timed};
use crate::support::{Client, KeyDir, binary, eventually, free_port, raw};

/// More log lines than wait for a reader (telemetry/output.rs), of at least 300 bytes each.
const TOO_MANY: usize = 8 * 1024 * 1024 / 300;

const DROPPED: &str = "deskgate_log_lines_dropped_total";

/// A gateway whose standard output is the test's.
struct Process {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    _keys: KeyDir,
}

impl Process {
    fn start(stdout: Stdio) -> Self {
        let keys = KeyDir::new();
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, admin) = (local(free_port()), local(free_port()));
        let config = keys.path().join("deskgate.toml");
        let text = format!(
            "[listen]\nhttp = [\"{address}\"]\n[server]\nthreads = 2\nlinger = \"0s\"\n\
             drain = \"100ms\"\n[admin]\nlisten = [\"{admin}\"]\n{}",
            keys.auth()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(&config).stdout(stdout).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let process = Self { child, address, admin, _keys: keys };
        eventually("it serves", || process.served("/healthz").then_some(()));
        process
    }

    fn served(&self, path: &str) -> bool {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        raw(self.address, head).is_ok_and(|answer| answer.status == 200)
    }

    /// So many requests, each of which writes a line. The slowest answer.
    fn serve(&self, count: usize) -> Duration {
        const CLIENTS: usize = 8;
        let ask = || {
            let mut client = Client::connect(self.address);
            let mut slowest = Duration::ZERO;
            for _ in 0..count.div_ceil(CLIENTS) {
                let (answer, took) =
                    timed(|| client.ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").status);
                assert_eq!(answer, 200);
                slowest = slowest.max(took);
            }
            slowest
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
        })
    }

    fn dropped(&self) -> f64 {
        metric(self.admin, DROPPED)
    }

    /// Asks it to end, which it must soon.
    fn end(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("/bin/kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        eventually("its end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What waits in vain at the end is given up after two seconds.
fn ends_well(process: &mut Process) {
    assert_eq!(process.end().code(), Some(0));
}

#[test]
fn a_device_that_is_always_full_costs_lines_and_nothing_else() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(full.metadata().unwrap().file_type().is_char_device());
    let mut process = Process::start(full.into());
    let slowest = process.serve(400);
    eventually("lost lines are counted", || (process.dropped() >= 400.0).then_some(()));
    ends_well(&mut process);
    tell("log on /dev/full: slowest of 400 requests", slowest);
}

/// A file system of 64 KiB in memory.
struct Tiny(TempDir);

impl Tiny {
    fn mounted() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder.path());
        if mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        skipped("a disk that is full needs root, to mount one");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_the_lines_of_that_time() {
    let Some(disk) = Tiny::mounted() else { return };
    let path = disk.path().join("log");
    let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let mut process = Process::start(open().into());
    let slowest = process.serve(800);
    let written = || std::fs::read_to_string(&path).unwrap().lines().count() as f64;
    let lost = eventually("each line is written or lost", || {
        Some(process.dropped()).filter(|lost| lost + written() >= 800.0)
    });
    assert!(lost > 400.0, "{lost}");
    // Somebody makes room, as a rotation of logs does.
    File::set_len(&open(), 0).unwrap();
    assert!(process.served("/healthz?after"));
    let text = eventually("lines again", || {
        let text = std::fs::read_to_string(&path).unwrap();
        (text.contains("/healthz?after") && text.ends_with('\n')).then_some(text)
    });
    // One line may have broken off, and spoils no other.
    let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok());
    assert!(whole.count() + 1 >= text.lines().count(), "{text}");
    assert!(process.dropped() < lost + 20.0);
    ends_well(&mut process);
    tell("log on a full disk: slowest of 800 requests, lines lost", (slowest, lost));
}

#[test]
fn a_reader_that_stalls_costs_lines_and_stalls_no_request() {
    let mut process = Process::start(Stdio::piped());
    let before = process.serve(400);
    let slowest = process.serve(TOO_MANY);
    eventually("lost lines are counted", || (process.dropped() > 0.0).then_some(()));
    assert!(process.served("/healthz"));
    // Nobody reads even now, and the queue is full.
    ends_well(&mut process);
    tell(
        "nobody reads the log: slowest request before and while lines are lost",
        (before, slowest),
    );
}

#[test]
fn a_reader_that_is_gone_costs_lines_and_ends_nothing() {
    let mut process = Process::start(Stdio::piped());
    drop(process.child.stdout.take());
    // What another thread starts at this moment has a copy of it until it runs.
    eventually("nobody reads any more", || {
        (process.served("/healthz") && process.dropped() > 0.0).then_some(())
    });
    let before = process.dropped();
    let slowest = process.serve(400);
    eventually("lost lines are counted", || (process.dropped() >= before + 400.0).then_some(()));
    thread::sleep(length());
    assert!(process.served("/healthz"));
    ends_well(&mut process);
    tell("the log's reader is gone: slowest of 400 requests", slowest);
}

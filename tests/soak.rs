//! A long day: tunnels that talk, others that come and go, requests of every kind, uploads and
//! reloads, while nothing may grow and no byte be lost.
//!
//! It lasts for 40 seconds, or for as many as `DESKGATE_SOAK` says (`make soak`: two hours, with 2,000
//! tunnels).

mod load;
mod samples;
mod wire;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{KeyDir, binary, eventually, free_port, raw};
use load::{Load, Ports};
use samples::{Sample, Samples};

const USUAL: u64 = 40;

/// What may be added to over the whole time that is looked at, by a straight line through all
/// samples: what comes and goes with the traffic of a moment. Threads that read files come when several
/// are read at once, and go when there was nothing to do for a while.
const MOST: Sample = Sample { memory: 6_000.0, descriptors: 40.0, threads: 12.0, tasks: 80.0 };

/// Threads there may be at any time: at most 32 for files and names beside each worker.
const THREADS: f64 = 3.0 * 33.0 + 5.0;

fn seconds() -> u64 {
    let given = std::env::var("DESKGATE_SOAK").ok();
    given.map_or(USUAL, |text| text.parse().expect("DESKGATE_SOAK: seconds"))
}

/// Tunnels that talk all the time.
fn tunnels() -> usize {
    if seconds() > USUAL { 2000 } else { 300 }
}

/// A gateway whose log is read and added up, not kept.
struct Edge {
    child: Child,
    place: Place,
    told: Arc<Told>,
}

/// Where it listens, and what it serves.
struct Place {
    address: SocketAddr,
    admin: SocketAddr,
    keys: KeyDir,
    ports: Ports,
    files: TempDir,
}

/// What the log says of tunnels that have ended.
#[derive(Default)]
struct Told {
    tunnels: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Ended otherwise than by their clients.
    broken: AtomicU64,
    reloads: AtomicU64,
}

impl Told {
    fn read(&self, line: &str) {
        if line.contains("configuration reloaded") {
            self.reloads.fetch_add(1, Ordering::SeqCst);
        }
        if !line.contains("\"status\":101") {
            return;
        }
        let line: Value = serde_json::from_str(line).unwrap();
        let add = |to: &AtomicU64, what: u64| {
            to.fetch_add(what, Ordering::SeqCst);
        };
        add(&self.received, line["received"].as_u64().unwrap());
        add(&self.sent, line["sent"].as_u64().unwrap());
        add(&self.broken, u64::from(line["reason"] != "client_close"));
        add(&self.tunnels, 1);
    }
}

impl Place {
    fn new(ports: Ports) -> Self {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, admin) = (local(free_port()), local(free_port()));
        let files = TempDir::new().unwrap();
        load::write_files(files.path());
        Self { address, admin, keys: KeyDir::new(), ports, files }
    }

    fn file(&self) -> PathBuf {
        self.keys.path().join("deskgate.toml")
    }

    /// Another configuration each round, which means the same.
    fn write(&self, round: u64) {
        let Self { address, admin, ports: Ports { pod, service }, .. } = self;
        let (files, auth) = (self.files.path(), self.keys.auth());
        let (first, again) = (400 + round % 100, 500 + round % 100);
        let text = format!(
            "[listen]\nhttp = [\"{address}\"]\n[server]\nthreads = 2\ndrain = \"2s\"\n\
             linger = \"0s\"\n[admin]\nlisten = [\"{admin}\"]\n\
             [desktop]\ncidrs = [\"127.0.0.0/8\"]\nports = {{ vnc = {pod}, filer = {pod} }}\n\
             [upstreams]\npyos = {{ host = \"127.0.0.1\", port = {service} }}\n\
             [[route]]\nname = \"pyos\"\ntimeouts = {{ read = \"{first}s\" }}\n\
             [[route]]\nname = \"static\"\nmatch = {{ prefix = \"/static\" }}\n\
             backend = {{ files = {files:?} }}\nrewrite = \"{{rest}}\"\nheaders = \"static\"\n\
             timeouts = {{ read = \"{again}s\" }}\n{auth}"
        );
        let new = self.keys.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }
}

impl Edge {
    fn start(ports: Ports) -> Self {
        let (place, told) = (Place::new(ports), Arc::new(Told::default()));
        place.write(0);
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(place.file()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reads = Arc::clone(&told);
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| reads.read(&line)));
        let edge = Self { child, place, told };
        eventually("it serves", || edge.metrics().map(drop));
        edge
    }

    fn reload(&self, round: u64) {
        self.place.write(round);
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("/bin/kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn metrics(&self) -> Option<String> {
        let admin = self.place.admin;
        let head = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        raw(admin, head).ok().map(|answer| answer.text())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Allows this process, and so those that it starts, as many descriptors as the system gives.
fn allow_descriptors() {
    let pid = std::process::id().to_string();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = line.split_whitespace().nth(4).unwrap();
    let limit = format!("--nofile={hard}:{hard}");
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
}

#[test]
fn nothing_grows_and_no_byte_is_lost_however_long_it_takes() {
    allow_descriptors();
    let load = Load::start();
    let mut edge = Edge::start(load.ports);
    load.begin(edge.place.address, tunnels());
    load.settle(tunnels());
    let begun = Instant::now();
    let whole = Duration::from_secs(seconds());
    // First everything that stays is taken: buffers, pools, threads for files.
    let warm = whole / 4;
    let step = (whole / 120).max(Duration::from_millis(250));
    let mut samples = Samples::default();
    let mut round = 0;
    while begun.elapsed() < whole {
        thread::sleep(step);
        // A reload about every eight samples.
        if samples.seen().is_multiple_of(8) {
            round += 1;
            edge.reload(round);
        }
        let sample = Sample::of(edge.child.id(), &edge.metrics().expect("metrics"));
        assert!(sample.threads <= THREADS, "{sample:?}");
        samples.add(begun.elapsed(), sample, begun.elapsed() > warm);
        load.check();
    }
    let done = load.end();
    let count = || edge.told.tunnels.load(Ordering::SeqCst);
    eventually("every tunnel's line", || (count() >= done.tunnels).then_some(()));
    samples::tell(&done, &samples, round);

    let of = |what: &AtomicU64| what.load(Ordering::SeqCst);
    assert!(done.messages > done.tunnels && done.requests > 0 && done.uploads > 0, "{done:?}");
    assert_eq!(of(&edge.told.tunnels), done.tunnels);
    assert_eq!(of(&edge.told.broken), 0);
    assert_eq!((of(&edge.told.received), of(&edge.told.sent)), (done.sent, done.received));
    assert!(of(&edge.told.reloads) > 0);
    let grown = samples.growth();
    assert!(grown.within(&MOST), "{grown:?} is more than {MOST:?}");
    edge.signal("TERM");
    let status = eventually("its end", || edge.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

//! What the tests of faults share: pods in processes of their own, a gateway before them, and a heart
//! that is felt all the time.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::talk::Talk;
use crate::support::{Gateway, PODS, Response, SOON, eventually, free_port, raw};

/// How long something is away.
pub(super) fn length() -> Duration {
    let given = std::env::var("DESKGATE_CHAOS").ok();
    let seconds = given.map_or(2, |text| text.parse().expect("DESKGATE_CHAOS: seconds"));
    Duration::from_secs(seconds)
}

/// Longest wait for a talk that was held up: after an outage TCP tries again when as much time has
/// passed once more.
pub(super) fn patience() -> Duration {
    length() * 3 + SOON
}

/// A line of the table that `make chaos` prints.
#[expect(clippy::print_stdout, reason = "figures are what it is run for")]
pub(super) fn tell(what: &str, figure: impl std::fmt::Debug) {
    println!("chaos: {what}: {figure:?}");
}

pub(super) fn skipped(why: &str) {
    tell("skipped", why);
}

/// Waits as long as the fault lasts. Nothing is waited for: it is the fault.
pub(super) fn endure() {
    thread::sleep(length());
}

/// How long it took.
pub(super) fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = act();
    (done, begun.elapsed())
}

/// A pod or a service in a process of its own (pod.py).
pub(super) struct Pod {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pod {
    pub(super) fn start(name: &str, address: &str, port: u16) -> Self {
        Self::run(&mut Command::new("python3"), name, address, port)
    }

    /// The same in a network namespace.
    pub(super) fn start_in(namespace: &str, name: &str, address: &str, port: u16) -> Self {
        let mut command = Command::new("ip");
        Self::run(command.args(["netns", "exec", namespace, "python3"]), name, address, port)
    }

    fn run(command: &mut Command, name: &str, address: &str, port: u16) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/pod.py");
        command.arg(script).args([name, address, &port.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3: run scripts/setup test");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut pod = Self { child, input, output };
        assert_eq!(pod.line(), "ready");
        pod
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What it was sent.
    pub(super) fn account(&mut self) -> Value {
        self.input.write_all(b"\n").unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }

    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("/bin/kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
        if name == "STOP" {
            // Its threads stop one after the other.
            eventually("it stands still", || self.stands_still().then_some(()));
        }
    }

    /// Whether none of its threads runs.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.flatten().all(|thread| {
            // One that has ended meanwhile runs no more.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" T"))
        })
    }

    /// Ends it without a word.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.end();
    }
}

/// Two pods and pyos, and a gateway before them with an operators' interface.
pub(super) struct Rig {
    pub(super) gateway: Gateway,
    pub(super) admin: SocketAddr,
    pub(super) pods: [Option<Pod>; 2],
    pub(super) pyos: Option<Pod>,
    pub(super) port: u16,
    pub(super) pyos_port: u16,
}

pub(super) const NAMES: [&str; 2] = ["ida", "bob"];

impl Rig {
    /// `more` may hold whole tables that are not named here.
    pub(super) fn start(more: &str) -> Self {
        Self::with_pyos_at("127.0.0.1", more, &[])
    }

    pub(super) fn with_pyos_at(host: &str, more: &str, env: &[(&str, &str)]) -> Self {
        let (port, pyos_port, admin_port) = (free_port(), free_port(), free_port());
        let names = ["vnc", "filer", "terminals", "broadcast"];
        let ports = names.map(|name| format!("{name} = {port}")).join(", ");
        let toml = format!(
            "[desktop]\nports = {{ {ports} }}\ncidrs = [\"127.0.0.0/8\", \"198.18.0.0/15\"]\n\
             [upstreams]\npyos = {{ host = \"{host}\", port = {pyos_port} }}\n\
             [admin]\nlisten = [\"127.0.0.1:{admin_port}\"]\n{more}"
        );
        let pod = |at: usize| Some(Pod::start(NAMES[at], PODS[at], port));
        let pods = [pod(0), pod(1)];
        let local = host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback());
        let pyos = local.then(|| Pod::start("pyos", host, pyos_port));
        let gateway = Gateway::start_with(&toml, env);
        let admin = ([127, 0, 0, 1], admin_port).into();
        Self { gateway, admin, pods, pyos, port, pyos_port }
    }

    pub(super) fn get(&self, target: &str, token: Option<&str>) -> Response {
        let field = token.map(|token| format!("ABCAuthorization: {token}\r\n")).unwrap_or_default();
        let head = format!("GET {target} HTTP/1.1\r\nHost: desk.example\r\n{field}\r\n");
        raw(self.gateway.address(), head).unwrap()
    }

    /// Who answers for this token.
    pub(super) fn who(&self, token: &str) -> String {
        let answer = self.get("/filer", Some(token));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    }

    /// Asks until this pod answers; never may another one. How long that took.
    pub(super) fn welcome(&self, at: usize, token: impl Fn() -> String) -> Duration {
        let answered = || {
            let answer = self.get("/filer", Some(&token()));
            (answer.status == 200).then(|| assert_eq!(answer.text(), NAMES[at]))
        };
        timed(|| eventually("a new request works", answered)).1
    }

    /// A value of the metrics.
    pub(super) fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name)
    }

    pub(super) fn talk(&self, at: usize, token: &str) -> Talk {
        Talk::start(self.gateway.address(), token, NAMES[at])
    }

    /// Tells what the pod was sent; it must be whole.
    pub(super) fn account(&mut self, at: usize) -> Value {
        let account = self.pods[at].as_mut().unwrap().account();
        assert_eq!(account["bad"], serde_json::json!([]), "{account}");
        account
    }
}

pub(super) fn metric(admin: SocketAddr, name: &str) -> f64 {
    let head = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let text = raw(admin, head).unwrap().text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Asks the probes all the time.
pub(super) struct Heart {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Heart {
    /// `/healthz` where clients come, `/livez` and `/readyz` where operators do.
    pub(super) fn of(rig: &Rig) -> Self {
        let asked =
            [(rig.gateway.address(), "/healthz"), (rig.admin, "/livez"), (rig.admin, "/readyz")];
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut beats, mut longest) = (0, Duration::ZERO);
            while !over.load(Ordering::SeqCst) {
                for (address, path) in asked {
                    let head = format!(
                        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                    );
                    let (answer, took) = timed(|| raw(address, head).unwrap());
                    assert_eq!(answer.status, 200, "{path}: {answer:?}");
                    longest = longest.max(took);
                    beats += 1;
                }
                thread::sleep(Duration::from_millis(50));
            }
            (beats, longest)
        });
        Self { stop, thread }
    }

    /// It never missed a beat. The longest one.
    pub(super) fn rest(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        let (beats, longest) = self.thread.join().unwrap();
        assert!(beats > 0);
        longest
    }
}

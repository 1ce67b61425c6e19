//! The real binary, from start to end.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use deskgate::auth::mint::KeySet;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

use super::client::raw;
use super::{eventually, free_port, tokens};

/// The program under test: the one that was built with the tests, or the one that `DESKGATE_BIN` names, such
/// as a release.
pub(crate) fn binary() -> OsString {
    std::env::var_os("DESKGATE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_deskgate").into())
}

const END_WITHIN: Duration = Duration::from_secs(3);

/// A running gateway; dropping it ends the process.
pub(crate) struct Gateway {
    child: Child,
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    dir: TempDir,
    toml: String,
}

impl Gateway {
    /// Starts it with this configuration, on a free loopback port whatever `listen.http` says.
    /// Without keys in `[auth]` it gets those of [`tokens::keys`].
    pub(crate) fn start(toml: &str) -> Self {
        Self::start_with(toml, &[])
    }

    /// The same with environment variables.
    pub(crate) fn start_with(toml: &str, env: &[(&str, &str)]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self::try_start(address, toml, env).expect("a port that nobody listens at")
    }

    /// Another process with the same configuration, at another port.
    pub(crate) fn sibling(&self) -> Self {
        Self::start(&self.toml)
    }

    /// Another process at the same address, which takes over from this one.
    pub(crate) fn successor(&self, toml: &str) -> Self {
        Self::try_start(self.address, toml, &[]).unwrap()
    }

    /// Starts it on this address; none if another one listens there.
    pub(crate) fn start_at(toml: &str, address: SocketAddr) -> Option<Self> {
        Self::try_start(address, toml, &[])
    }

    /// Starts it with no more than so many descriptors.
    pub(crate) fn with_descriptors(toml: &str, most: u32) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]).arg(binary());
        Self::try_run(limited, address, toml, &[]).unwrap()
    }

    fn try_start(address: SocketAddr, toml: &str, env: &[(&str, &str)]) -> Option<Self> {
        Self::try_run(Command::new(binary()), address, toml, env)
    }

    fn try_run(
        mut command: Command,
        address: SocketAddr,
        toml: &str,
        env: &[(&str, &str)],
    ) -> Option<Self> {
        allow_descriptors();
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("deskgate.toml");
        std::fs::write(&config, completed(toml, dir.path(), address)).unwrap();
        let mut child = command
            .args(["run", "--config"])
            .arg(&config)
            .env_clear()
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::default();
        let readers = vec![
            capture(child.stdout.take().unwrap(), &lines),
            capture(child.stderr.take().unwrap(), &lines),
        ];
        let toml = toml.to_owned();
        let mut gateway = Self { child, address, lines, readers, dir, toml };
        let alive = eventually("the gateway answers", || {
            if gateway.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            gateway.line_with("listening")?;
            // As the health check of a load balancer that speaks the PROXY protocol.
            let behind_proxy = gateway.toml.contains("proxy_protocol");
            let greeting = if behind_proxy { "PROXY UNKNOWN\r\n" } else { "" };
            let probe = "GET /healthz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";
            raw(address, format!("{greeting}{probe}"))
                .is_ok_and(|answer| answer.status == 200)
                .then_some(true)
        });
        if !alive {
            for reader in gateway.readers.drain(..) {
                reader.join().unwrap();
            }
            let said = gateway.output();
            assert!(said.contains("Address already in use"), "it did not start:\n{said}");
            return None;
        }
        Some(gateway)
    }

    /// Replaces its configuration file, as an editor or the kubelet would.
    pub(crate) fn reconfigure(&self, toml: &str) {
        let new = self.dir.path().join("new.toml");
        std::fs::write(&new, completed(toml, self.dir.path(), self.address)).unwrap();
        std::fs::rename(new, self.dir.path().join("deskgate.toml")).unwrap();
    }

    /// Changes the file that it runs with.
    pub(crate) fn reconfigure_with(&self, change: impl FnOnce(&str) -> String) {
        let (file, new) = (self.dir.path().join("deskgate.toml"), self.dir.path().join("new.toml"));
        std::fs::write(&new, change(&std::fs::read_to_string(&file).unwrap())).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far on both streams.
    pub(crate) fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    fn line_with(&self, text: &str) -> Option<String> {
        self.lines.lock().unwrap().iter().find(|line| line.contains(text)).cloned()
    }

    /// Waits for a line that holds this text.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        eventually(&format!("a line with {text}"), || self.line_with(text))
    }

    /// The access log lines so far whose target begins with this path.
    pub(crate) fn access(&self, path: &str) -> Vec<Value> {
        let asked = format!(":\"{path}");
        let lines = self.lines.lock().unwrap();
        let json = lines.iter().filter(|line| line.contains(&asked));
        json.map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|line| line["status"].is_u64())
            .collect()
    }

    /// Waits for the first access log line of this path.
    pub(crate) fn logged(&self, path: &str) -> Value {
        eventually(&format!("an access log line of {path}"), || {
            self.access(path).into_iter().next()
        })
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end by itself; how long that took counts from now.
    pub(crate) fn wait(&mut self, within: Duration) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let took = start.elapsed();
                // All that it has said is there.
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return (status, took);
            }
            assert!(start.elapsed() < within, "still running after {within:?}:\n{}", self.output());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Memory in use, in KiB.
    pub(crate) fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Memory in use that is no file's, in KiB.
    pub(crate) fn anonymous(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, kind: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(kind)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal("TERM");
            let deadline = Instant::now() + END_WITHIN;
            while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if Instant::now() > deadline {
                    drop(self.child.kill());
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        drop(self.child.wait());
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }
}

/// Clients and pods of all tests are in one process: it may have as many descriptors as it is allowed.
fn allow_descriptors() {
    static ALLOWED: Once = Once::new();
    ALLOWED.call_once(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    });
}

/// Without a program in between: it may have to come at once.
fn signal(pid: u32, name: &str) {
    let signal = match name {
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "QUIT" => Signal::QUIT,
        "STOP" => Signal::STOP,
        "TERM" => Signal::TERM,
        other => panic!("no signal {other}"),
    };
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn capture(from: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines.lock().unwrap().push(text);
            line.clear();
        }
    })
}

/// Adds what every test needs and few say.
fn completed(text: &str, dir: &Path, address: SocketAddr) -> String {
    let mut config: toml::Table = text.parse().unwrap();
    set(&mut config, "listen", "http", vec![address.to_string()].into());
    default(&mut config, "server", "threads", 2.into());
    default(&mut config, "admin", "listen", toml::Value::Array(Vec::new()));
    default(&mut config, "server", "linger", "0s".into());
    default(&mut config, "server", "drain", "100ms".into());
    default(&mut config, "desktop", "cidrs", vec!["127.0.0.0/8"].into());
    // The memory of whatever the tests run in is not the gateway's.
    default(&mut config, "overload", "cgroup", dir.join("no-limit").to_str().unwrap().into());
    let auth = config.get("auth").and_then(toml::Value::as_table);
    if !auth.is_some_and(|auth| auth.contains_key("signing_keys")) {
        write_keys(dir, tokens::keys());
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        set(&mut config, "auth", "signing_keys", path(KeySet::SIGNING_PUBLIC).into());
        set(&mut config, "auth", "payload_keys", path(KeySet::PAYLOAD_PRIVATE).into());
    }
    config.to_string()
}

fn table<'c>(config: &'c mut toml::Table, name: &str) -> &'c mut toml::Table {
    let entry = config.entry(name).or_insert_with(|| toml::Table::new().into());
    entry.as_table_mut().unwrap()
}

fn set(config: &mut toml::Table, name: &str, key: &str, value: toml::Value) {
    table(config, name).insert(key.to_owned(), value);
}

fn default(config: &mut toml::Table, name: &str, key: &str, value: toml::Value) {
    table(config, name).entry(key).or_insert(value);
}

/// Writes the six files of a key set.
pub(crate) fn write_keys(dir: &Path, keys: &KeySet) {
    for (name, text) in keys.files() {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

/// The run's keys as files.
pub(crate) struct KeyDir(TempDir);

impl KeyDir {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        write_keys(dir.path(), tokens::keys());
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The section that names what the gateway needs of them: three lines.
    pub(crate) fn auth(&self) -> String {
        format!(
            "[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n",
            self.path().join(KeySet::SIGNING_PUBLIC),
            self.path().join(KeySet::PAYLOAD_PRIVATE)
        )
    }
}

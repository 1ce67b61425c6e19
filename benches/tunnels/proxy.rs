//! The candidates: how each proxy is configured and started.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::process::{Running, descriptors};
use crate::tunnel::{self, Door};
use crate::{HOST, Outcome, upstream};

/// Tunnels through one of the proxy's addresses and to one pod: another has all its client ports free.
const PER_POD: usize = 10_000;

/// For a process to be ready.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Times a start is tried: someone else may take a port meanwhile.
const TRIES: usize = 3;

/// Life of the desktop tokens.
const TOKEN_TTL: &str = "6h";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Candidate {
    /// nginx with its default buffers
    Nginx,
    /// nginx with buffers of 64 KiB
    #[value(name = "nginx-64k")]
    Nginx64k,
    /// HAProxy with its default buffers
    Haproxy,
    /// deskgate, which verifies a token for each tunnel
    Deskgate,
}

impl Candidate {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Nginx64k, Self::Haproxy, Self::Deskgate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Nginx64k => "nginx-64k",
            Self::Haproxy => "haproxy",
            Self::Deskgate => "deskgate",
        }
    }

    /// The program, or what to do to have it.
    fn program(self) -> Outcome<PathBuf> {
        match self {
            Self::Nginx | Self::Nginx64k => find("nginx", "nginx-light"),
            Self::Haproxy => find("haproxy", "haproxy"),
            Self::Deskgate => {
                let built = option_env!("CARGO_BIN_EXE_deskgate").map(PathBuf::from);
                let program = std::env::var_os("DESKGATE_BIN").map(PathBuf::from).or(built);
                let program = program.ok_or("DESKGATE_BIN names no deskgate")?;
                if program.is_file() {
                    return Ok(program);
                }
                Err(format!("there is no {}", program.display()).into())
            }
        }
    }

    /// What it calls itself.
    pub(crate) fn version(self) -> Outcome<String> {
        let flag = if self == Self::Deskgate { "--version" } else { "-v" };
        let said = Command::new(self.program()?).arg(flag).output()?;
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }
}

/// Where Debian has a program.
fn find(name: &str, package: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name));
    found.into_iter().find(|program| program.is_file()).ok_or_else(|| {
        let service = "it may start a service: systemctl disable --now";
        format!("{name} is missing: apt-get install {package}   ({service} {name})").into()
    })
}

/// What all candidates share: certificate, keys and pods.
pub(crate) struct Stand {
    dir: tempfile::TempDir,
    workers: usize,
    tunnels: usize,
    pods: usize,
    port: u16,
    connector: TlsConnector,
    upstream: Running,
}

impl Stand {
    /// Makes ready for at most so many tunnels at once.
    pub(crate) async fn new(workers: usize, tunnels: usize) -> Outcome<Self> {
        let dir = tempfile::TempDir::new()?;
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(dir.path().join("certificate.pem"), &certificate)?;
        fs::write(dir.path().join("key.pem"), &key)?;
        fs::write(dir.path().join("both.pem"), certificate + &key)?;
        let pods = tunnels.div_ceil(PER_POD).max(1);
        let arguments = [crate::UPSTREAM, &pods.to_string()];
        let log = dir.path().join("upstream.log");
        let mut upstream = Running::start(&std::env::current_exe()?, &arguments, log)?;
        let port = read_port(&mut upstream).await?;
        let connector = tunnel::connector(made.cert.der().clone())?;
        Ok(Self { dir, workers, tunnels, pods, port, connector, upstream })
    }

    /// Starts a candidate and waits until it carries tunnels.
    pub(crate) async fn start(&self, candidate: Candidate, tls: bool) -> Outcome<Proxy> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_start(candidate, tls).await {
                Err(error) if tries < TRIES && error.to_string().contains("in use") => {}
                Err(error) => return Err(format!("it does not start: {error}").into()),
                Ok(proxy) => return Ok(proxy),
            }
        }
    }

    async fn try_start(&self, candidate: Candidate, tls: bool) -> Outcome<Proxy> {
        let program = candidate.program()?;
        let dir = self.dir.path().join(candidate.name());
        fs::create_dir_all(&dir)?;
        let (http, https) = free_ports()?;
        let config = dir.join("config");
        fs::write(&config, self.config(candidate, http, tls.then_some(https))?)?;
        let config = config.to_str().ok_or("a temporary folder that is not text")?;
        let arguments = match candidate {
            Candidate::Nginx | Candidate::Nginx64k => vec!["-e", "stderr", "-c", config],
            Candidate::Haproxy => vec!["-db", "-f", config],
            Candidate::Deskgate => vec!["run", "--config", config],
        };
        let paths: Arc<[String]> = match candidate {
            Candidate::Deskgate => self.paths(&program)?.into(),
            Candidate::Nginx | Candidate::Nginx64k | Candidate::Haproxy => {
                ["/websockify".to_owned()].into()
            }
        };
        let mut process = Running::start(&program, &arguments, dir.join("log"))?;
        let port = if tls { https } else { http };
        let door = Door {
            addresses: (0..self.pods).map(|index| (gate(index), port).into()).collect(),
            tls: tls.then(|| self.connector.clone()),
            paths,
        };
        let deadline = Instant::now() + START_WITHIN;
        while let Err(error) = tunnel::open_all(&door, 1).await {
            if let Some(end) = process.ended()? {
                return Err(end.into());
            }
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Proxy { process, door })
    }

    fn config(&self, candidate: Candidate, http: u16, https: Option<u16>) -> Outcome<String> {
        let template = match candidate {
            Candidate::Nginx | Candidate::Nginx64k => include_str!("nginx.conf"),
            Candidate::Haproxy => include_str!("haproxy.cfg"),
            Candidate::Deskgate => include_str!("deskgate.toml"),
        };
        let mut lines = String::new();
        for line in template.lines() {
            let line = match line.trim().strip_prefix("{tls}") {
                Some(_) if https.is_none() => continue,
                Some(line) => line,
                None => line,
            };
            let each = line.contains("{gate}") || line.contains("{pod}");
            for index in 0..if each { self.pods } else { 1 } {
                let (gate, pod) = (gate(index).to_string(), upstream::address(index).to_string());
                lines += &line.replace("{gate}", &gate).replace("{pod}", &pod);
                lines.push('\n');
            }
        }
        let buffers = "proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;";
        let buffers = if candidate == Candidate::Nginx64k { buffers } else { "" };
        let (_, descriptors) = descriptors(std::process::id());
        let tunnels = (self.tunnels + 100).min(descriptors.saturating_sub(200) / 2);
        let dir = self.dir.path().to_str().ok_or("a temporary folder that is not text")?;
        let words = [
            ("{dir}", dir),
            ("{workers}", &self.workers.to_string()),
            ("{tunnels}", &tunnels.to_string()),
            ("{descriptors}", &descriptors.to_string()),
            ("{connections}", &(descriptors + descriptors / 8).to_string()),
            ("{http}", &http.to_string()),
            ("{https}", &https.unwrap_or_default().to_string()),
            ("{port}", &self.port.to_string()),
            ("{buffers}", buffers),
        ];
        Ok(words.iter().fold(lines, |text, (word, value)| text.replace(word, value)))
    }

    /// A path with a token for each pod. The keys are made once.
    fn paths(&self, deskgate: &Path) -> Outcome<Vec<String>> {
        let keys = self.dir.path().join("keys");
        let file = |name: &str| keys.join(name).to_string_lossy().into_owned();
        if !keys.exists() {
            run(deskgate, &["keygen", "--out", &file("")])?;
        }
        let signing = file("abcdesktop_jwt_desktop_signing_private_key.pem");
        let payload = file("abcdesktop_jwt_desktop_payload_public_key.pem");
        let mint = |pod| {
            let target = upstream::address(pod).to_string();
            let keys = ["--signing-key", &signing, "--payload-key", &payload];
            let rest = ["--target", &target, "--ttl", TOKEN_TTL];
            let token = run(deskgate, &[&["token", "mint"], &keys[..], &rest[..]].concat())?;
            Ok(format!("/websockify?jwt_token={}", token.trim()))
        };
        (0..self.pods).map(mint).collect()
    }

    /// Open descriptors of the pods' process, and its limit.
    pub(crate) fn descriptors(&self) -> (usize, usize) {
        self.upstream.descriptors()
    }
}

/// A running candidate.
pub(crate) struct Proxy {
    pub(crate) process: Running,
    pub(crate) door: Door,
}

async fn read_port(upstream: &mut Running) -> Outcome<u16> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        if let Some((port, _)) = upstream.said()?.split_once('\n') {
            return Ok(port.parse()?);
        }
        if let Some(end) = upstream.ended()? {
            return Err(format!("the upstream does not start: {end}").into());
        }
        if Instant::now() > deadline {
            return Err("the upstream does not start".into());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn run(program: &Path, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("deskgate {}: {}", arguments[0], said.trim()).into())
}

/// One of the proxy's addresses: there are as many as pods.
fn gate(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, u8::try_from(index + 1).unwrap_or(u8::MAX))
}

/// Two ports that were free a moment ago.
fn free_ports() -> Outcome<(u16, u16)> {
    let listen = || TcpListener::bind((gate(0), 0));
    let (one, two) = (listen()?, listen()?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

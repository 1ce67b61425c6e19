//! The candidates: how each proxy is configured and started.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;

use crate::support::Outcome;
use crate::support::peers::{self, fill, free_ports, keep, run};
use crate::support::process::{Running, descriptors};
use crate::support::tls::{connector, write_certificate};
use crate::tunnel::{self, Door};
use crate::upstream;

/// Tunnels through one of the proxy's addresses and to one pod: another has all its client ports free.
const PER_POD: usize = 10_000;

/// For a process to be ready.
const START_WITHIN: Duration = Duration::from_secs(20);

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
    /// deskgate with streams that are no WebSocket, whose frames it does not follow; only if named
    DeskgateBlind,
}

impl Candidate {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Nginx64k, Self::Haproxy, Self::Deskgate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Nginx64k => "nginx-64k",
            Self::Haproxy => "haproxy",
            Self::Deskgate => "deskgate",
            Self::DeskgateBlind => "deskgate-blind",
        }
    }

    /// The program, or what to do to have it.
    fn program(self) -> Outcome<PathBuf> {
        match self {
            Self::Nginx | Self::Nginx64k => peers::find("nginx", "nginx-light"),
            Self::Haproxy => peers::find("haproxy", "haproxy"),
            Self::Deskgate | Self::DeskgateBlind => peers::deskgate(),
        }
    }

    /// What it calls itself.
    pub(crate) fn version(self) -> Outcome<String> {
        let deskgate = matches!(self, Self::Deskgate | Self::DeskgateBlind);
        let flag = if deskgate { "--version" } else { "-v" };
        peers::version(&self.program()?, flag)
    }
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
        let certificate = write_certificate(dir.path())?;
        let pods = tunnels.div_ceil(PER_POD).max(1);
        let arguments = [crate::UPSTREAM, &pods.to_string()];
        let log = dir.path().join("upstream.log");
        let mut upstream = Running::start(&std::env::current_exe()?, &arguments, log)?;
        let port = upstream.first_line(START_WITHIN).await?.parse()?;
        let connector = connector(certificate, Resumption::disabled())?;
        Ok(Self { dir, workers, tunnels, pods, port, connector, upstream })
    }

    /// Starts a candidate and waits until it carries tunnels.
    pub(crate) async fn start(&self, candidate: Candidate, tls: bool) -> Outcome<Proxy> {
        peers::start(async || self.try_start(candidate, tls).await).await
    }

    async fn try_start(&self, candidate: Candidate, tls: bool) -> Outcome<Proxy> {
        let program = candidate.program()?;
        let dir = self.dir.path().join(candidate.name());
        fs::create_dir_all(&dir)?;
        let (http, https) = free_ports(gate(0))?;
        let config = dir.join("config");
        fs::write(&config, self.config(candidate, http, tls.then_some(https))?)?;
        let config = config.to_str().ok_or("a temporary folder that is not text")?;
        let arguments = match candidate {
            Candidate::Nginx | Candidate::Nginx64k => vec!["-e", "stderr", "-c", config],
            Candidate::Haproxy => vec!["-db", "-f", config],
            Candidate::Deskgate | Candidate::DeskgateBlind => vec!["run", "--config", config],
        };
        let paths: Arc<[String]> = match candidate {
            Candidate::Deskgate | Candidate::DeskgateBlind => self.paths(&program)?.into(),
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
            garbage: candidate == Candidate::DeskgateBlind,
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
            Candidate::Deskgate | Candidate::DeskgateBlind => include_str!("deskgate.toml"),
        };
        let mut lines = String::new();
        for line in keep(template, &[("{tls}", https.is_some())]).lines() {
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
        Ok(fill(&lines, &words))
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

/// One of the proxy's addresses: there are as many as pods.
fn gate(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, u8::try_from(index + 1).unwrap_or(u8::MAX))
}

//! The candidates: how each is configured and started.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::client::Client;
use crate::keys::{Keys, Mode};
use crate::support::Outcome;
use crate::support::peers::{self, fill, find, free_ports, keep};
use crate::support::process::{Running, descriptors};
use crate::support::tls::{connector, write_certificate};

/// For a process to be ready.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Requests before the first measurement of a process: fewer than nginx takes on one connection.
const WARM_UP: usize = 900;

/// Sizes of the static files, in KiB.
const FILES: [usize; 3] = [1, 20, 200];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Candidate {
    /// deskgate as it is shipped
    Deskgate,
    /// nginx, tuned
    Nginx,
    /// nginx, tuned but for the buffers, which are its own
    #[value(name = "nginx-buffers")]
    NginxBuffers,
    /// nginx as abcdesktop's edges configure it in principle
    #[value(name = "nginx-incumbent")]
    NginxIncumbent,
    /// HAProxy, tuned
    Haproxy,
}

impl Candidate {
    pub(crate) const ALL: [Self; 5] =
        [Self::Deskgate, Self::Nginx, Self::NginxBuffers, Self::NginxIncumbent, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Deskgate => "deskgate",
            Self::Nginx => "nginx",
            Self::NginxBuffers => "nginx-buffers",
            Self::NginxIncumbent => "nginx-incumbent",
            Self::Haproxy => "haproxy",
        }
    }

    /// The program, or what to do to have it.
    pub(crate) fn program(self) -> Outcome<PathBuf> {
        match self {
            Self::Deskgate => peers::deskgate(),
            Self::Nginx | Self::NginxBuffers | Self::NginxIncumbent => find("nginx", "nginx-light"),
            Self::Haproxy => find("haproxy", "haproxy"),
        }
    }

    /// What it calls itself.
    pub(crate) fn version(self) -> Outcome<String> {
        let flag = if self == Self::Deskgate { "--version" } else { "-v" };
        peers::version(&self.program()?, flag)
    }

    fn template(self) -> &'static str {
        match self {
            Self::Deskgate => include_str!("deskgate.toml"),
            Self::Nginx | Self::NginxBuffers => include_str!("nginx-tuned.conf"),
            Self::NginxIncumbent => include_str!("nginx-incumbent.conf"),
            Self::Haproxy => include_str!("haproxy.cfg"),
        }
    }

    fn arguments(self, config: &str) -> Vec<&str> {
        match self {
            Self::Deskgate => vec!["run", "--config", config],
            Self::Nginx | Self::NginxBuffers | Self::NginxIncumbent => {
                vec!["-e", "stderr", "-c", config]
            }
            Self::Haproxy => vec!["-db", "-f", config],
        }
    }
}

/// What all candidates share: certificate, files, origin.
pub(crate) struct Stand {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) keys: Keys,
    logs: bool,
    port: u16,
    certificate: CertificateDer<'static>,
    /// Lives as long as the stand.
    _origin: Running,
}

impl Stand {
    /// Makes ready for proxies that log each request, or none.
    pub(crate) async fn new(logs: bool) -> Outcome<Self> {
        let dir = tempfile::TempDir::new()?;
        // nginx's workers may be of another user, who shall read the files.
        let certificate = write_certificate(dir.path())?;
        write_files(&dir.path().join("files/static"))?;
        let log = dir.path().join("origin.log");
        let mut origin = Running::start(&std::env::current_exe()?, &[crate::ORIGIN], log)?;
        let port = origin.first_line(START_WITHIN).await?.parse()?;
        let keys = Keys::new(dir.path().join("keys"));
        Ok(Self { dir, keys, logs, port, certificate, _origin: origin })
    }

    /// How clients speak TLS, with or without tickets.
    pub(crate) fn connector(&self, resumption: Resumption) -> Outcome<TlsConnector> {
        connector(self.certificate.clone(), resumption)
    }

    /// Starts a candidate and waits until it serves.
    pub(crate) async fn start(&self, candidate: Candidate, setup: Setup) -> Outcome<Proxy> {
        peers::start(async || self.try_start(candidate, setup).await).await
    }

    async fn try_start(&self, candidate: Candidate, setup: Setup) -> Outcome<Proxy> {
        let dir = self.dir.path().join(candidate.name());
        fs::create_dir_all(&dir)?;
        let keys = match candidate {
            Candidate::Deskgate => self.keys.gateway(setup.bits, setup.mode)?,
            Candidate::Nginx
            | Candidate::NginxBuffers
            | Candidate::NginxIncumbent
            | Candidate::Haproxy => dir.clone(),
        };
        let (http, https) = free_ports(Ipv4Addr::LOCALHOST)?;
        let config = dir.join("config");
        fs::write(&config, self.config(candidate, setup, &keys, (http, https))?)?;
        let config = config.to_str().ok_or("a temporary folder that is not text")?;
        let program = candidate.program()?;
        let start = Instant::now();
        let mut process = Running::start(&program, &candidate.arguments(config), dir.join("log"))?;
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (http, https) = (address(http), address(https));
        let mut client = loop {
            match Self::greet(http).await {
                Ok(client) => break client,
                Err(error) => {
                    if let Some(end) = process.ended()? {
                        return Err(end.into());
                    }
                    if start.elapsed() > START_WITHIN {
                        return Err(error);
                    }
                }
            }
            sleep(LOOK_EVERY).await;
        };
        let ready = start.elapsed();
        if setup.warm {
            for _ in 0..WARM_UP {
                client.get("/API/small", "").await?.ok()?;
            }
        }
        Ok(Proxy { process, http, https, ready })
    }

    async fn greet(to: SocketAddr) -> Outcome<Client> {
        let mut client = Client::plain(to).await?;
        client.get("/healthz", "").await?.ok()?;
        Ok(client)
    }

    fn config(
        &self,
        candidate: Candidate,
        setup: Setup,
        keys: &Path,
        (http, https): (u16, u16),
    ) -> Outcome<String> {
        let own_buffers = candidate == Candidate::NginxBuffers;
        let marks = [("{log}", self.logs), ("{quiet}", !self.logs), ("{buffers}", !own_buffers)];
        let (_, descriptors) = descriptors(std::process::id());
        let clients = (descriptors.saturating_sub(200) / 2).min(20_000);
        let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path that is not text");
        let words = [
            ("{name}", candidate.name().to_owned()),
            ("{dir}", text(self.dir.path())?),
            ("{keys}", text(keys)?),
            ("{workers}", setup.workers.to_string()),
            ("{descriptors}", descriptors.to_string()),
            ("{clients}", clients.to_string()),
            ("{http}", http.to_string()),
            ("{https}", https.to_string()),
            ("{port}", self.port.to_string()),
            ("{level}", if self.logs { "info" } else { "warn" }.to_owned()),
        ];
        let words = words.each_ref().map(|(word, value)| (*word, value.as_str()));
        Ok(fill(&keep(candidate.template(), &marks), &words))
    }

    /// The header with a token for the pod.
    pub(crate) fn authorization(&self, setup: Setup) -> Outcome<String> {
        Ok(header(&self.keys.mint(setup.bits, setup.mode, 1)?[0]))
    }
}

/// The header line that carries a token.
pub(crate) fn header(token: &str) -> String {
    format!("ABCAuthorization: Bearer {token}\r\n")
}

/// How a proxy is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    /// Of all keys.
    pub(crate) bits: usize,
    pub(crate) mode: Mode,
    /// Whether it has served something before it is measured.
    pub(crate) warm: bool,
}

/// A running candidate.
pub(crate) struct Proxy {
    pub(crate) process: Running,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// From its start to its first answer.
    pub(crate) ready: Duration,
}

/// Script text, as a web client has: it compresses like one.
fn write_files(dir: &Path) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    for kib in FILES {
        let mut text = String::new();
        for line in 0_u32.. {
            let name = line.wrapping_mul(0x9e37_79b1) >> 8;
            text += &format!(
                "export function paint{line}(canvas, x{name:x}) {{ return canvas.draw(x{name:x}, {line}); }}\n"
            );
            if text.len() >= kib * 1024 {
                break;
            }
        }
        text.truncate(kib * 1024);
        fs::write(dir.join(format!("{kib}k.js")), text)?;
    }
    Ok(())
}

//! HTTP through deskgate, nginx and HAProxy side by side: CPU, latency and memory of the proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench that cannot be set up shall stop, and tells people what it found"
)]

mod capacity;
mod client;
mod document;
mod goals;
mod keys;
mod load;
mod origin;
mod plots;
mod stand;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod work;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use tokio::time::{Instant, timeout};

use client::Client;
use stand::{Candidate, Proxy, Setup, Stand};
use support::report::{Report, Sample};
use support::rounds::alternate;
use support::{HOST, Outcome, or_all, process};
use work::{BROWSER, Header, Load, WORKS, Wire, Work};

/// First argument of the process that plays the origin.
pub(crate) const ORIGIN: &str = "play-the-origin";

/// For one load, once.
const LOAD_WITHIN: Duration = Duration::from_secs(120);

/// Enough for the most connections of a load.
const DESCRIPTORS: usize = 20_000;

/// Compares deskgate with nginx and HAProxy as reverse proxies and servers of files.
#[derive(Debug, Parser)]
struct Arguments {
    /// Works whose names hold one of these texts, all if none is named
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Candidates, all if none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    candidates: Vec<Candidate>,
    /// Times that each candidate does each work
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a load of wrk and h2load
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// Whether the candidates log each request
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    logs: bool,
    /// In place of measuring: fill the figures of the last runs into the documents of this folder
    #[arg(long, value_name = "FOLDER")]
    document: Option<PathBuf>,
    /// Figures of the tunnels, for the document
    #[arg(long, default_value = "target/tunnels.json")]
    tunnels: PathBuf,
    /// File for all figures
    #[arg(long, default_value = "target/http.json")]
    json: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Outcome<()> {
    if std::env::args().nth(1).is_some_and(|first| first == ORIGIN) {
        return origin::main();
    }
    let arguments = Arguments::parse();
    if let Some(docs) = &arguments.document {
        return document::write(&arguments.json, &arguments.tunnels, docs);
    }
    process::until_told(run(&arguments))
}

async fn run(arguments: &Arguments) -> Outcome<()> {
    let named = |work: &&Work| {
        let only = &arguments.only;
        only.is_empty() || only.iter().any(|text| work.name.contains(text.as_str()))
    };
    let works: Vec<_> = WORKS.iter().filter(named).collect();
    if works.is_empty() {
        WORKS.iter().for_each(|work| println!("{:20}{}", work.name, work.title));
        return Ok(());
    }
    let candidates = or_all(&arguments.candidates, &Candidate::ALL);
    let versions = candidates.iter().map(|candidate| candidate.version());
    let versions = versions.collect::<Outcome<Vec<_>>>()?;
    process::raise_descriptors(DESCRIPTORS)?;

    let start = Instant::now();
    let load_before = fs::read_to_string("/proc/loadavg")?;
    let mut report = Report::default();
    let stand = Stand::new(arguments.logs).await?;
    let bench = Bench { stand, seconds: arguments.seconds, rounds: arguments.rounds.max(1) };
    for work in works {
        bench.work(work, &candidates, &mut report).await;
    }
    let names: Vec<_> = candidates.iter().map(|candidate| candidate.name()).collect();
    println!("{}", report.markdown(&names));
    let about = json!({
        "candidates": versions,
        "rounds": bench.rounds,
        "logs": arguments.logs,
        "seconds": start.elapsed().as_secs(),
        "machine's load before": load_before.trim(),
    });
    report.write(&arguments.json, about)?;
    eprintln!("figures: {}; {} s", arguments.json.display(), start.elapsed().as_secs());
    report.verdict()
}

/// Everything ready.
struct Bench {
    stand: Stand,
    seconds: u64,
    rounds: usize,
}

impl Bench {
    /// One work for all its candidates, in turn.
    async fn work(&self, work: &Work, candidates: &[Candidate], report: &mut Report) {
        let title = work.title();
        let (bits, mode) = work.keys();
        if let Load::Cold { tokens, .. } | Load::Tokens { tokens } = work.load
            && let Err(error) = self.stand.keys.mint(bits, mode, tokens)
        {
            return report.fail(format!("{title}: {error}"));
        }
        eprintln!("{title}");
        let wanted: Vec<_> =
            candidates.iter().filter(|one| work.candidates.contains(one)).collect();
        alternate(&wanted, work.rounds(self.rounds), async |candidate, kept| {
            match self.measure(work, *candidate, kept).await {
                Ok(samples) => report.add(&title, candidate.name(), &samples),
                Err(error) => {
                    report.fail(format!("{title}: {}: {error}", candidate.name()));
                    return false;
                }
            }
            true
        })
        .await;
    }

    async fn measure(
        &self,
        work: &Work,
        candidate: Candidate,
        kept: &mut Option<Proxy>,
    ) -> Outcome<Vec<Sample>> {
        let fresh = work.fresh();
        let (bits, mode) = work.keys();
        let setup = Setup { workers: work.workers, bits, mode, warm: !fresh };
        let proxy = match kept.take() {
            Some(proxy) if !fresh => proxy,
            Some(_) | None => self.stand.start(candidate, setup).await?,
        };
        let proxy = kept.insert(proxy);
        let measured = timeout(LOAD_WITHIN, self.load(work.load, candidate, setup, proxy));
        measured.await.map_err(|_| format!("not done within {LOAD_WITHIN:?}"))?
    }

    async fn load(
        &self,
        load: Load,
        candidate: Candidate,
        setup: Setup,
        proxy: &Proxy,
    ) -> Outcome<Vec<Sample>> {
        match load {
            Load::Requests { path, wire, connections, header } => {
                self.requests(setup, proxy, (path, wire, header), connections).await
            }
            Load::Token => {
                let ask = async |path| {
                    let request = (path, Wire::Plain, Header::Token);
                    self.requests(setup, proxy, request, work::FEW).await
                };
                Ok(load::token(&ask("/API/small").await?, &ask("/filer/small").await?))
            }
            Load::Tokens { tokens } => {
                load::tokens(proxy, self.stand.keys.mint(setup.bits, setup.mode, tokens)?).await
            }
            Load::Handshakes { resumed } => load::handshakes(&self.stand, proxy, resumed).await,
            Load::Crowd { connections } => load::crowd(&self.stand, proxy, connections).await,
            Load::Idle { tls } => load::idle(&self.stand, proxy, tls).await,
            Load::Cold { bits, mode, tokens } => {
                load::cold(proxy, &self.stand.keys.mint(bits, mode, tokens)?).await
            }
            Load::Upload { gib } => {
                load::upload(proxy, &self.stand.authorization(setup)?, gib).await
            }
            Load::Start => load::start(proxy, &candidate.program()?).await,
        }
    }

    async fn requests(
        &self,
        setup: Setup,
        proxy: &Proxy,
        (path, wire, header): (&str, Wire, Header),
        connections: usize,
    ) -> Outcome<Vec<Sample>> {
        let host = if matches!(wire, Wire::Http2 { .. }) { ":authority" } else { "Host" };
        let mut headers = vec![format!("{host}: {HOST}")];
        match header {
            Header::Nothing => {}
            Header::Token => headers.push(self.stand.authorization(setup)?.trim().to_owned()),
            Header::Close => headers.push("Connection: close".to_owned()),
            Header::Compressed => {
                let client = Client::plain(proxy.http).await?;
                if !client.encoded(path, &format!("{BROWSER}\r\n")).await? {
                    return Err("it was not compressed".into());
                }
                headers.push(BROWSER.to_owned());
            }
        }
        let url = match wire {
            Wire::Plain => format!("http://{}{path}", proxy.http),
            Wire::Tls | Wire::Http2 { .. } => format!("https://{}{path}", proxy.https),
        };
        let order = tools::Order { url, headers, connections, seconds: self.seconds };
        let dir = self.stand.dir.path();
        match wire {
            Wire::Plain | Wire::Tls => tools::wrk(&order, &proxy.process, dir).await,
            Wire::Http2 { streams } => tools::h2load(&order, streams, &proxy.process, dir).await,
        }
    }
}

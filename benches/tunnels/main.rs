//! Tunnels through deskgate, nginx and HAProxy side by side: CPU, latency and memory of the proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench that cannot be set up shall stop, and tells people what it found"
)]

mod idle;
mod load;
mod message;
mod proxy;
#[path = "../support/mod.rs"]
mod support;
mod tunnel;
mod upstream;

use std::fs;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::time::{Instant, timeout};

use proxy::{Candidate, Proxy, Stand};
use support::report::{Report, Sample};
use support::rounds::alternate;
use support::{Outcome, or_all, process};

/// First argument of the process that plays the pods.
pub(crate) const UPSTREAM: &str = "play-the-pods";

/// For one load, once.
const LOAD_WITHIN: Duration = Duration::from_secs(60);

/// For all tunnels of `--hold`.
const HOLD_WITHIN: Duration = Duration::from_secs(600);

/// Descriptors beside those of tunnels.
const SPARE: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// 16 KiB messages to the browser as fast as they go, 1 and 64 streams
    Bulk,
    /// 64 bytes there and back, 1 and 16 connections
    Echo,
    /// 64 desktops: 30 pictures a second of 8 to 64 KiB each, 20 inputs a second
    Desktops,
    /// memory of idle tunnels
    Idle,
    /// keystrokes that come back, on a quiet tunnel and beside 100 MB/s of picture
    Keys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wire {
    Plain,
    Tls,
}

/// Compares deskgate with nginx and HAProxy as proxies of WebSocket tunnels.
#[derive(Debug, Parser)]
struct Arguments {
    /// About a minute in place of ten: rough
    #[arg(long)]
    quick: bool,
    /// Loads, all if none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Plain or TLS, both if none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    wire: Vec<Wire>,
    /// Candidates, all if none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    candidates: Vec<Candidate>,
    /// Worker processes or threads of each proxy; one per core if not said
    #[arg(long)]
    workers: Option<usize>,
    /// Rounds, in place of the usual number
    #[arg(long)]
    rounds: Option<usize>,
    /// In place of the loads: hold so many idle tunnels, or as many as there can be; several numbers
    /// tell how it grows
    #[arg(long, value_name = "TUNNELS", value_delimiter = ',')]
    hold: Vec<usize>,
    /// File for all figures
    #[arg(long, default_value = "target/tunnels.json")]
    json: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much of each load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    rounds: usize,
    /// Bytes over all streams.
    bulk: u64,
    /// Echoes over 16 connections; one connection makes half as many.
    echoes: usize,
    /// Seconds.
    desktops: u32,
    /// Tunnels.
    idle: usize,
    /// Keystrokes on the quiet tunnel, and again beside the picture.
    keys: u32,
}

impl Sizes {
    const FULL: Self =
        Self { rounds: 5, bulk: 1 << 29, echoes: 32_000, desktops: 2, idle: 5000, keys: 200 };
    const QUICK: Self =
        Self { rounds: 2, bulk: 1 << 27, echoes: 8000, desktops: 1, idle: 1000, keys: 40 };
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().is_some_and(|first| first == UPSTREAM) {
        return upstream::main(arguments.next().ok_or("how many pods?")?.parse()?);
    }
    let arguments = Arguments::parse();
    process::until_told(run(&arguments))
}

async fn run(arguments: &Arguments) -> Outcome<()> {
    let mut sizes = if arguments.quick { Sizes::QUICK } else { Sizes::FULL };
    sizes.rounds = arguments.rounds.unwrap_or(sizes.rounds).max(1);
    let candidates = or_all(&arguments.candidates, &Candidate::ALL);
    let wires = or_all(&arguments.wire, &[Wire::Plain, Wire::Tls]);
    let workers = arguments.workers.unwrap_or(available_parallelism()?.get());
    let versions = candidates.iter().map(|candidate| candidate.version());
    let versions = versions.collect::<Outcome<Vec<_>>>()?;
    let tunnels = arguments.hold.iter().copied().max().unwrap_or(sizes.idle);
    let descriptors = process::raise_descriptors(2 * tunnels + SPARE)?;

    let start = Instant::now();
    let load_before = fs::read_to_string("/proc/loadavg")?;
    let mut report = Report::default();
    if descriptors < 2 * tunnels + SPARE {
        let needed = 2 * tunnels + SPARE;
        report.notes.push(format!("{descriptors} descriptors per process, {needed} would be good"));
    }
    let stand = Stand::new(workers, tunnels).await?;
    for wire in wires {
        let bench = Bench { stand: &stand, sizes, tls: wire == Wire::Tls };
        let ready = bench.ready(&candidates, &mut report).await;
        if !arguments.hold.is_empty() {
            bench.hold(&arguments.hold, &ready, &mut report).await;
            continue;
        }
        for load in loads(&or_all(&arguments.only, Kind::value_variants())) {
            bench.load(load, &ready, &mut report).await;
        }
    }
    let names: Vec<_> = candidates.iter().map(|candidate| candidate.name()).collect();
    println!("{}", report.markdown(&names));
    let about = json!({
        "candidates": versions,
        "workers": workers,
        "rounds": sizes.rounds,
        "sizes": format!("{sizes:?}"),
        "seconds": start.elapsed().as_secs(),
        "machine's load before": load_before.trim(),
    });
    report.write(&arguments.json, about)?;
    eprintln!("figures: {}; {} s", arguments.json.display(), start.elapsed().as_secs());
    report.verdict()
}

/// A kind of load with its number of tunnels.
#[derive(Clone, Copy, Debug)]
struct Load {
    kind: Kind,
    streams: usize,
}

fn loads(kinds: &[Kind]) -> Vec<Load> {
    let streams = |kind| match kind {
        Kind::Bulk => [1, 64].as_slice(),
        Kind::Echo => &[1, 16],
        Kind::Desktops => &[load::DESKTOPS],
        Kind::Idle | Kind::Keys => &[1],
    };
    let loads = |kind| streams(kind).iter().map(move |streams| Load { kind, streams: *streams });
    kinds.iter().copied().flat_map(loads).collect()
}

/// Plain or TLS, everything ready.
struct Bench<'s> {
    stand: &'s Stand,
    sizes: Sizes,
    tls: bool,
}

impl Bench<'_> {
    fn wire(&self) -> &'static str {
        if self.tls { "TLS" } else { "plain" }
    }

    fn name(&self, load: Load) -> String {
        let (wire, streams) = (self.wire(), load.streams);
        let s = if streams == 1 { "" } else { "s" };
        match load.kind {
            Kind::Bulk => format!("bulk, {streams} stream{s}, {wire}"),
            Kind::Echo => format!("echo, {streams} connection{s}, {wire}"),
            Kind::Desktops => format!("{streams} desktops, {wire}"),
            Kind::Idle => format!("{} idle tunnels, {wire}", self.sizes.idle),
            Kind::Keys => format!("keystrokes, {wire}"),
        }
    }

    /// The candidates that carry a tunnel; the others fail here, once.
    async fn ready(&self, candidates: &[Candidate], report: &mut Report) -> Vec<Candidate> {
        let mut ready = Vec::new();
        for candidate in candidates {
            match self.stand.start(*candidate, self.tls).await {
                Ok(_) => ready.push(*candidate),
                Err(error) => {
                    report.fail(format!("{}, {}: {error}", self.wire(), candidate.name()));
                }
            }
        }
        ready
    }

    /// One load for all candidates, in turn; who is first changes from round to round.
    async fn load(&self, load: Load, candidates: &[Candidate], report: &mut Report) {
        let name = self.name(load);
        eprintln!("{name}");
        alternate(candidates, self.sizes.rounds, async |candidate, proxy| {
            match self.measure(load, candidate, proxy).await {
                Ok(samples) => report.add(&name, candidate.name(), &samples),
                Err(error) => {
                    report.fail(format!("{name}: {}: {error}", candidate.name()));
                    return false;
                }
            }
            true
        })
        .await;
    }

    async fn measure(
        &self,
        load: Load,
        candidate: Candidate,
        running: &mut Option<Proxy>,
    ) -> Outcome<Vec<Sample>> {
        // Memory is that of a fresh process.
        let proxy = match running.take() {
            Some(proxy) if load.kind != Kind::Idle => proxy,
            Some(_) | None => self.stand.start(candidate, self.tls).await?,
        };
        let proxy = running.insert(proxy);
        let sizes = &self.sizes;
        let measured = timeout(LOAD_WITHIN, async {
            match load.kind {
                Kind::Bulk => load::bulk(proxy, load.streams, sizes).await,
                Kind::Echo => load::echo(proxy, load.streams, sizes).await,
                Kind::Desktops => load::desktops(proxy, sizes).await,
                Kind::Idle => idle::idle(proxy, self.stand, sizes.idle).await,
                Kind::Keys => load::keys(proxy, sizes).await,
            }
        });
        measured.await.map_err(|_| format!("not done within {LOAD_WITHIN:?}"))?
    }

    async fn hold(&self, counts: &[usize], candidates: &[Candidate], report: &mut Report) {
        for candidate in candidates {
            let what = format!("hold, {}: {}", self.wire(), candidate.name());
            let mut taken = Vec::new();
            for asked in counts {
                eprintln!("{what}: {asked}");
                let held = async {
                    let proxy = self.stand.start(*candidate, self.tls).await?;
                    let held = timeout(HOLD_WITHIN, idle::hold(&proxy, self.stand, *asked)).await;
                    Outcome::Ok(held.map_err(|_| format!("not done within {HOLD_WITHIN:?}"))?)
                };
                match held.await {
                    Ok((samples, note, took)) => {
                        let name = format!("hold {asked}, {}", self.wire());
                        report.add(&name, candidate.name(), &samples);
                        report.notes.push(format!("{what}: {note}"));
                        taken.push(took);
                    }
                    Err(error) => report.fail(format!("{what}: {asked}: {error}")),
                }
            }
            if taken.len() > 1 {
                report.notes.push(format!("{what}: {}", idle::fit(&taken)));
            }
        }
    }
}

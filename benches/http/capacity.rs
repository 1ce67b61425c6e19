//! How many nodes: the arithmetic of `docs/capacity.md`, from measured costs.

use std::fmt::Write;

use crate::document::Run;
use crate::support::Outcome;
use crate::work;

/// What a desktop does, on average over the working day.
const BUSY: f64 = 0.1; // of all desktops, as lively as those of the load
const TUNNELS: f64 = 3.0; // the screen, sound, messages
const REQUESTS: f64 = 0.1; // per second
/// Pictures of a lively desktop: 30 a second of 36 KiB.
const BUSY_BITS: f64 = 30.0 * 36.0 * 1024.0 * 8.0;

/// A pod of the edge, and how full it may be.
const CORES: f64 = 2.0;
const MEMORY: f64 = 2048.0; // MiB
const FILL: f64 = 0.6;

/// Measured of discovery: MiB per pod that is watched.
const WATCHED: f64 = 10.0 / 5000.0;

/// The network of a node, in bits per second each way.
const NETWORK: f64 = 10e9;

/// Entries of connection tracking on a small node, where kube-proxy sets 32,768 per core and no less.
const TRACKED: f64 = 131_072.0;

/// Desktops of one cluster: Kubernetes is made for 150,000 pods.
const CLUSTER: f64 = 100_000.0;

/// What things cost, in microseconds of CPU or KiB.
pub(crate) struct Costs {
    /// Per second of a lively desktop.
    desktop: f64,
    request: f64,
    token: f64,
    handshake: f64,
    tunnel: f64,
    process: f64,
}

impl Costs {
    pub(crate) fn of(http: &Run, tunnels: &Run) -> Outcome<Self> {
        let http = |name, measure| {
            let title = work::title(name).ok_or("no such work")?;
            let figure = http.find(&title, measure, "deskgate");
            figure.map(|figure| figure.median).ok_or_else(|| format!("{title} was not measured"))
        };
        let tunnels = |load, measure| {
            let figure = tunnels.find(load, measure, "deskgate");
            figure.map(|figure| figure.median).ok_or_else(|| format!("{load} was not measured"))
        };
        Ok(Self {
            desktop: tunnels("64 desktops, TLS", "CPU per second of load")? * 1e3 / 64.0,
            request: http("tls-api", "CPU per request")?,
            token: http("cold-2048-b", "CPU per new token, all in")?,
            handshake: http("tls-full", "CPU per connection")?,
            tunnel: tunnels("5000 idle tunnels, TLS", "PSS per tunnel")?,
            process: http("start", "RSS")? * 1024.0,
        })
    }

    /// The costs as a table.
    pub(crate) fn table(&self) -> String {
        format!(
            "| what | costs |\n|---|---|\n\
             | a lively desktop, TLS | {:.0} µs of CPU per second |\n\
             | a request, TLS | {:.0} µs |\n\
             | a token not seen before, 2048 bits, with its request | {:.0} µs |\n\
             | a full TLS handshake, with a request | {:.0} µs |\n\
             | an idle tunnel, TLS | {:.1} KiB |\n\
             | a process | {:.1} MiB |\n",
            self.desktop,
            self.request,
            self.token,
            self.handshake,
            self.tunnel,
            self.process / 1024.0
        )
    }

    /// Cores that so many desktops keep busy.
    fn cores(&self, desktops: f64) -> f64 {
        desktops * (BUSY * self.desktop + REQUESTS * self.request) / 1e6
    }

    /// MiB in one of so many pods.
    fn memory(&self, desktops: f64, pods: f64) -> f64 {
        let tunnels = desktops / pods * TUNNELS * self.tunnel;
        (self.process + tunnels) / 1024.0 + desktops.min(CLUSTER) * WATCHED
    }

    /// What so many desktops need, as rows of a table.
    pub(crate) fn sizes(&self) -> String {
        let mut out = String::from(
            "| desktops | clusters | cores in use | pods by CPU | by network | by tracked connections \
             | **pods** | memory of each | descriptors of each | a lost pod's return |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for desktops in [1e3, 1e4, 1e5, 1e6] {
            let clusters = (desktops / CLUSTER).ceil().max(1.0);
            let cores = self.cores(desktops);
            let by_cpu = (cores / (CORES * FILL)).ceil();
            let by_network = (desktops * BUSY * BUSY_BITS / (NETWORK * FILL)).ceil();
            let by_tracking = (desktops * TUNNELS * 2.0 / (TRACKED * FILL)).ceil();
            // One more per cluster, so that one may go.
            let pods = by_cpu.max(by_network).max(by_tracking) + clusters;
            let share = desktops / pods;
            let back = share * (TUNNELS * self.handshake + self.token) / 1e6;
            _ = writeln!(
                out,
                "| {desktops} | {clusters} | {cores:.2} | {by_cpu} | {by_network} | {by_tracking} \
                 | **{pods}** | {:.0} MiB of {MEMORY} | {:.0} | {:.1} s of a core |",
                self.memory(desktops, pods),
                share * TUNNELS * 2.0,
                back
            );
        }
        out
    }
}

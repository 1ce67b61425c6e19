//! The text that Prometheus scrapes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::cells::{BOUNDS, CLASSES, Sums};
use super::process::Process;
use super::{Kind, Metrics, Reason};

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most series of one metric whose labels are handed in.
const MAX_SERIES: usize = 256;

/// What lives elsewhere, as it is at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Requests and tunnels under way.
    pub in_flight: u64,
    /// Whether the process opens no tunnel any more.
    pub draining: bool,
    /// Open tunnels by route.
    pub tunnels_open: Vec<(Arc<str>, u64)>,
    /// Tunnels that have ended, by reason.
    pub tunnels_closed: Vec<(&'static str, u64)>,
    /// Bytes from clients to pods.
    pub to_pods: u64,
    /// Bytes from pods to clients.
    pub to_clients: u64,
    /// The cache of verified tokens.
    pub cache: Cache,
    /// Kind and name of each key of tokens, and how many it has verified or opened.
    pub keys: Vec<(&'static str, String, u64)>,
    /// Tokens, and pods whose tokens, operators have withdrawn.
    pub revoked: (usize, usize),
    /// Discovery of pods, if it is used.
    pub discovery: Option<Discovery>,
    /// Name of each TLS certificate, and the end of its validity in seconds since 1970.
    pub certificates: Vec<(String, f64)>,
    /// Log lines that were lost: not read in time, or not taken by a full disk.
    pub log_lines_dropped: u64,
    /// Tasks that have begun and not ended.
    pub tasks: u64,
    /// Limits on what is taken on.
    pub limits: Limits,
}

/// What limits have done, and how near they are.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Connections, requests and tunnels that were refused, by limit.
    pub refused: Vec<(&'static str, u64)>,
    /// Answers to refused tokens that were held back.
    pub auth_delayed: u64,
    /// Connections of clients, tunnels included.
    pub connections: u64,
    /// How much is given up for want of memory; 0 for nothing.
    pub pressure: u8,
    /// Memory in use, and its limit, in bytes; none where there is no limit.
    pub memory: Option<(u64, u64)>,
}

/// Figures of the cache of verified tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cache {
    /// Tokens in it.
    pub entries: u64,
    /// Look-ups that found a token.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
}

/// How current the knowledge of pods is.
#[derive(Clone, Copy, Debug)]
pub struct Discovery {
    /// Seconds since the last word from the API server, if there was one.
    pub age: Option<f64>,
    /// The state that it is in.
    pub state: &'static str,
    /// Every state there is.
    pub states: &'static [&'static str],
}

/// Everything of a scrape.
pub(super) fn text(metrics: &Metrics, state: State) -> String {
    let mut registry = Registry::default();
    let scrape = Scrape { metrics: metrics.clone(), state, process: Process::read() };
    registry.register_collector(Box::new(scrape));
    let mut text = String::with_capacity(64 * 1024);
    // Writing into a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape {
    metrics: Metrics,
    state: State,
    process: Process,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.requests(&mut page)?;
        self.failures(&mut page)?;
        self.tunnels(&mut page)?;
        self.configuration(&mut page)?;
        self.tokens(&mut page)?;
        self.rooms(&mut page)?;
        self.limits(&mut page)?;
        self.process(&mut page)
    }
}

impl Scrape {
    fn requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let build = &self.metrics.0.build;
        let mut info =
            page.0.encode_descriptor("deskgate_build", "What runs.", None, MetricType::Info)?;
        info.encode_info(&[("version", build.version), ("revision", build.revision)])?;
        let routes = self.metrics.0.routes.sorted();
        let mut family =
            page.family("deskgate_requests", "Requests that ended.", MetricType::Counter)?;
        for (route, cells) in &routes {
            for (class, count) in CLASSES.iter().zip(cells.classes()) {
                counter(&mut family, &[("route", *route), ("class", *class)], count)?;
            }
        }
        let help = "From a request's first byte to its answer's last, without tunnels.";
        let mut family = page.0.encode_descriptor(
            "deskgate_request_duration",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (route, cells) in &routes {
            let sums = cells.durations();
            if sums.count() > 0 {
                histogram(&mut family.encode_family(&[("route", *route)])?, &sums)?;
            }
        }
        let help = "Requests and tunnels under way.";
        page.gauge("deskgate_requests_in_flight", help, None, self.state.in_flight as f64)
    }

    fn failures(&self, page: &mut Page<'_>) -> fmt::Result {
        let reasons = self.metrics.0.reasons.sorted();
        let of = |kind: Kind| reasons.iter().filter(move |(_, reason)| reason.kind == kind);
        let help = "Requests that failed.";
        let mut family = page.family("deskgate_requests_failed", help, MetricType::Counter)?;
        for (name, reason) in &reasons {
            counter(&mut family, &[("reason", *name)], reason.requests.sum())?;
        }
        let help = "Desktop tokens that were judged.";
        let mut family = page.family("deskgate_auth", help, MetricType::Counter)?;
        let accepted = self.metrics.tokens_accepted();
        counter(&mut family, &[("outcome", "accepted"), ("reason", "")], accepted)?;
        for (name, reason) in of(Kind::Auth) {
            let labels = [("outcome", "refused"), ("reason", *name)];
            counter(&mut family, &labels, reason.requests.sum())?;
        }
        let help = "Upstreams that could not be used, tries that were made good included.";
        let mut family = page.family("deskgate_upstream_errors", help, MetricType::Counter)?;
        let tried = |reason: &Reason| reason.tries.load(Relaxed);
        for (name, reason) in of(Kind::Upstream) {
            let count = reason.requests.sum() + tried(reason);
            counter(&mut family, &[("reason", *name)], count)?;
        }
        Ok(())
    }

    fn tunnels(&self, page: &mut Page<'_>) -> fmt::Result {
        let state = &self.state;
        let mut family =
            page.family("deskgate_tunnels_open", "Open tunnels.", MetricType::Gauge)?;
        for (route, count) in state.tunnels_open.iter().take(MAX_SERIES) {
            family.encode_family(&[("route", &**route)])?.encode_gauge(&(*count as f64))?;
        }
        let mut family =
            page.family("deskgate_tunnels_opened", "Tunnels opened.", MetricType::Counter)?;
        for (route, cells) in self.metrics.0.routes.sorted() {
            counter(&mut family, &[("route", route)], cells.tunnels_opened.load(Relaxed))?;
        }
        let mut family =
            page.family("deskgate_tunnels_closed", "Tunnels ended.", MetricType::Counter)?;
        for (reason, count) in state.tunnels_closed.iter().take(MAX_SERIES) {
            counter(&mut family, &[("reason", *reason)], *count)?;
        }
        let help = "Bytes that tunnels have carried.";
        let mut family = page.family("deskgate_tunnel_bytes", help, MetricType::Counter)?;
        for (direction, bytes) in [("to_pod", state.to_pods), ("to_client", state.to_clients)] {
            counter(&mut family, &[("direction", direction)], bytes)?;
        }
        let help = "From a ping to the client's pong.";
        let mut rtt = page.0.encode_descriptor(
            "deskgate_tunnel_rtt",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        histogram(&mut rtt, &self.metrics.0.rtt.sums())?;
        let help = "Tunnels that a reload has cut.";
        let dropped = self.metrics.0.dropped_by_reload.load(Relaxed);
        page.counter("deskgate_tunnels_dropped_by_reload", help, None, dropped)
    }

    fn configuration(&self, page: &mut Page<'_>) -> fmt::Result {
        let counts = &self.metrics.0;
        let help = "Reloads of the configuration.";
        let mut family = page.family("deskgate_config_reloads", help, MetricType::Counter)?;
        let (taken, refused) = (&counts.reloads_taken, &counts.reloads_refused);
        counter(&mut family, &[("outcome", "taken")], taken.load(Relaxed))?;
        counter(&mut family, &[("outcome", "refused")], refused.load(Relaxed))?;
        let successful = f64::from(u8::from(!counts.last_reload_refused.load(Relaxed)));
        let help = "Whether the last reload was taken into use, or there was none.";
        page.gauge("deskgate_config_last_reload_successful", help, None, successful)?;
        let at = f64::from_bits(counts.last_reload_success.load(Relaxed));
        let help = "When a configuration was last taken into use; 0 if none was since the start.";
        let name = "deskgate_config_last_reload_success_timestamp";
        page.gauge(name, help, Some(&Unit::Seconds), at)?;
        let help = "End of a certificate's validity.";
        let mut family = page.0.encode_descriptor(
            "deskgate_tls_certificate_not_after_timestamp",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (name, not_after) in self.state.certificates.iter().take(MAX_SERIES) {
            family.encode_family(&[("name", name.as_str())])?.encode_gauge(not_after)?;
        }
        Ok(())
    }

    fn tokens(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "Tokens that a key has verified (signing) or opened (payload), those from the \
                    cache not counted. A key whose number stands still is safe to remove.";
        let mut family = page.family("deskgate_key_tokens_verified", help, MetricType::Counter)?;
        for (kind, key, count) in self.state.keys.iter().take(MAX_SERIES) {
            counter(&mut family, &[("kind", *kind), ("key", key.as_str())], *count)?;
        }
        let help = "What operators have withdrawn: tokens, and pods with their tokens so far.";
        let mut family = page.family("deskgate_revoked", help, MetricType::Gauge)?;
        let (tokens, pods) = self.state.revoked;
        for (what, count) in [("token", tokens), ("pod", pods)] {
            family.encode_family(&[("what", what)])?.encode_gauge(&(count as f64))?;
        }
        let cache = self.state.cache;
        let help = "Verified tokens that are remembered.";
        page.gauge("deskgate_token_cache_entries", help, None, cache.entries as f64)?;
        let help = "Tokens that were remembered.";
        page.counter("deskgate_token_cache_hits", help, None, cache.hits)?;
        let help = "Tokens that had to be verified.";
        page.counter("deskgate_token_cache_misses", help, None, cache.misses)
    }

    fn rooms(&self, page: &mut Page<'_>) -> fmt::Result {
        let state = &self.state;
        if let Some(discovery) = state.discovery {
            if let Some(age) = discovery.age {
                let help = "Time since the last word from the API server.";
                page.gauge("deskgate_discovery_age", help, Some(&Unit::Seconds), age)?;
            }
            let help = "Whether discovery is in this state.";
            let mut family = page.family("deskgate_discovery_state", help, MetricType::Gauge)?;
            for name in discovery.states.iter().take(MAX_SERIES) {
                let is = u8::from(*name == discovery.state);
                family.encode_family(&[("state", *name)])?.encode_gauge(&f64::from(is))?;
            }
        }
        let draining = f64::from(u8::from(state.draining));
        page.gauge("deskgate_draining", "Whether no tunnel is opened any more.", None, draining)?;
        let help = "Log lines that were lost: not read in time, or not taken by a full disk.";
        page.counter("deskgate_log_lines_dropped", help, None, state.log_lines_dropped)?;
        let help =
            "Tasks that have begun and not ended: connections, tunnels, and a few of its own.";
        page.gauge("deskgate_tasks", help, None, state.tasks as f64)
    }

    fn limits(&self, page: &mut Page<'_>) -> fmt::Result {
        let limits = &self.state.limits;
        let help = "Connections, requests and tunnels that were refused for a limit.";
        let mut family = page.family("deskgate_refused", help, MetricType::Counter)?;
        for (limit, count) in limits.refused.iter().take(MAX_SERIES) {
            counter(&mut family, &[("limit", *limit)], *count)?;
        }
        let help = "Answers to refused tokens that were held back.";
        page.counter("deskgate_auth_delayed", help, None, limits.auth_delayed)?;
        let help = "Connections of clients, tunnels included.";
        page.gauge("deskgate_connections", help, None, limits.connections as f64)?;
        let help = "What is given up for want of memory: 0 nothing, 1 new tunnels, 2 large reads, \
                    3 kept connections, 4 new requests.";
        page.gauge("deskgate_pressure", help, None, f64::from(limits.pressure))?;
        let Some((used, most)) = limits.memory else { return Ok(()) };
        let help = "Memory of the cgroup, without page cache that can be dropped.";
        page.gauge("deskgate_memory_used", help, Some(&Unit::Bytes), used as f64)?;
        let help = "The limit of that memory.";
        page.gauge("deskgate_memory_limit", help, Some(&Unit::Bytes), most as f64)
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let process = &self.process;
        if let Some(seconds) = process.cpu_seconds {
            let mut cpu = page.0.encode_descriptor(
                "process_cpu",
                "Processor time used.",
                Some(&Unit::Seconds),
                MetricType::Counter,
            )?;
            cpu.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        let bytes = Some(&Unit::Bytes);
        let figure = |number: Option<u64>| number.map(|number| number as f64);
        for (name, help, unit, value) in [
            (
                "process_start_time",
                "Start, since 1970.",
                Some(&Unit::Seconds),
                process.start_seconds,
            ),
            ("process_resident_memory", "Memory in RAM.", bytes, figure(process.resident_bytes)),
            ("process_virtual_memory", "Memory mapped.", bytes, figure(process.virtual_bytes)),
            ("process_threads", "Threads.", None, figure(process.threads)),
            ("process_open_fds", "Open file descriptors.", None, figure(process.open_fds)),
            ("process_max_fds", "Most file descriptors.", None, figure(process.max_fds)),
        ] {
            if let Some(value) = value {
                page.gauge(name, help, unit, value)?;
            }
        }
        Ok(())
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }
}

fn counter<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: u64,
) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn histogram(encoder: &mut MetricEncoder<'_>, sums: &Sums) -> fmt::Result {
    let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(sums.buckets).collect();
    encoder.encode_histogram::<NoLabelSet>(sums.seconds(), sums.count(), &buckets, None)
}

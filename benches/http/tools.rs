//! Loads that real tools make: wrk and h2load.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::Outcome;
use crate::support::peers::find;
use crate::support::process::{Running, Watch};
use crate::support::report::{Measure, Sample};

/// For a tool to end after its load is over.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What a tool is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) url: String,
    /// Header lines without their ends.
    pub(crate) headers: Vec<String>,
    pub(crate) connections: usize,
    /// Whole seconds.
    pub(crate) seconds: u64,
}

/// Requests one after the other on each of so many connections, by wrk.
pub(crate) async fn wrk(order: &Order, proxy: &Running, dir: &Path) -> Outcome<Vec<Sample>> {
    let script = dir.join("wrk.lua");
    fs::write(&script, include_str!("wrk.lua"))?;
    let (connections, seconds) = (order.connections.to_string(), format!("{}s", order.seconds));
    let script = script.to_string_lossy();
    let mut arguments =
        vec!["-t1", "-c", &connections, "-d", &seconds, "--timeout", "5s", "-s", &script];
    let (said, cpu, _) = run("wrk", "wrk", &mut arguments, order, (proxy, dir)).await?;
    let figures = said.lines().find_map(|line| line.strip_prefix("FIGURES "));
    let figures = figures.ok_or_else(|| format!("wrk told no figures: {said}"))?;
    let figures = figures.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [requests, micros, failed, p50, p99, p999] = figures[..] else {
        return Err(format!("wrk told other figures: {said}").into());
    };
    if failed > 0.0 || requests < 1.0 {
        return Err(format!("{failed} of {requests} requests failed").into());
    }
    Ok(vec![
        (CPU, cpu / requests * 1e6),
        (RATE, requests / micros * 1e6),
        (P50, p50),
        (P99, p99),
        (P999, p999),
        (RSS, proxy.memory().rss / 1024.0),
    ])
}

/// Requests in streams of HTTP/2, by h2load.
pub(crate) async fn h2load(
    order: &Order,
    streams: usize,
    proxy: &Running,
    dir: &Path,
) -> Outcome<Vec<Sample>> {
    let [connections, seconds, streams] =
        [order.connections, usize::try_from(order.seconds)?, streams].map(|n| n.to_string());
    let mut arguments = vec!["-t1", "-c", &connections, "-m", &streams, "-D", &seconds];
    let (said, cpu, wall) =
        run("h2load", "nghttp2-client", &mut arguments, order, (proxy, dir)).await?;
    // requests: 1 total, 2 started, 3 done, 4 succeeded, 5 failed, 6 errored, 7 timeout
    let line = said.lines().find_map(|line| line.strip_prefix("requests: "));
    let line = line.ok_or_else(|| format!("h2load told no figures: {said}"))?;
    let count = |what: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(what));
        part.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let (succeeded, failed) = (count("succeeded"), count("failed") + count("errored"));
    let protocol = said.contains("Application protocol: h2");
    if !protocol || succeeded.is_nan() || succeeded < 1.0 || failed > 0.0 {
        return Err(format!("HTTP/2: {protocol}, {line}").into());
    }
    Ok(vec![
        (CPU, cpu / succeeded * 1e6),
        (RATE, succeeded / wall),
        (RSS, proxy.memory().rss / 1024.0),
    ])
}

/// Runs a tool to its end: what it says, and the proxy's CPU and the time meanwhile.
async fn run<'o>(
    name: &str,
    package: &str,
    arguments: &mut Vec<&'o str>,
    order: &'o Order,
    (proxy, dir): (&Running, &Path),
) -> Outcome<(String, f64, f64)> {
    arguments.extend(order.headers.iter().flat_map(|header| ["-H", header]));
    arguments.push(&order.url);
    let watch = Watch::start(proxy);
    let mut tool = Running::start(&find(name, package)?, arguments, dir.join(name))?;
    let deadline = Instant::now() + Duration::from_secs(order.seconds) + END_WITHIN;
    while tool.ended()?.is_none() {
        if Instant::now() > deadline {
            return Err(format!("{name} does not end").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    let (cpu, wall) = watch.stop();
    Ok((tool.said()?, cpu, wall))
}

/// The main figure.
pub(crate) const CPU: Measure = Measure::new("CPU per request", "µs", 1);
pub(crate) const RATE: Measure = Measure::new("requests per second", "", 0);
pub(crate) const P50: Measure = Measure::new("p50", "µs", 0);
pub(crate) const P99: Measure = Measure::new("p99", "µs", 0);
pub(crate) const P999: Measure = Measure::new("p99.9", "µs", 0);
pub(crate) const RSS: Measure = Measure::new("RSS", "MiB", 1);

//! Idle tunnels: what each takes of memory, what keeping them takes of CPU, how many can be held.

use std::fs;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::proxy::{Proxy, Stand};
use crate::support::Outcome;
use crate::support::process::{Memory, Running, descriptors, settled};
use crate::support::report::{Measure, Sample};
use crate::tunnel;

/// While nothing happens but pings: one round of deskgate's.
const WATCHED: Duration = Duration::from_secs(25);

/// As many tunnels as one process shall hold.
const GOAL: f64 = 50_000.0;

/// One in so many tunnels is asked at the end whether it still carries something.
const ASKED: usize = 50;

/// Memory per tunnel at this many.
pub(crate) async fn idle(proxy: &Proxy, stand: &Stand, count: usize) -> Outcome<Vec<Sample>> {
    let held = Held::open(proxy, stand, count, false).await;
    held.opened?;
    match held.dead {
        0 => Ok(memory(held.before, held.after, held.tunnels)),
        dead => Err(format!("{dead} tunnels did not answer afterwards").into()),
    }
}

/// What a number of tunnels took, for [`fit`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    tunnels: f64,
    /// KiB of the process, and of the kernel for its sockets.
    memory: [f64; 2],
    /// Seconds per second.
    cpu: f64,
}

/// As many tunnels as asked, or as there can be, and what ended it.
pub(crate) async fn hold(
    proxy: &Proxy,
    stand: &Stand,
    asked: usize,
) -> (Vec<Sample>, String, Taken) {
    let held = Held::open(proxy, stand, asked, true).await;
    let count = held.tunnels;
    let mut samples = vec![
        (Measure::new("tunnels held", "", 0), count as f64),
        (Measure::new("opened per second", "", 0), count as f64 / held.seconds),
        (Measure::new("CPU while idle", "% of a core", 2), held.cpu * 100.0),
        (Measure::new("kernel memory per tunnel", "KiB", 2), held.kernel / count as f64),
    ];
    samples.extend(memory(held.before, held.after, count));
    let outcome = match held.opened {
        Ok(()) => format!("all {asked} tunnels"),
        Err(error) => format!("{count} of {asked} tunnels, then: {error} ({})", held.limits),
    };
    let dead = held.dead;
    let note = format!("{outcome}; {dead} of them were gone or did not answer at the end");
    let memory = [held.after.pss, held.kernel];
    (samples, note, Taken { tunnels: count as f64, memory, cpu: held.cpu })
}

/// What the goal would take if everything grows on as it did: a straight line through what was
/// measured.
pub(crate) fn fit(taken: &[Taken]) -> String {
    let at_goal = |value: fn(&Taken) -> f64| {
        let mean =
            |of: &dyn Fn(&Taken) -> f64| taken.iter().map(of).sum::<f64>() / taken.len() as f64;
        let (x, y) = (mean(&|t| t.tunnels), mean(&value));
        let slope =
            mean(&|t| (t.tunnels - x) * (value(t) - y)) / mean(&|t| (t.tunnels - x).powi(2));
        (y + slope * (GOAL - x), slope)
    };
    let ((process, each), (kernel, each_kernel)) =
        (at_goal(|taken| taken.memory[0]), at_goal(|taken| taken.memory[1]));
    let (cpu, _) = at_goal(|taken| taken.cpu);
    format!(
        "a straight line leads to {GOAL} tunnels with {:.0} MiB of the process ({each:.2} KiB each), \
         {:.0} MiB of the kernel ({each_kernel:.2} KiB each) and {:.1} % of a core",
        process / 1024.0,
        kernel / 1024.0,
        cpu * 100.0,
    )
}

/// Tunnels that were open and idle until memory did not change any more.
struct Held {
    tunnels: usize,
    /// What stopped their opening.
    opened: Outcome<()>,
    /// Until the last of them was open.
    seconds: f64,
    before: Memory,
    after: Memory,
    /// KiB that the kernel took for the proxy's sockets.
    kernel: f64,
    /// Seconds of CPU per second, of pings alone.
    cpu: f64,
    /// Those that broke, and of every so many those that did not answer in the end.
    dead: usize,
    /// What was used up of the resources that tunnels need.
    limits: String,
}

impl Held {
    async fn open(proxy: &Proxy, stand: &Stand, count: usize, watch: bool) -> Self {
        let before = settled(&proxy.process).await;
        let slab = slab();
        let (go_on, wait) = watch::channel(());
        let mut idle = JoinSet::new();
        let start = Instant::now();
        let mut seconds = f64::NAN;
        let opened = tunnel::open(&proxy.door, count, |tunnel| {
            idle.spawn(tunnel.idle(wait.clone()));
            seconds = start.elapsed().as_secs_f64();
        })
        .await;
        let tunnels = idle.len();
        let after = settled(&proxy.process).await;
        // The clients' and the pods' ends take as much as the proxy's two.
        let kernel = (self::slab() - slab) / 2.0;
        let cpu = if watch { idle_cpu(&proxy.process).await } else { f64::NAN };
        let limits = limits(proxy, stand);
        go_on.send_replace(());
        let mut dead = 0;
        let mut index = 0;
        while let Some(tunnel) = idle.join_next().await {
            dead += usize::from(match tunnel {
                Ok(Ok(mut tunnel)) if index % ASKED == 0 => tunnel.echo(b"there?").await.is_err(),
                Ok(Ok(_)) => false,
                Ok(Err(_)) | Err(_) => true,
            });
            index += 1;
        }
        Self { tunnels, opened, seconds, before, after, kernel, cpu, dead, limits }
    }
}

/// Descriptors that tunnels under way had, which failed with the first.
const NEARLY_FULL: usize = 300;

/// The resources that tunnels use up, where the end may have come from.
fn limits(proxy: &Proxy, stand: &Stand) -> String {
    let processes = [
        ("the proxy", proxy.process.descriptors()),
        ("the upstream", stand.descriptors()),
        ("the clients", descriptors(std::process::id())),
    ];
    let tell = |(name, (open, limit))| {
        let full = if open + NEARLY_FULL > limit { ": full" } else { "" };
        format!("{name} had {open} of {limit} descriptors{full}")
    };
    let words = proxy.process.last_words();
    format!("{}; the proxy's last words: {words}", processes.map(tell).join(", "))
}

fn memory(before: Memory, after: Memory, count: usize) -> Vec<Sample> {
    let each = |before: f64, after: f64| (after - before) / count.max(1) as f64;
    vec![
        (Measure::new("PSS per tunnel", "KiB", 2), each(before.pss, after.pss)),
        (Measure::new("RSS per tunnel", "KiB", 2), each(before.rss, after.rss)),
        (Measure::new("PSS before", "MiB", 1), before.pss / 1024.0),
    ]
}

/// Seconds per second that a process takes while its tunnels are idle.
async fn idle_cpu(process: &Running) -> f64 {
    let (start, cpu) = (Instant::now(), process.cpu());
    sleep(WATCHED).await;
    process.cpu().since(cpu) / start.elapsed().as_secs_f64()
}

/// KiB of the kernel's small objects: sockets and what belongs to them.
fn slab() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Slab:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(f64::NAN)
}

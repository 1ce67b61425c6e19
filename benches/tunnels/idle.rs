//! Idle tunnels: what each takes of the proxy's memory, and how many it can hold.

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::proxy::{Proxy, Stand};
use crate::support::Outcome;
use crate::support::process::{Memory, descriptors, settled};
use crate::support::report::{Measure, Sample};
use crate::tunnel;

/// One in so many tunnels is asked at the end whether it still carries something.
const ASKED: usize = 50;

/// Memory per tunnel at this many.
pub(crate) async fn idle(proxy: &Proxy, stand: &Stand, count: usize) -> Outcome<Vec<Sample>> {
    let held = Held::open(proxy, stand, count).await;
    held.opened?;
    match held.dead {
        0 => Ok(memory(held.before, held.after, held.tunnels)),
        dead => Err(format!("{dead} tunnels did not answer afterwards").into()),
    }
}

/// As many tunnels as asked, or as there can be, and what ended it.
pub(crate) async fn hold(proxy: &Proxy, stand: &Stand, asked: usize) -> (Vec<Sample>, String) {
    let held = Held::open(proxy, stand, asked).await;
    let count = held.tunnels;
    let mut samples = vec![
        (Measure::new("tunnels held", "", 0), count as f64),
        (Measure::new("opened per second", "", 0), count as f64 / held.seconds),
    ];
    samples.extend(memory(held.before, held.after, count));
    let outcome = match held.opened {
        Ok(()) => format!("all {asked} tunnels"),
        Err(error) => format!("{count} of {asked} tunnels, then: {error} ({})", held.limits),
    };
    let dead = held.dead;
    (samples, format!("{outcome}; {dead} of them were gone or did not answer at the end"))
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
    /// Those that broke, and of every so many those that did not answer in the end.
    dead: usize,
    /// What was used up of the resources that tunnels need.
    limits: String,
}

impl Held {
    async fn open(proxy: &Proxy, stand: &Stand, count: usize) -> Self {
        let before = settled(&proxy.process).await;
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
        Self { tunnels, opened, seconds, before, after, dead, limits }
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

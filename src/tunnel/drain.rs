//! Empties the registry within a grace period: quiet tunnels first, never many at once.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ends::End;
use super::random::SplitMix;
use super::registry::Registry;
use super::relay;

/// A tunnel is quiet when its user did nothing for this long.
const QUIET: Duration = Duration::from_secs(5);

/// Kept free at the end, for the last tunnel to close in: to get its Close frame out, and to see it answered.
const CLOSING: Duration = relay::CLOSING.saturating_mul(2);

/// At most one in so many tunnels, rounded up, is closed within any second.
const SHARE: usize = 10;

/// Time between two looks for tunnels that were opened during the drain.
const SWEEP: Duration = Duration::from_secs(1);

/// So many tunnels are looked at to find a quiet one.
const LOOK_AHEAD: usize = 64;

/// When to close each of `count` tunnels, from now on and in order.
///
/// They are spread evenly over the grace period but for its last two seconds. Jitter moves each of
/// them into the time before the next one, as far as no second gets more than a tenth of all, rounded
/// up. Below thirteen seconds of grace that cannot be kept: then they are spread evenly with full
/// jitter, and closed at once when there are two seconds or less.
#[must_use]
pub fn schedule(count: usize, grace: Duration, random: &mut SplitMix) -> Vec<Duration> {
    let spread = grace.saturating_sub(CLOSING).as_secs_f64();
    let step = spread / count.max(1) as f64;
    // With jitter j, the n-th tunnel after one comes at least (n - j) steps later. For the
    // share n to fill a second, j is at most n less the steps in a second.
    let slack = count.div_ceil(SHARE) as f64 - step.recip();
    let jitter = if slack > 0.0 { slack.min(1.0) } else { 1.0 };
    let at = |n| Duration::from_secs_f64(step * (n as f64 + jitter * random.fraction()));
    (0..count).map(at).collect()
}

/// The order to close tunnels in: those that were quiet the longest first. Each is an id and the
/// time since its user did something.
#[must_use]
pub fn order(mut tunnels: Vec<(u64, Duration)>) -> Vec<u64> {
    tunnels.sort_by_key(|(_, quiet)| std::cmp::Reverse(*quiet));
    tunnels.into_iter().map(|(id, _)| id).collect()
}

/// Closes every tunnel with [`End::Drain`]. Returns when all are gone or the grace period is over;
/// the number is that of tunnels that are left.
pub async fn drain(registry: &Registry, grace: Duration) -> usize {
    let begun = Instant::now();
    let mut left = order(registry.quiet());
    let times = schedule(left.len(), grace, &mut SplitMix::seeded());
    for (n, time) in times.into_iter().enumerate() {
        if timeout_at(begun + time, registry.emptied()).await.is_ok() {
            return 0;
        }
        // Its user may have come back since the order was made.
        let quiet = |id: &u64| registry.quiet_of(*id).is_none_or(|quiet| quiet >= QUIET);
        let rest = left.get_mut(n..).unwrap_or_default();
        if let Some(quiet @ 1..) = rest.iter().take(LOOK_AHEAD).position(quiet) {
            rest.swap(0, quiet);
        }
        if let Some(id) = rest.first() {
            // False for a tunnel that has ended by itself.
            let _: bool = registry.close(*id, End::Drain);
        }
    }
    let end = begun + grace;
    loop {
        // Some may have been opened meanwhile.
        registry.close_where(|_| true, End::Drain);
        let sweep = end.min(Instant::now() + SWEEP);
        if timeout_at(sweep, registry.emptied()).await.is_ok() {
            return 0;
        }
        if Instant::now() >= end {
            return registry.len();
        }
    }
}

#[cfg(test)]
mod tests;

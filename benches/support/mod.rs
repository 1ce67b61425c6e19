//! What the benches of whole proxies share: processes, peers, certificates, figures.
#![allow(dead_code, reason = "each bench uses its part")]

pub(crate) mod peers;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod tls;

use std::time::Duration;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The name under which browsers know the proxy.
pub(crate) const HOST: &str = "desktops.example";

/// In microseconds; `per_mille` of 500 is the median.
pub(crate) fn percentile(times: &mut [Duration], per_mille: usize) -> f64 {
    times.sort_unstable();
    let rank = (times.len() * per_mille).div_ceil(1000).saturating_sub(1);
    times.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// What was named, or everything.
pub(crate) fn or_all<T: Clone>(named: &[T], all: &[T]) -> Vec<T> {
    if named.is_empty() { all.to_vec() } else { named.to_vec() }
}

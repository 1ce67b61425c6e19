//! Reads the clocks, once per request; every decision takes the time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::auth::Now;

/// This moment on both clocks.
pub(crate) fn now() -> Now {
    Now { wall: wall(), mono: Instant::now() }
}

/// The time since 1970.
fn wall() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads it for decisions")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

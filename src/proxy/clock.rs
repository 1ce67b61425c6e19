//! Reads the clocks, once per request; every decision takes the time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::auth::Now;

/// This moment on both clocks.
pub(crate) fn now() -> Now {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads it for decisions")]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall, mono: Instant::now() }
}

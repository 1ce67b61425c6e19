//! The loop: list, then watch from there, again and again, whatever the API does.
//!
//! A watch that breaks is resumed at the last version seen, so no change is missed. Only a version
//! that has expired, or a response that made no sense, needs a new list; until that is complete, the
//! last known pods stay.

use std::hash::{BuildHasher, Hasher, RandomState};

use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::api::{Api, Fault};
use super::book::Book;
use super::slices::Line;

/// First wait after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait after a failure, and so longest blindness after the API is back.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A watch that ends sooner is no watch.
const BRIEF: Duration = Duration::from_millis(500);
/// A resumed watch sends what was missed at once. What comes later is news.
const SETTLE: Duration = Duration::from_secs(2);

/// Keeps the book current. Never ends.
pub(super) async fn run(mut api: Api, mut book: Book) {
    let mut pause = Pause::default();
    loop {
        match list(&mut api, &mut book).await {
            Ok(version) => follow(&mut api, &mut book, &mut pause, version).await,
            Err(fault) => {
                book.failed(fault);
                beside(&mut book, pause.wait()).await;
            }
        }
    }
}

async fn list(api: &mut Api, book: &mut Book) -> Result<String, Fault> {
    let asked = book.now();
    let mut listing = beside(book, api.list()).await?;
    let version = std::mem::take(&mut listing.version);
    book.listed(asked, listing)?;
    Ok(version)
}

/// Watches from `version` on, until a new list is needed.
async fn follow(api: &mut Api, book: &mut Book, pause: &mut Pause, mut version: String) {
    loop {
        let end = watch(api, book, pause, &mut version).await;
        book.publish();
        match end {
            // Part of normal operation, unless the server does nothing else.
            Ok(End::Heard) => {}
            Ok(End::Early) => beside(book, pause.wait()).await,
            // Not even a bookmark: a store set back has not reached this version yet.
            Ok(End::Silent) => return,
            Err(Fault::Expired) => {
                book.expired();
                return beside(book, pause.wait()).await;
            }
            Err(fault) => {
                book.failed(fault);
                beside(book, pause.wait()).await;
                // Where no watch is to be had, lists must do.
                if matches!(
                    fault,
                    Fault::Invalid
                        | Fault::TooLarge
                        | Fault::Rejected
                        | Fault::Forbidden
                        | Fault::Unauthorized
                ) {
                    return;
                }
            }
        }
    }
}

/// How a watch ended that did not fail.
enum End {
    /// After at least one line.
    Heard,
    /// Too soon to mean anything.
    Early,
    /// Without a line, though its time was over. A healthy server sends a bookmark before the end.
    Silent,
}

/// One watch to its end. `version` follows what has been seen.
async fn watch(
    api: &mut Api,
    book: &mut Book,
    pause: &mut Pause,
    version: &mut String,
) -> Result<End, Fault> {
    let opened = Instant::now();
    let mut lines = beside(book, api.watch(version)).await?;
    book.watching();
    pause.again();
    let settled = opened + SETTLE;
    let mut heard = false;
    let next = beside(book, timeout_at(settled, lines.next())).await;
    let mut line = match next {
        Ok(line) => line?,
        Err(_) => {
            book.works();
            pause.reset();
            beside(book, lines.next()).await?
        }
    };
    while let Some(Line { kind, object }) = line {
        if kind == "ERROR" {
            return Err(object.code.map_or(Fault::Invalid, Fault::of));
        }
        let seen = object.metadata.resource_version.clone();
        if seen.is_empty() {
            return Err(Fault::Invalid);
        }
        match kind.as_str() {
            "BOOKMARK" => book.confirmed(),
            "ADDED" | "MODIFIED" => book.changed(object, false, Instant::now() >= settled)?,
            "DELETED" => book.changed(object, true, Instant::now() >= settled)?,
            _ => return Err(Fault::Invalid),
        }
        *version = seen;
        heard = true;
        book.works();
        pause.reset();
        // What has arrived together is shown together.
        if !lines.more() {
            book.publish();
        }
        line = beside(book, lines.next()).await?;
    }
    Ok(match heard {
        // Also one that says a little each time would be asked without end.
        true if opened.elapsed() < BRIEF => End::Early,
        true => End::Heard,
        false if opened.elapsed() < api.watch_timeout() => End::Early,
        false => End::Silent,
    })
}

/// Waits, and reports departures meanwhile.
async fn beside<T>(book: &mut Book, wait: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        output = wait => output,
        () = book.report() => std::future::pending().await,
    }
}

/// Growing waits between attempts.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    fn reset(&mut self) {
        self.failures = 0;
    }

    /// An attempt begins that is a failure unless something is heard.
    fn again(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    async fn wait(&mut self) {
        sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(MAX_PAUSE);
        self.again();
        // Many gateways must not come back in step. The hasher's keys are random.
        let random = RandomState::new().build_hasher().finish();
        let half = longest / 2;
        half + half
            .mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests;

//! Keeps one desktop's picture up to date while somebody looks at it and takes input from all of
//! its viewers; assumes painting takes a few milliseconds, so it happens on the runtime.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::Resident;
use super::canvas::Canvas;
use super::frame::Frame;
use super::model::Model;
use super::paint;

/// Thirty pictures a second at most.
const PICTURE_PAUSE: Duration = Duration::from_millis(34);
const SECONDS_PER_DAY: u64 = 86_400;

/// The state, and the last picture made of it.
pub(super) struct Screen {
    model: Mutex<Model>,
    backdrop: Canvas,
    frames: watch::Sender<Arc<Frame>>,
    joined: Notify,
    resident: Resident,
}

impl Screen {
    pub(super) fn new(resident: Resident) -> Self {
        let model = Model::new(resident);
        let backdrop = paint::backdrop(resident);
        let first = Frame::first(model.number, paint::picture(&backdrop, &model));
        let (frames, _) = watch::channel(Arc::new(first));
        Self { model: Mutex::new(model), backdrop, frames, joined: Notify::new(), resident }
    }

    pub(super) fn user(&self) -> &'static str {
        self.resident.user
    }

    /// Joins the viewers; as long as the receiver lives, pictures are made.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Frame>> {
        let receiver = self.frames.subscribe();
        self.joined.notify_one();
        receiver
    }

    /// Changes the state; pictures with a higher number than the returned one show it.
    pub(super) fn change(&self, change: impl FnOnce(&mut Model)) -> u64 {
        let mut model = self.model();
        change(&mut model);
        model.number
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paints until dropped, but sleeps while nobody watches.
    pub(super) async fn paint_forever(self: Arc<Self>) {
        let started = Instant::now();
        let mut pace = interval(PICTURE_PAUSE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            if self.frames.receiver_count() == 0 {
                self.joined.notified().await;
                continue;
            }
            let clock = time_of_day();
            // A copy, so that input does not wait for the painting.
            let model = {
                let mut model = self.model();
                model.advance(started.elapsed(), clock, self.frames.receiver_count());
                model.clone()
            };
            let pixels = paint::picture(&self.backdrop, &model);
            let next = self.frames.borrow().next(model.number, pixels);
            self.frames.send_replace(Arc::new(next));
        }
    }
}

/// Seconds since midnight, UTC.
#[allow(clippy::disallowed_methods, reason = "a clock on the wall: nothing is decided by it")]
fn time_of_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() % SECONDS_PER_DAY)
}

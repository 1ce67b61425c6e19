//! A limit to a wait that costs nothing where there is no wait.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep};

/// The time was over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

pin_project! {
    /// What [`within`] returns.
    #[derive(Debug)]
    pub(crate) struct Within<F> {
        #[pin]
        wanted: F,
        limit: Duration,
        // Made when there is something to wait for.
        #[pin]
        alarm: Option<Sleep>,
    }
}

/// Waits for something, for so long at most from the first time that it is not there.
///
/// Nearly every read and write of a request is done at once. `tokio`'s own timeout reads the clock and
/// takes its timer's handle before it looks, which for the eight waits of a small request came to a
/// fortieth of it.
pub(crate) fn within<F: Future>(limit: Duration, wanted: F) -> Within<F> {
    Within { wanted, limit, alarm: None }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Late>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.wanted.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if this.alarm.is_none() {
            this.alarm.set(Some(sleep(*this.limit)));
        }
        match this.alarm.as_pin_mut() {
            // Also when what is waited for has used up its task's turn, the time is looked at.
            Some(alarm) => pin!(unconstrained(alarm)).poll(cx).map(|()| Err(Late)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_given_and_what_is_not_is_waited_for_so_long() {
        let start = Instant::now();
        assert_eq!(within(Duration::ZERO, ready(1)).await, Ok(1));
        let limit = Duration::from_secs(3);
        assert_eq!(within(limit, pending::<()>()).await, Err(Late));
        assert_eq!(start.elapsed().as_secs(), 3);
        let later = async {
            sleep(Duration::from_secs(2)).await;
            2
        };
        assert_eq!(within(limit, later).await, Ok(2));
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn who_never_runs_out_of_work_is_ended_all_the_same() {
        async fn busy() {
            loop {
                tokio::task::coop::consume_budget().await;
            }
        }
        let limit = Duration::from_millis(10);
        let ended = tokio::time::timeout(Duration::from_secs(10), within(limit, busy())).await;
        assert_eq!(ended, Ok(Err(Late)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_limit_there_is_is_one() {
        let soon = sleep(Duration::from_secs(1));
        assert_eq!(within(Duration::MAX, soon).await, Ok(()));
    }
}

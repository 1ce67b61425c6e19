//! The costly steps of new tokens, so that no tunnel waits for them. Seals are opened beside the workers: a
//! private key of 1024 bits takes half a millisecond, one of 4096 more than six. Signatures are checked by the
//! worker, in a tenth to a third of a millisecond, one at a time.
//!
//! A thread of its own does not suffice where there are as few cores as threads: Linux lets whoever runs go
//! on for a slice, a millisecond or three, while the worker next to it is woken. So seals are opened by threads
//! that yield to every other at once (`SCHED_IDLE`, sched(7)), and by ordinary ones only where those get no
//! core for long.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::timeout;

use crate::auth::{self, Desktop, Sealed};
use crate::error::Error;

/// Most seals that wait, besides those that are opened: more than this many take longer than a client
/// should wait.
const WAITING: usize = 256;

/// Longest time that the yielding threads have for a seal before an ordinary one opens it, too.
const PATIENCE: Duration = Duration::from_millis(250);

/// Policy of a thread that runs where no other wants to.
const YIELDING: ThreadSchedulePolicy =
    ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

/// Longest wait for a turn.
const TURN: Duration = Duration::from_secs(5);

thread_local! {
    /// Who checks a signature on this thread: a worker is one.
    static CHECKS: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Waits for the worker's next turn to check a signature. Between two of them it looks at its sockets, and
/// at whoever they have woken: a tunnel waits for one, however many come at once.
pub(super) async fn turn() -> Result<OwnedSemaphorePermit, Error> {
    let checks = CHECKS.with(Arc::clone);
    let turn = timeout(TURN, checks.acquire_owned()).await.map_err(|_| Error::Busy)?;
    // The runtime comes back to this task after it has asked the system what is ready.
    yield_now().await;
    turn.map_err(|_| Error::Busy)
}

/// The right to open seals, for the whole process. Clones share it.
#[derive(Clone, Debug)]
pub struct Cold {
    /// Places for those that wait and those that are opened.
    places: Arc<Semaphore>,
    /// Half as many as cores, so that the tunnels keep the others.
    yielding: Arc<Yielding>,
    /// Seals opened at a time by ordinary threads: as many.
    hands: Arc<Semaphore>,
    patience: Duration,
}

impl Default for Cold {
    fn default() -> Self {
        let hands = available_parallelism().map_or(1, usize::from).div_ceil(2);
        Self::new(hands, WAITING, PATIENCE)
    }
}

impl Cold {
    fn new(hands: usize, waiting: usize, patience: Duration) -> Self {
        let places = Arc::new(Semaphore::new(hands + waiting));
        let yielding = Arc::new(Yielding::new(hands));
        Self { places, yielding, hands: Arc::new(Semaphore::new(hands)), patience }
    }

    /// Opens a seal: here if that is cheap, otherwise on a thread of its own.
    pub(super) async fn open(
        &self,
        sealed: Sealed,
    ) -> Result<Result<Arc<Desktop>, auth::Error>, Error> {
        if sealed.is_costly() { self.run(move || sealed.open()).await } else { Ok(sealed.open()) }
    }

    /// Runs something that takes long beside the worker, if not too much waits already; twice, maybe.
    async fn run<T: Send + 'static>(
        &self,
        job: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::Busy)?;
        // The place is held to the job's end even if nobody waits for it any more.
        let job = Arc::new((job, place));
        let same = Arc::clone(&job);
        if let Some(runtime) = &self.yielding.0 {
            let mut run = runtime.spawn_blocking(move || same.0());
            if let Ok(done) = timeout(self.patience, &mut run).await {
                // An error means that the job panicked, or that the process is about to end.
                return done.map_err(|_| Error::Busy);
            }
            // Has an effect if it has not begun.
            run.abort();
        }
        let hand = Arc::clone(&self.hands).acquire_owned().await.map_err(|_| Error::Busy)?;
        let run = spawn_blocking(move || {
            let _held = hand;
            job.0()
        });
        run.await.map_err(|_| Error::Busy)
    }
}

/// Threads that yield to all others. None if the system has no memory for their list: it is asked once.
#[derive(Debug)]
struct Yielding(Option<Runtime>);

impl Yielding {
    /// So many at most, started when they are needed.
    fn new(threads: usize) -> Self {
        let yields = || {
            // Where a sandbox forbids it they are threads like others.
            let id = thread_native_id();
            let _ = set_thread_priority_and_policy(id, ThreadPriority::Min, YIELDING);
        };
        // Only its threads for blocking jobs are of use; nobody ever runs it.
        let runtime = Builder::new_current_thread()
            .thread_name("seals")
            .max_blocking_threads(threads)
            .on_thread_start(yields)
            .build();
        Self(runtime.ok())
    }
}

impl Drop for Yielding {
    fn drop(&mut self) {
        // A worker, who may be the last to hold it, must not wait for its threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, mpsc};

    use thread_priority::thread_schedule_policy;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn between_two_checks_a_worker_looks_at_its_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tunnel = listener.accept().unwrap().0;
        tunnel.set_nonblocking(true).unwrap();
        let mut tunnel = tokio::net::TcpStream::from_std(tunnel).unwrap();
        let (peer, seen) = (Arc::new(peer), Arc::new(Mutex::new(Vec::new())));
        let relay = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                for _ in 0..3 {
                    tunnel.read_u8().await.unwrap();
                    seen.lock().unwrap().push("tunnel");
                }
            }
        });
        for _ in 0..3 {
            let (peer, seen) = (Arc::clone(&peer), Arc::clone(&seen));
            tokio::spawn(async move {
                let _turn = turn().await.unwrap();
                seen.lock().unwrap().push("check");
                // A key is pressed while the worker is busy.
                (&*peer).write_all(b"x").unwrap();
            });
        }
        relay.await.unwrap();
        let seen = seen.lock().unwrap().join(" ");
        assert_eq!(seen, "check tunnel check tunnel check tunnel");
    }

    /// Longest wait for anything that should happen at once.
    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_worker_goes_on_while_a_seal_is_opened() {
        let cold = Cold::new(1, 1, SOON);
        let (go, may) = mpsc::channel();
        let may = Mutex::new(may);
        // The job ends only when something else has run on this thread.
        let job = cold.run(move || may.lock().unwrap().recv_timeout(SOON).is_ok());
        let other = async move { go.send(()).is_ok() };
        let (opened, went_on) = tokio::join!(job, other);
        assert!(opened == Ok(true) && went_on);
    }

    #[tokio::test]
    async fn there_are_so_many_hands_so_many_places_and_no_more() {
        let cold = Cold::new(1, 2, SOON);
        let (go, may) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let (first, may) = (begun.clone(), Mutex::new(may));
        let mut jobs = vec![tokio::spawn({
            let cold = cold.clone();
            async move {
                cold.run(move || {
                    first.send(()).unwrap();
                    may.lock().unwrap().recv_timeout(SOON).is_ok()
                })
                .await
            }
        })];
        for _ in 0..2 {
            let (cold, begun) = (cold.clone(), begun.clone());
            jobs.push(tokio::spawn(async move { cold.run(move || begun.send(()).is_ok()).await }));
        }
        while cold.places.available_permits() > 0 {
            yield_now().await;
        }
        assert_eq!(cold.run(|| ()).await, Err(Error::Busy));
        begins.recv_timeout(SOON).unwrap();
        assert!(begins.try_recv().is_err(), "two at a time");
        go.send(()).unwrap();
        for job in jobs {
            assert_eq!(job.await.unwrap(), Ok(true));
        }
        assert_eq!(cold.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn whoever_opens_yields_to_the_workers_but_not_for_ever() {
        let cold = Cold::new(1, 1, SOON);
        assert_eq!(cold.run(thread_schedule_policy).await, Ok(Ok(YIELDING)));
        let cold = Cold::new(1, 1, Duration::ZERO);
        let (go, may) = mpsc::channel::<()>();
        let may = Mutex::new(may);
        let job = move || {
            let policy = thread_schedule_policy();
            if policy == Ok(YIELDING) {
                // No core for this thread as long as the test runs.
                let _ = may.lock().unwrap().recv_timeout(SOON);
            }
            policy
        };
        let ordinary = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
        assert_eq!(cold.run(job).await, Ok(Ok(ordinary)));
        drop(go);
    }
}

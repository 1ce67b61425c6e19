//! The costly steps of new tokens, so that no tunnel waits for them. Seals are opened beside the workers: a
//! private key of 1024 bits takes half a millisecond, one of 4096 more than six. Signatures are checked by the
//! worker, in a tenth to a third of a millisecond, one at a time.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::timeout;

use crate::auth::{self, Desktop, Sealed};
use crate::error::Error;

/// Most seals that wait, besides those that are opened: more than this many take longer than a client
/// should wait.
const WAITING: usize = 256;

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
    /// Seals opened at a time: half the cores, so that the tunnels keep the others.
    hands: Arc<Semaphore>,
}

impl Default for Cold {
    fn default() -> Self {
        let hands = available_parallelism().map_or(1, usize::from).div_ceil(2);
        Self::new(hands, WAITING)
    }
}

impl Cold {
    fn new(hands: usize, waiting: usize) -> Self {
        let places = Arc::new(Semaphore::new(hands + waiting));
        Self { places, hands: Arc::new(Semaphore::new(hands)) }
    }

    /// Opens a seal: here if that is cheap, otherwise on a thread of its own.
    pub(super) async fn open(
        &self,
        sealed: Sealed,
    ) -> Result<Result<Arc<Desktop>, auth::Error>, Error> {
        if sealed.is_costly() { self.run(move || sealed.open()).await } else { Ok(sealed.open()) }
    }

    /// Runs something that takes long beside the worker, if not too much waits already.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::Busy)?;
        let hand = Arc::clone(&self.hands).acquire_owned().await.map_err(|_| Error::Busy)?;
        let run = spawn_blocking(move || {
            // Held to its end even if nobody waits for it any more.
            let _held = (place, hand);
            job()
        });
        // An error means that the job panicked, or that the process is about to end.
        run.await.map_err(|_| Error::Busy)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, mpsc};

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
        let cold = Cold::new(1, 1);
        let (go, may) = mpsc::channel();
        // The job ends only when something else has run on this thread.
        let job = cold.run(move || may.recv_timeout(SOON).is_ok());
        let other = async move { go.send(()).is_ok() };
        let (opened, went_on) = tokio::join!(job, other);
        assert!(opened == Ok(true) && went_on);
    }

    #[tokio::test]
    async fn there_are_so_many_hands_so_many_places_and_no_more() {
        let cold = Cold::new(1, 2);
        let (go, may) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let first = begun.clone();
        let mut jobs = vec![tokio::spawn({
            let cold = cold.clone();
            async move {
                cold.run(move || {
                    first.send(()).unwrap();
                    may.recv_timeout(SOON).is_ok()
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
}

//! Connections that a worker keeps open to upstreams, for the next request to the same one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::transport::Transport;

/// Idle time after which a connection is closed. Node's servers in the pods close theirs after 5 s; a
/// request sent into that close would fail if it may not be repeated.
const IDLE: Duration = Duration::from_secs(4);

/// The same for a pod that is watched: nothing stays open to it for a second after it is gone.
const POD_IDLE: Duration = Duration::from_millis(700);

/// How often somebody should call [`Pool::sweep`]: what was idle for long enough is closed this much
/// later at most.
pub const SWEEP: Duration = Duration::from_millis(250);

/// The other end of a connection. Of a watched pod the uid counts, not only the address, which may
/// become another pod's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) uid: Option<Arc<str>>,
}

impl Peer {
    fn idle(&self) -> Duration {
        if self.uid.is_some() { POD_IDLE } else { IDLE }
    }
}

/// The kept connections of one worker: bounded in number and in time.
#[derive(Debug)]
pub struct Pool {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of each peer, the one that was used last stands last. A list that is empty goes with the next sweep.
    by_peer: BTreeMap<Peer, Vec<Idle>>,
    count: usize,
}

#[derive(Debug)]
struct Idle {
    transport: Box<Transport>,
    until: Instant,
}

impl Pool {
    /// Keeps at most this many connections.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// A connection to a peer on which nothing has come since it was kept: neither an end nor bytes
    /// that nobody asked for.
    pub(super) fn take(&self, peer: &Peer, now: Instant) -> Option<Box<Transport>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        let list = kept.by_peer.get_mut(peer)?;
        while let Some(idle) = list.pop() {
            kept.count -= 1;
            if idle.until > now && idle.transport.is_quiet() {
                return Some(idle.transport);
            }
        }
        None
    }

    /// Keeps a connection that is between two requests, if there is room.
    pub(super) fn keep(&self, peer: Peer, transport: Box<Transport>, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.count >= self.most {
            return;
        }
        kept.count += 1;
        let until = now + peer.idle();
        kept.by_peer.entry(peer).or_default().push(Idle { transport, until });
    }

    /// Closes what was idle for long enough.
    pub fn sweep(&self, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        kept.by_peer.retain(|_, list| {
            list.retain(|idle| idle.until > now);
            count += list.len();
            !list.is_empty()
        });
        kept.count = count;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::Wire;

    async fn pair() -> (Box<Transport>, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ours = TcpStream::connect(address).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (Box::new(Transport::new(Wire::Plain(ours), address)), theirs, address)
    }

    fn peer(address: SocketAddr, uid: Option<&str>) -> Peer {
        Peer { address, uid: uid.map(Arc::from) }
    }

    #[tokio::test]
    async fn a_kept_connection_is_used_again_for_the_same_pod_only() {
        let (pool, now) = (Pool::new(2), Instant::now());
        let (transport, _theirs, address) = pair().await;
        pool.keep(peer(address, Some("a")), transport, now);
        assert!(pool.take(&peer(address, Some("b")), now).is_none());
        assert!(pool.take(&peer(address, None), now).is_none());
        assert!(pool.take(&peer(address, Some("a")), now).is_some());
        assert!(pool.take(&peer(address, Some("a")), now).is_none());
        assert_eq!(pool.kept.lock().unwrap().count, 0);
    }

    #[tokio::test]
    async fn it_is_not_kept_for_longer_than_its_time_nor_beyond_the_bound() {
        let (pool, now) = (Pool::new(1), Instant::now());
        let (first, theirs, address) = pair().await;
        let (second, _other, elsewhere) = pair().await;
        pool.keep(peer(address, None), first, now);
        pool.keep(peer(elsewhere, None), second, now);
        assert!(pool.take(&peer(elsewhere, None), now).is_none());
        pool.sweep(now + IDLE - Duration::from_millis(1));
        assert_eq!(pool.kept.lock().unwrap().count, 1);
        pool.sweep(now + IDLE);
        assert_eq!(pool.kept.lock().unwrap().count, 0);
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut [0]).unwrap(), 0, "not closed");
    }

    #[tokio::test]
    async fn one_that_was_idle_for_too_long_is_not_used() {
        let (pool, now) = (Pool::new(2), Instant::now());
        let (transport, _theirs, address) = pair().await;
        pool.keep(peer(address, None), transport, now);
        assert!(pool.take(&peer(address, None), now + IDLE).is_none());
    }

    #[tokio::test]
    async fn one_on_which_something_came_is_not_used() {
        for says_something in [false, true] {
            let (pool, now) = (Pool::new(2), Instant::now());
            let (transport, mut theirs, address) = pair().await;
            if says_something {
                theirs.write_all(b"HTTP/1.1 408").await.unwrap();
            } else {
                drop(theirs);
            }
            transport.readable().await;
            pool.keep(peer(address, None), transport, now);
            assert!(pool.take(&peer(address, None), now).is_none());
        }
    }
}

//! How sockets are set: when a silent peer is given up, and how much waits unsent.

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How the sockets of tunnels and clients are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPolicy {
    /// Bytes not yet sent that the system takes before it stops asking for more; 0 leaves it to the
    /// system. A picture that waits here is late when it arrives.
    pub unsent: u32,
    /// Longest time that bytes sent stay unacknowledged.
    pub user_timeout: Duration,
    /// Silence after which the system asks whether the peer is alive.
    pub keepalive: Duration,
}

impl SocketPolicy {
    /// For a client of which nothing is known but how long it may take nothing.
    #[must_use]
    pub fn of_clients(patience: Duration) -> Self {
        Self { unsent: 0, user_timeout: patience, keepalive: patience }
    }

    /// Sets a socket. What the system refuses is not worth a connection: it works, only later.
    pub fn apply(&self, tcp: &impl AsFd) {
        const PROBES: u32 = 3;
        // The system counts in seconds, and refuses none.
        const LEAST: Duration = Duration::from_secs(1);
        let socket = SockRef::from(tcp);
        let keepalive = TcpKeepalive::new().with_time(self.keepalive.max(LEAST));
        let keepalive = keepalive.with_interval((self.keepalive / 2).max(LEAST));
        let keepalive = keepalive.with_retries(PROBES);
        let _ = socket.set_tcp_keepalive(&keepalive);
        let _ = socket.set_tcp_user_timeout(Some(self.user_timeout));
        if self.unsent > 0 {
            let _ = socket.set_tcp_notsent_lowat(self.unsent);
        }
    }
}

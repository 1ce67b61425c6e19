//! The listening sockets: one per worker and address, so that the kernel spreads the connections
//! and no worker hands one to another.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::ListenError;

/// Connections that wait to be accepted, per socket; the kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

/// Bound sockets.
pub(super) struct Listeners {
    /// For each worker a socket of each address.
    pub(super) sockets: Vec<Vec<(Scheme, TcpListener)>>,
    /// The addresses, as they were bound.
    pub(super) addresses: Vec<(Scheme, SocketAddr)>,
}

/// What is spoken on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Listeners {
    /// Listens on each address once per worker.
    ///
    /// # Errors
    /// If an address is taken or may not be used.
    pub(super) fn bind(
        addresses: &[(Scheme, SocketAddr)],
        workers: usize,
    ) -> Result<Self, ListenError> {
        let mut found = Self { sockets: Vec::new(), addresses: Vec::new() };
        found.sockets.resize_with(workers, Vec::new);
        for (scheme, address) in addresses {
            let wrong = |error| ListenError::Address { address: *address, error };
            // Sockets that share a port would also share it with another process, silently.
            drop(socket(*address, false).map_err(wrong)?);
            let mut bound = *address;
            for sockets in &mut found.sockets {
                let socket = socket(bound, true).map_err(wrong)?;
                socket.listen(BACKLOG).map_err(wrong)?;
                let listener = TcpListener::from(socket);
                // Port 0 is a free one, and the same for all.
                bound = listener.local_addr().map_err(wrong)?;
                sockets.push((*scheme, listener));
            }
            found.addresses.push((*scheme, bound));
        }
        Ok(found)
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_a_socket_of_the_same_port() {
        let free = (Scheme::Http, "127.0.0.1:0".parse().unwrap());
        let listeners = Listeners::bind(&[free], 3).unwrap();
        for sockets in &listeners.sockets {
            assert_eq!(sockets[0].1.local_addr().unwrap(), listeners.addresses[0].1);
        }
    }

    #[test]
    fn a_port_of_another_is_not_shared() {
        let first = Listeners::bind(&[(Scheme::Https, "127.0.0.1:0".parse().unwrap())], 2).unwrap();
        let second = Listeners::bind(&first.addresses, 2);
        assert!(matches!(second, Err(ListenError::Address { .. })));
    }
}

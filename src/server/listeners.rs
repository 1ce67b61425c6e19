//! The listening sockets: one per worker and address, so that the kernel spreads the connections
//! and no worker hands one to another.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Type};

use super::ListenError;
use super::handover::{Socket, can_give};

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
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| scheme.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Listeners {
    /// Listens on each address once per worker. Sockets that another process gave are used where
    /// they fit, all of them: a queue that nobody serves would swallow connections.
    ///
    /// # Errors
    /// If an address is taken or may not be used, or if the other process serves one that is not among these: it
    /// would stop, and nobody serve there.
    pub(super) fn bind(
        addresses: &[(Scheme, SocketAddr)],
        workers: usize,
        mut given: Vec<Socket>,
    ) -> Result<Self, ListenError> {
        let mut found = Self { sockets: Vec::new(), addresses: Vec::new() };
        found.sockets.resize_with(workers, Vec::new);
        let all: Vec<_> = addresses.iter().map(|(_, address)| *address).collect();
        for (scheme, address) in addresses {
            let wrong = |error| ListenError::Address { address: *address, error };
            let fits = |(of, at, _): &mut Socket| of == scheme && at == address;
            let mut sockets: Vec<_> = given.extract_if(.., fits).map(|given| given.2).collect();
            if sockets.is_empty() {
                // Sockets that share a port would also share it with another process, silently.
                drop(socket(*address, &all, false).map_err(wrong)?);
            }
            let mut bound = *address;
            while sockets.len() < workers {
                let socket = socket(bound, &all, true).map_err(wrong)?;
                socket.listen(BACKLOG).map_err(wrong)?;
                let listener = TcpListener::from(socket);
                // Port 0 is a free one, and the same for all.
                bound = listener.local_addr().map_err(wrong)?;
                sockets.push(listener);
            }
            for (index, listener) in sockets.into_iter().enumerate() {
                if let Some(sockets) = found.sockets.get_mut(index % workers.max(1)) {
                    sockets.push((*scheme, listener));
                }
            }
            found.addresses.push((*scheme, bound));
        }
        match given.first() {
            None => Ok(found),
            Some((scheme, address, _)) => {
                let scheme = scheme.name();
                let text = format!(
                    "the running process also serves {scheme} {address}, and this one would not \
                     (https needs a certificate)"
                );
                Err(ListenError::Handover(io::Error::other(text)))
            }
        }
    }

    /// The same sockets once more, to hand over.
    ///
    /// # Errors
    /// If the process has no descriptor left, or they are too many.
    pub(super) fn copies(&self) -> io::Result<Vec<Socket>> {
        can_give(self.sockets.iter().map(Vec::len).sum())?;
        let mut copies = Vec::new();
        for (scheme, socket) in self.sockets.iter().flatten() {
            copies.push((*scheme, socket.local_addr()?, socket.try_clone()?));
        }
        Ok(copies)
    }
}

/// A listening socket for one thread, at one of these addresses.
///
/// # Errors
/// If the address is taken, unless by a process that hands over, or may not be used.
pub(super) fn single(
    address: SocketAddr,
    all: &[SocketAddr],
    shared: bool,
) -> io::Result<TcpListener> {
    if !shared {
        drop(socket(address, all, false)?);
    }
    let socket = socket(address, all, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket that is bound to one of these addresses. `[::]` stands for every address of both families, and
/// for those of IPv6 alone where one of IPv4 has the same port.
pub(crate) fn socket(
    address: SocketAddr,
    all: &[SocketAddr],
    shared: bool,
) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    let same_port = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
    if address.is_ipv6() && all.iter().any(same_port) {
        socket.set_only_v6(true)?;
    }
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
        let listeners = Listeners::bind(&[free], 3, Vec::new()).unwrap();
        for sockets in &listeners.sockets {
            assert_eq!(sockets[0].1.local_addr().unwrap(), listeners.addresses[0].1);
        }
    }

    #[test]
    fn given_sockets_are_all_used_and_only_missing_ones_are_made() {
        let free = (Scheme::Http, "127.0.0.1:0".parse().unwrap());
        let first = Listeners::bind(&[free], 3, Vec::new()).unwrap();
        let fewer = Listeners::bind(&first.addresses, 2, first.copies().unwrap()).unwrap();
        assert_eq!(fewer.sockets.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        let more = Listeners::bind(&first.addresses, 4, first.copies().unwrap()).unwrap();
        assert_eq!(more.sockets.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 1]);
    }

    #[test]
    fn a_given_socket_that_nobody_would_serve_is_refused() {
        let free = "127.0.0.1:0".parse().unwrap();
        let both = [(Scheme::Http, free), (Scheme::Https, free)];
        let first = Listeners::bind(&both, 1, Vec::new()).unwrap();
        let [http, https] = first.addresses[..] else { unreachable!() };
        for served in [http, https] {
            let next = Listeners::bind(&[served], 1, first.copies().unwrap());
            let error = next.err().unwrap().to_string();
            let other = if served == http { https } else { http };
            let named = format!("{} {}", other.0.name(), other.1);
            assert!(error.contains(&named), "{error}");
        }
        assert!(Listeners::bind(&[http, https], 1, first.copies().unwrap()).is_ok());
    }

    #[test]
    fn both_families_may_be_named() {
        // It does not listen, so it is in nobody's way, but for those who want any port.
        let held = socket("127.0.0.1:0".parse().unwrap(), &[], false).unwrap();
        let port = held.local_addr().unwrap().as_socket().unwrap().port();
        let [four, six] = ["0.0.0.0", "::"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        if TcpListener::bind("[::1]:0").is_err() {
            return; // This machine has no IPv6, or uses none.
        }
        let both = Listeners::bind(&[(Scheme::Http, six)], 1, Vec::new()).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(both);
        for addresses in [[four, six], [six, four]] {
            let addresses = addresses.map(|address| (Scheme::Http, address));
            let listeners = Listeners::bind(&addresses, 2, Vec::new()).unwrap();
            assert!(listeners.sockets.iter().all(|sockets| sockets.len() == 2));
            for host in ["127.0.0.1", "::1"] {
                std::net::TcpStream::connect((host, port)).unwrap();
            }
        }
    }

    #[test]
    fn a_port_of_another_is_not_shared() {
        let first =
            Listeners::bind(&[(Scheme::Https, "127.0.0.1:0".parse().unwrap())], 2, Vec::new())
                .unwrap();
        let second = Listeners::bind(&first.addresses, 2, Vec::new());
        assert!(matches!(second, Err(ListenError::Address { .. })));
    }
}

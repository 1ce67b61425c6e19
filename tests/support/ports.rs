//! Ports to listen at.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::{Domain, Socket, Type};

/// What the kernel takes ports from for connections and for who asks for any port.
const TAKEN_BY_THE_KERNEL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Where other programs rarely listen.
const QUIET: RangeInclusive<u16> = 10_000..=u16::MAX;

/// A port nobody listens at, whatever the address, given to nobody else: the kernel takes none of these, and
/// each is given once. So it is still free when who was given it comes to listen.
pub(crate) fn free_port() -> u16 {
    static PORTS: LazyLock<Vec<u16>> = LazyLock::new(ports);
    // Another run of the tests begins elsewhere.
    static NEXT: LazyLock<AtomicUsize> =
        LazyLock::new(|| AtomicUsize::new(process::id() as usize * 401));
    let mut next = PORTS.iter().map(|_| PORTS[NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len()]);
    next.find(|port| is_free(*port)).expect("a port that nobody listens at")
}

/// Asked without listening: what another thread starts at this moment has a copy of every socket
/// until it runs, and one that listens would keep the port from who is given it.
fn is_free(port: u16) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).is_ok()
}

/// All that the kernel leaves alone; without any, all.
fn ports() -> Vec<u16> {
    let range = std::fs::read_to_string(TAKEN_BY_THE_KERNEL).unwrap();
    let bounds: Vec<u16> = range.split_whitespace().map(|port| port.parse().unwrap()).collect();
    let kernels = bounds[0]..=bounds[1];
    let left: Vec<u16> = QUIET.filter(|port| !kernels.contains(port)).collect();
    if left.is_empty() { QUIET.collect() } else { left }
}

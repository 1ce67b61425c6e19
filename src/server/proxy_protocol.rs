//! PROXY protocol (v1 and v2) before HTTP: who the client of a load balancer is.
//!
//! Only connections from the configured networks begin with the header, and all of those must: a
//! header from anyone else is not looked for, so nobody else can claim an address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

/// Longest v1 header, its line end included.
const MAX_V1: usize = 107;

/// Length of a v2 header before its addresses.
const V2_FIXED: usize = 16;

/// Longest rest of a v2 header: addresses and extensions.
const MAX_V2: usize = 4096;

/// Longest wait for the whole header, which a load balancer sends at once.
const LIMIT: Duration = Duration::from_secs(5);

/// Reads the header if the connection comes from one of the networks; returns who the client is.
///
/// # Errors
/// If the header is demanded and missing, broken or late: the connection must be closed.
pub(super) async fn read_from(
    tcp: &mut TcpStream,
    peer: SocketAddr,
    networks: &[IpNet],
) -> io::Result<SocketAddr> {
    let address = peer.ip().to_canonical();
    if !networks.iter().any(|net| net.contains(&address)) {
        return Ok(peer);
    }
    match timeout(LIMIT, read(tcp)).await {
        // Without addresses the load balancer speaks for itself: a health check.
        Ok(Ok(client)) => Ok(client.unwrap_or(peer)),
        Ok(Err(_)) | Err(_) => {
            warn!("a connection without a valid PROXY header was closed");
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

/// Reads exactly the header, so that what follows is TLS's or HTTP's.
async fn read(tcp: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    // No header is shorter than 15 bytes, and 6 tell which version it is.
    let mut header = vec![0; 6];
    tcp.read_exact(&mut header).await?;
    if header == b"PROXY " {
        while !header.ends_with(b"\n") {
            read_line(tcp, &mut header).await?;
        }
        let found = v1::Header::try_from(header.as_slice()).map_err(invalid)?;
        return Ok(of_v1(&found.addresses));
    }
    header.resize(V2_FIXED, 0);
    tcp.read_exact(header.get_mut(6..).unwrap_or_default()).await?;
    let length = match header.as_slice() {
        [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    if length > MAX_V2 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    header.resize(V2_FIXED + length, 0);
    tcp.read_exact(header.get_mut(V2_FIXED..).unwrap_or_default()).await?;
    let found = v2::Header::try_from(header.as_slice()).map_err(invalid)?;
    // LOCAL: the load balancer speaks for itself, whatever addresses it sends.
    if found.command == v2::Command::Local {
        return Ok(None);
    }
    Ok(of_v2(&found.addresses))
}

/// Reads what is there of a line, and nothing past it.
async fn read_line(tcp: &mut TcpStream, line: &mut Vec<u8>) -> io::Result<()> {
    let mut there = [0; MAX_V1];
    let there = there.get_mut(line.len()..).unwrap_or_default();
    let seen = tcp.peek(there).await?;
    if seen == 0 {
        return Err(io::ErrorKind::InvalidData.into()); // Closed, or too long.
    }
    let there = there.get_mut(..seen).unwrap_or_default();
    let end = there.iter().position(|byte| *byte == b'\n').map_or(seen, |end| end + 1);
    let there = there.get_mut(..end).unwrap_or_default();
    tcp.read_exact(there).await?;
    line.extend_from_slice(there);
    Ok(())
}

fn invalid<E>(_: E) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn of_v1(addresses: &v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Tcp4(ip) => Some((IpAddr::V4(ip.source_address), ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((IpAddr::V6(ip.source_address), ip.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn of_v2(addresses: &v2::Addresses) -> Option<SocketAddr> {
    match addresses {
        v2::Addresses::IPv4(ip) => Some((IpAddr::V4(ip.source_address), ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((IpAddr::V6(ip.source_address), ip.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    }
}

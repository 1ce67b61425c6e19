//! PROXY protocol (v1 and v2) before HTTP: who the client of a load balancer is.
//!
//! Only connections from the configured networks begin with the header, and all of those must: a
//! header from anyone else is not looked for, so nobody else can claim an address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::{SocketDigest, Stream};
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
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

/// Reads the header if the connection comes from one of the networks, and makes the client that it
/// names the connection's peer.
///
/// # Errors
/// If the header is demanded and missing, broken or late: the connection must be closed.
pub(super) async fn read_from(stream: &mut Stream, networks: &[IpNet]) -> io::Result<()> {
    if !is_from(stream, networks) {
        return Ok(());
    }
    match timeout(LIMIT, read(stream)).await {
        // Without addresses the load balancer speaks for itself: a health check.
        Ok(Ok(client)) => {
            if let Some(client) = client {
                set_peer(stream, client);
            }
            Ok(())
        }
        Ok(Err(_)) | Err(_) => {
            warn!("a connection without a valid PROXY header was closed");
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

fn is_from(stream: &Stream, networks: &[IpNet]) -> bool {
    let digest = stream.get_socket_digest();
    let peer = digest.as_ref().and_then(|digest| digest.peer_addr());
    let address = peer.and_then(PeerAddr::as_inet).map(|peer| peer.ip().to_canonical());
    address.is_some_and(|address| networks.iter().any(|net| net.contains(&address)))
}

/// Reads exactly the header, so that what follows is HTTP's.
async fn read(stream: &mut Stream) -> io::Result<Option<SocketAddr>> {
    // No header is shorter than 15 bytes, and 6 tell which version it is.
    let mut header = vec![0; 6];
    stream.read_exact(&mut header).await?;
    if header == b"PROXY " {
        while !header.ends_with(b"\n") && header.len() < MAX_V1 {
            header.push(stream.read_u8().await?);
        }
        let found = v1::Header::try_from(header.as_slice()).map_err(invalid)?;
        return Ok(of_v1(&found.addresses));
    }
    header.resize(V2_FIXED, 0);
    stream.read_exact(header.get_mut(6..).unwrap_or_default()).await?;
    let length = match header.as_slice() {
        [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    if length > MAX_V2 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    header.resize(V2_FIXED + length, 0);
    stream.read_exact(header.get_mut(V2_FIXED..).unwrap_or_default()).await?;
    let found = v2::Header::try_from(header.as_slice()).map_err(invalid)?;
    // LOCAL: the load balancer speaks for itself, whatever addresses it sends.
    if found.command == v2::Command::Local {
        return Ok(None);
    }
    Ok(of_v2(&found.addresses))
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

/// Makes the client the peer, for everything that asks the connection who it is from.
fn set_peer(stream: &mut Stream, client: SocketAddr) {
    let digest = SocketDigest::from_raw_fd(stream.id());
    // An error means that the address was set before, and a new digest has none.
    let _unset = digest.peer_addr.set(Some(PeerAddr::Inet(client)));
    stream.set_socket_digest(digest);
}

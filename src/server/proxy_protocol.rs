//! PROXY protocol (v1 and v2) before HTTP: who the client of a load balancer is.
//!
//! Only connections from the configured networks begin with the header, and all of those must: a
//! header from anyone else is not looked for, so nobody else can claim an address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

mod header;

use header::{Invalid, MAX_V1, Step, next};

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
    let mut begun = false;
    let outcome = timeout(LIMIT, read(tcp, &mut begun)).await;
    match outcome {
        Ok(Ok(client)) => return Ok(client.unwrap_or(peer)),
        Ok(Err(_)) | Err(_) if begun => {
            warn!("a connection without a valid PROXY header was closed");
        }
        // Load balancers see whether the port is open, again and again.
        Ok(Err(_)) | Err(_) => debug!("a connection on which nothing came was closed"),
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Reads exactly the header, so that what follows is TLS's or HTTP's. Says whether anything came.
async fn read(tcp: &mut TcpStream, begun: &mut bool) -> io::Result<Option<SocketAddr>> {
    *begun = tcp.peek(&mut [0]).await? > 0;
    let mut header = Vec::new();
    loop {
        match next(&header).map_err(invalid)? {
            Step::Whole(client) => return Ok(client),
            Step::Line(most) => read_line(tcp, &mut header, most).await?,
            Step::More(missing) => {
                let there = header.len();
                header.resize(there + missing, 0);
                tcp.read_exact(header.get_mut(there..).unwrap_or_default()).await?;
            }
        }
    }
}

/// Reads what is there of a line, and nothing past it.
async fn read_line(tcp: &mut TcpStream, line: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let mut there = [0; MAX_V1];
    let there = there.get_mut(..most).unwrap_or_default();
    let seen = tcp.peek(there).await?;
    if seen == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let there = there.get_mut(..seen).unwrap_or_default();
    let end = there.iter().position(|byte| *byte == b'\n').map_or(seen, |end| end + 1);
    let there = there.get_mut(..end).unwrap_or_default();
    tcp.read_exact(there).await?;
    line.extend_from_slice(there);
    Ok(())
}

fn invalid(_: Invalid) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

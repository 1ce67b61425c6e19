//! `deskgate health`: a probe for images that hold nothing but the program.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::Failure;

/// Longest wait for each step of the probe.
const LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What to ask for; any status but 200 is a failure.
    #[arg(long, default_value = "http://127.0.0.1:80/healthz")]
    url: http::Uri,
}

pub(super) fn health(arguments: &Arguments) -> Result<(), Failure> {
    let url = &arguments.url;
    let host = url.host().ok_or_else(|| Failure::other("the URL names no host"))?;
    if url.scheme_str() != Some("http") {
        return Err(Failure::other("only http:// can be asked"));
    }
    let address = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| Failure::other("the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let path = url.path();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if &head == b"HTTP/1.1 200" {
        return Ok(());
    }
    Err(Failure::other(format!("answered {}", String::from_utf8_lossy(&head))))
}

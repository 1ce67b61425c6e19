//! `deskgate health`: a probe for images that hold nothing but the program.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::Failure;

/// Longest time for the whole probe.
const LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What to ask for; any status but 200 is a failure.
    #[arg(long, default_value = "http://127.0.0.1:80/healthz")]
    url: http::Uri,
}

pub(super) fn health(arguments: &Arguments) -> Result<(), Failure> {
    let url = arguments.url.clone();
    let (answer, answered) = mpsc::channel();
    // No single wait in it has a limit that is good for all; what still waits ends with the process.
    thread::spawn(move || drop(answer.send(probe(&url))));
    let late = |_| Err(Failure::other(format!("no answer within {} s", LIMIT.as_secs())));
    answered.recv_timeout(LIMIT).unwrap_or_else(late)
}

fn probe(url: &http::Uri) -> Result<(), Failure> {
    let host = url.host().ok_or_else(|| Failure::other("the URL names no host"))?;
    if url.scheme_str() != Some("http") {
        return Err(Failure::other("only http:// can be asked"));
    }
    let mut stream = connect(host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))?;
    let target = url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if &head == b"HTTP/1.1 200" {
        return Ok(());
    }
    Err(Failure::other(format!("answered {}", String::from_utf8_lossy(&head))))
}

/// A connection to the first address of a name that takes one.
fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    // One that says nothing leaves time for the others.
    let share = LIMIT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut failure = Failure::other("the host has no address");
    for address in &addresses {
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Failure::other(format!("{address}: {error}")),
        }
    }
    Err(failure)
}

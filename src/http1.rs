//! HTTP/1.1 by the letter (RFC 9112), towards clients and towards upstreams.
//!
//! A head is read once: what parsers let pass and the RFCs do not is refused where it is parsed, so that
//! every reader behind reads the message as it was read here. [`server::Session`] is one request of a
//! client, [`client::Exchange`] one request to an upstream; both read bodies with [`body::Reader`] and
//! write them with [`body::Writer`]. pingora's sessions do more than an edge for desktops needs (two maps
//! for the case of names, a second parser behind ours, timers of their own), at twice the cost of a
//! request.

use std::io;
use std::time::Duration;

use pingora::{BError, Error, ErrorType};

pub mod body;
pub mod chunked;
pub mod client;
pub mod date;
pub mod request;
pub mod response;
pub mod server;
mod within;

pub(crate) use within::within;

/// First size of the buffer for a head.
pub const HEAD_BUFFER: usize = 4096;

/// Most bytes of a body that are read at once.
const PIECE: usize = 64 * 1024;

/// The longest waits on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For a piece of what is read.
    pub read: Duration,
    /// For the other side to take some of what is written.
    pub write: Duration,
}

/// Whether every line of a head ends with CR and LF. Parsers take a bare LF, too, but not all of them,
/// nor everywhere (RFC 9112 section 2.2).
#[must_use]
pub fn ends_lines_with_crlf(head: &[u8]) -> bool {
    let mut feeds = memchr::memchr_iter(b'\n', head);
    let ended = feeds.all(|at| at > 0 && head.get(at - 1) == Some(&b'\r'));
    ended && head.last().is_none_or(|last| *last == b'\n')
}

/// An error of a connection. What is not HTTP has the kind [`io::ErrorKind::InvalidData`].
fn failed(kind: ErrorType, error: io::Error) -> BError {
    Error::because(kind, "", error)
}

/// What is not HTTP.
fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

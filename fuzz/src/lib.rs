//! The parts of deskgate that read strangers' bytes, for the fuzz targets: the same files, reached
//! by links.
//!
//! A `#[path]` would not do: rustc takes a file so named for a `mod.rs` and looks for its
//! submodules beside it.

use std::net::SocketAddr;

pub mod auth;
pub mod chunked;
pub mod config;
pub mod frames;
pub mod proxy;
mod proxy_header;
pub mod route;

use proxy_header::Step;

/// The input without the newline that ends a seed in a text file.
#[must_use]
pub fn seed(data: &[u8]) -> &[u8] {
    data.strip_suffix(b"\n").unwrap_or(data)
}

/// Longest PROXY header of each version.
pub const MAX_PROXY: [usize; 2] = [proxy_header::MAX_V1, 16 + proxy_header::MAX_V2];

/// Reads a PROXY header off the front of a connection, a line in pieces of `at_once` bytes: what it
/// says, and how many bytes were taken. None if they are no header, or not all of one.
#[must_use]
pub fn proxy_header(connection: &[u8], at_once: usize) -> Option<(Option<SocketAddr>, usize)> {
    let mut read = 0;
    loop {
        let (have, rest) = connection.split_at(read);
        read += match proxy_header::next(have).ok()? {
            Step::Whole(client) => return Some((client, read)),
            Step::More(missing) => missing,
            Step::Line(most) => {
                let there = &rest[..rest.len().min(most).min(at_once)];
                let end = there.iter().position(|byte| *byte == b'\n');
                end.map_or(there.len(), |end| end + 1).max(1)
            }
        };
        if read > connection.len() {
            return None; // It ended before its header did.
        }
    }
}

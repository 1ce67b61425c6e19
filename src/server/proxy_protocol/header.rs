//! The bytes of a PROXY header: how many of them there are, and whom they name.
//!
//! Whoever reads them does so in steps, so that nothing of what follows the header is taken.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// How a v1 header begins, and how a v2 header does.
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = v2::PROTOCOL_PREFIX;

/// Longest v1 header, its line end included.
pub(super) const MAX_V1: usize = 107;

/// Length of a v2 header before its addresses.
const V2_FIXED: usize = 16;

/// Longest rest of a v2 header: addresses and extensions.
pub(super) const MAX_V2: usize = 4096;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read exactly so many bytes more.
    More(usize),
    /// Read to the end of the line, but not more than so many bytes.
    Line(usize),
    /// The header is whole. Without a client the load balancer speaks for itself: a health check.
    Whole(Option<SocketAddr>),
}

/// What was read is no PROXY header, and nothing that may follow makes it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Looks at what was read so far, which is nothing at first.
pub(super) fn next(read: &[u8]) -> Result<Step, Invalid> {
    // No header is shorter than 15 bytes, and 6 tell which version it is.
    if read.len() < V1.len() {
        return Ok(Step::More(V1.len() - read.len()));
    }
    if read.starts_with(V1) {
        return next_v1(read);
    }
    let begun = V2.len().min(read.len());
    if V2.get(..begun) != read.get(..begun) {
        return Err(Invalid);
    }
    next_v2(read)
}

fn next_v1(read: &[u8]) -> Result<Step, Invalid> {
    match MAX_V1.checked_sub(read.len()) {
        _ if read.ends_with(b"\n") => {
            // The library takes ` \n` for the line's end, too.
            if !read.ends_with(b"\r\n") {
                return Err(Invalid);
            }
            let header = v1::Header::try_from(read).map_err(|_| Invalid)?;
            Ok(Step::Whole(of_v1(&header.addresses)))
        }
        None | Some(0) => Err(Invalid),
        Some(room) => Ok(Step::Line(room)),
    }
}

fn next_v2(read: &[u8]) -> Result<Step, Invalid> {
    let Some([.., high, low]) = read.get(..V2_FIXED) else {
        return Ok(Step::More(V2_FIXED - read.len()));
    };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    if rest > MAX_V2 {
        return Err(Invalid);
    }
    match (V2_FIXED + rest).saturating_sub(read.len()) {
        0 => {
            let header = v2::Header::try_from(read).map_err(|_| Invalid)?;
            // LOCAL: the load balancer speaks for itself, whatever addresses it sends.
            let proxied = header.command == v2::Command::Proxy;
            Ok(Step::Whole(proxied.then(|| of_v2(&header.addresses)).flatten()))
        }
        missing => Ok(Step::More(missing)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_header_is_known_as_soon_as_possible() {
        for (text, want) in [
            ("PROXY", None),
            ("GET / HTTP/1.1\r\n", Some(6)),
            ("\r\n\r\nGET /", Some(6)),
            ("\r\n\r\n\0\r\nQUIX\n!", Some(11)),
        ] {
            let wrong = (1..=text.len()).find(|read| next(&text.as_bytes()[..*read]).is_err());
            assert_eq!(wrong, want, "{text:?}");
        }
    }

    #[test]
    fn a_line_ends_with_both_its_bytes() {
        let line = "PROXY TCP4 198.51.100.7 10.0.0.1 1024 80";
        let client = Some("198.51.100.7:1024".parse().unwrap());
        assert_eq!(next(format!("{line}\r\n").as_bytes()), Ok(Step::Whole(client)));
        for end in ["\n", " \n", "\r \n"] {
            assert_eq!(next(format!("{line}{end}").as_bytes()), Err(Invalid), "{end:?}");
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_not_read_to_its_end() {
        assert_eq!(next(&[V2, &[0x21, 0x11, 0x10, 0x01]].concat()), Err(Invalid));
        assert_eq!(next(&[V2, &[0x21, 0x11, 0x10, 0x00]].concat()), Ok(Step::More(MAX_V2)));
        let line = [V1, &[b'x'; MAX_V1]].concat();
        assert_eq!(next(&line[..MAX_V1 - 1]), Ok(Step::Line(1)));
        assert_eq!(next(&line[..MAX_V1]), Err(Invalid));
    }
}

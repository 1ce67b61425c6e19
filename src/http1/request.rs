//! The head of a request: judged as it is parsed, and written for an upstream.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use pingora::http::RequestHeader;
use pingora::protocols::http::authority::validate_request_authority;

use super::body::Length;
use super::ends_lines_with_crlf;
use crate::config::Listen;

/// Most headers of a request that can be configured.
pub const MOST_HEADERS: usize = 256;

/// Why a head is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The headers are too many or too long.
    #[error("head too large")]
    HeadTooLarge,
    /// It is not HTTP, or two servers could read it in two ways.
    #[error("invalid request")]
    Invalid,
    /// CONNECT asks for a proxy of another kind.
    #[error("method refused")]
    MethodRefused,
    /// The request line is too long.
    #[error("request line too long")]
    TargetTooLong,
}

/// A request as its head tells.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: RequestHeader,
    /// How long its body is.
    pub length: Length,
    /// Whether the client allows another request on its connection (RFC 9112 section 9.3).
    pub keep: bool,
}

/// The request at the start of what was read, and the length of its head; none if that is not all there.
///
/// # Errors
/// If it breaks a limit, or if two servers could read it in two ways.
pub fn parse(read: &[u8], listen: &Listen) -> Result<Option<(Request, usize)>, Error> {
    let line = usize::try_from(listen.max_line.as_u64()).unwrap_or(usize::MAX);
    let most = usize::try_from(listen.max_head.as_u64()).unwrap_or(usize::MAX);
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let allowed = headers.get_mut(..listen.max_headers.min(MOST_HEADERS));
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(read, allowed.unwrap_or_default());
    let end = match parsed {
        Ok(httparse::Status::Complete(length)) => Some(length),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => return Err(Error::HeadTooLarge),
        Err(_) => return Err(Error::Invalid),
    };
    let head = read.get(..end.unwrap_or(read.len())).unwrap_or(read);
    if head.len() > line.min(most) {
        let mut lines = head.split(|byte| *byte == b'\n');
        if lines.next().is_some_and(|first| first.len() > line) {
            return Err(Error::TargetTooLong);
        }
        if head.len() > most || lines.any(|header| header.len() > line) {
            return Err(Error::HeadTooLarge);
        }
    }
    let Some(end) = end else { return Ok(None) };
    if !ends_lines_with_crlf(head) {
        return Err(Error::Invalid);
    }
    let framing = Framing::of(&request)?;
    Ok(Some((framing.request(&request)?, end)))
}

/// What the connection has to know of a head.
struct Framing {
    length: Length,
    keep: bool,
}

impl Framing {
    /// Reads the headers that frame the message (RFC 9112 section 6.3) or ask for its connection.
    ///
    /// What two servers could read in two ways is refused (RFC 9112 section 11.2): two lengths, a
    /// length beside chunks, an encoding that is not just chunks, two hosts, more than the one
    /// expectation that there is (RFC 9110 section 10.1.1).
    fn of(request: &httparse::Request<'_, '_>) -> Result<Self, Error> {
        let (mut length, mut encoding, mut host, mut expectation) = (None, None, None, None);
        let (mut closes, mut keeps) = (false, false);
        for header in request.headers.iter() {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // The length of a name tells most of them apart.
            let only = match header.name.len() {
                4 if is("host") => &mut host,
                6 if is("expect") => &mut expectation,
                14 if is("content-length") => &mut length,
                17 if is("transfer-encoding") => &mut encoding,
                10 if is("connection") => {
                    for option in header.value.split(|byte| *byte == b',') {
                        let option = option.trim_ascii();
                        closes |= option.eq_ignore_ascii_case(b"close");
                        keeps |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                    continue;
                }
                _ => continue,
            };
            if only.replace(header.value.trim_ascii()).is_some() {
                return Err(Error::Invalid);
            }
        }
        if request.method == Some("CONNECT") {
            return Err(Error::MethodRefused);
        }
        let old = request.version == Some(0);
        let chunked = |value: &[u8]| value.eq_ignore_ascii_case(b"chunked");
        let known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        if encoding.is_some_and(|value| !chunked(value) || length.is_some() || old)
            || !expectation.is_none_or(known)
        {
            return Err(Error::Invalid);
        }
        let length = match (encoding, length) {
            (Some(_), _) => Length::Chunks,
            (None, None) => Length::Known(0),
            (None, Some(digits)) => Length::Known(number(digits).ok_or(Error::Invalid)?),
        };
        Ok(Self { length, keep: !closes && (keeps || !old) })
    }

    fn request(self, parsed: &httparse::Request<'_, '_>) -> Result<Request, Error> {
        let invalid = Error::Invalid;
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for header in parsed.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| invalid)?;
            let value = HeaderValue::from_bytes(header.value).map_err(|_| invalid)?;
            headers.append(name, value);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers = headers;
        let method = parsed.method.unwrap_or_default().as_bytes();
        parts.method = Method::from_bytes(method).map_err(|_| invalid)?;
        parts.version = match parsed.version {
            Some(0) => Version::HTTP_10,
            _ => Version::HTTP_11,
        };
        let target = parsed.path.unwrap_or_default();
        let mut head = RequestHeader::from(parts);
        head.set_raw_path(target.as_bytes()).map_err(|_| invalid)?;
        // A target that names a host may not name another one than `Host` (RFC 9112 section 3.2.2).
        if !target.starts_with('/') {
            validate_request_authority(&head).map_err(|_| invalid)?;
        }
        Ok(Request { head, length: self.length, keep: self.keep })
    }
}

/// A length in which every reader counts alike (RFC 9110 section 8.6).
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Some count in signed numbers.
    let number = std::str::from_utf8(digits).ok()?.parse::<i64>().ok()?;
    u64::try_from(number).ok()
}

/// The head of a request to an upstream, line by line.
#[derive(Debug)]
pub struct Lines<'a>(&'a mut BytesMut);

impl<'a> Lines<'a> {
    /// Writes the request line; none if the target would not stay in it.
    #[must_use]
    pub fn begin(out: &'a mut BytesMut, method: &Method, target: &str) -> Option<Self> {
        let fits = |byte: u8| byte > b' ' && byte != 0x7f;
        if target.is_empty() || !target.bytes().all(fits) {
            return None;
        }
        for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        Some(Self(out))
    }

    /// Writes a header; leaves out one whose value would not stay in its line.
    pub fn header(&mut self, name: &HeaderName, value: &[u8]) {
        let leaves = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
        // All bytes are looked at, many at a time: none ends the search.
        if value.iter().fold(false, |found, byte| found | leaves(*byte)) {
            return;
        }
        put_name(self.0, name.as_str());
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }

    /// Writes the end of the head.
    pub fn end(self) {
        self.0.extend_from_slice(b"\r\n");
    }
}

/// Writes the name of a header as people do: each word begins with a capital. Names mean the same in any
/// case (RFC 9110 section 5.1), which the parsers of some old clients do not know.
pub(super) fn put_name(out: &mut BytesMut, name: &str) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut begins = true;
    for byte in out.get_mut(start..).unwrap_or_default() {
        if begins {
            byte.make_ascii_uppercase();
        }
        begins = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    fn read(head: &str) -> Result<Option<(Request, usize)>, Error> {
        parse(head.as_bytes(), &Config::from_text("empty", "").unwrap().config.listen)
    }

    #[test]
    fn a_request_is_framed_in_one_way_or_refused() {
        for (lines, length, keep) in [
            ("GET / HTTP/1.1\r\nHost: a", Length::Known(0), true),
            ("GET / HTTP/1.0", Length::Known(0), false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive", Length::Known(0), true),
            ("GET / HTTP/1.1\r\nConnection: x, CLOSE", Length::Known(0), false),
            (
                "GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close",
                Length::Known(0),
                false,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 007 ", Length::Known(7), true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding:Chunked", Length::Chunks, true),
            (
                "POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1",
                Length::Known(1),
                true,
            ),
        ] {
            let head = format!("{lines}\r\n\r\n");
            let (request, end) = read(&format!("{head}GET")).unwrap().unwrap();
            assert_eq!((request.length, request.keep, end), (length, keep, head.len()), "{lines}");
        }
        for lines in [
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nContent-Length: -1",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1",
            "POST / HTTP/1.1\r\nContent-Length:",
            "POST / HTTP/1.1\r\nContent-Length: 9223372036854775808",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
            "GET / HTTP/1.1\r\nHost: a\r\nhost: a",
            "GET / HTTP/1.1\r\nHost: a\r\n b",
            "GET / HTTP/1.1\nHost: a",
            "GET / HTTP/1.1\r\nHost : a",
            "GET / HTTP/1.1\r\nExpect: more",
            "GET http://a/ HTTP/1.1\r\nHost: b",
            "GET http://u@a/ HTTP/1.1\r\nHost: a",
            "GET  / HTTP/1.1",
        ] {
            assert_eq!(read(&format!("{lines}\r\n\r\n")).unwrap_err(), Error::Invalid, "{lines}");
        }
        assert_eq!(read("CONNECT a:1 HTTP/1.1\r\n\r\n").unwrap_err(), Error::MethodRefused);
        assert!(read("GET / HTTP/1.1\r\nHost: a\r\n").unwrap().is_none());
    }

    #[test]
    fn names_begin_with_capitals_and_all_stays_in_its_line() {
        let mut out = BytesMut::new();
        let mut lines = Lines::begin(&mut out, &Method::GET, "/a?b").unwrap();
        lines.header(&HeaderName::from_static("x-real-ip"), b"a\t\xff");
        for value in ["a\r\nb: c", "a\n", "\r", "\0", "\x7f"] {
            lines.header(&HeaderName::from_static("x"), value.as_bytes());
        }
        lines.end();
        assert_eq!(&out[..], b"GET /a?b HTTP/1.1\r\nX-Real-Ip: a\t\xff\r\n\r\n");
        for target in ["", "/a b", "/a\r\nb", "/a\0", "/\x7f"] {
            assert!(Lines::begin(&mut out, &Method::GET, target).is_none(), "{target:?}");
        }
    }

    /// What a plain reader makes of a head: its lines end with CR and LF only, a name ends at the first
    /// colon. Lengths, and codings, as they stand there.
    fn plainly(head: &[u8]) -> Option<(Vec<String>, Vec<String>)> {
        let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
        let (mut lengths, mut codings) = (Vec::new(), Vec::new());
        let mut lines = text.split("\r\n");
        let _request = lines.next()?;
        for line in lines {
            if line.contains(['\r', '\n']) {
                return None;
            }
            let (name, value) = line.split_once(':')?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => lengths.push(value.trim_matches([' ', '\t']).to_owned()),
                "transfer-encoding" => codings.push(value.trim_matches([' ', '\t']).to_owned()),
                name if name.is_empty() || name.contains([' ', '\t']) => return None,
                _ => {}
            }
        }
        Some((lengths, codings))
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_every_reader_takes(
            lines in prop::collection::vec((
                prop::sample::select(&[
                    "Content-Length", "content-length", "Transfer-Encoding", "TRANSFER-ENCODING", "Host",
                    "Connection", "X", "Content-Length ", " Transfer-Encoding", "", "X\tY",
                ][..]),
                prop::sample::select(&[":", ": ", ":\t", " :", "", "::"][..]),
                prop::sample::select(&[
                    "1", "01", "+1", "1,1", "0x1", "chunked", "Chunked", "chunked ", "gzip, chunked",
                    "chunked, x", "identity", "\u{b}chunked", "", "a", "close", "1 1",
                ][..]),
                prop::sample::select(&["\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "][..]),
            ), 0..4),
            old: bool,
        ) {
            let mut head = format!("POST / HTTP/1.{}\r\n", u8::from(!old));
            for (name, colon, value, end) in lines {
                head.extend([name, colon, value, end]);
            }
            head.push_str("\r\n");
            let Ok(Some((request, end))) = read(&head) else { return Ok(()) };
            let (lengths, codings) = plainly(&head.as_bytes()[..end]).unwrap();
            let known = |length: &[u8]| number(length).map(Length::Known);
            let want = match (&lengths[..], &codings[..]) {
                ([], []) => Some(Length::Known(0)),
                ([length], []) => known(length.as_bytes()),
                ([], [coding]) if !old && coding.eq_ignore_ascii_case("chunked") => {
                    Some(Length::Chunks)
                }
                _ => None,
            };
            prop_assert_eq!(Some(request.length), want, "{:?}", head);
        }
    }
}

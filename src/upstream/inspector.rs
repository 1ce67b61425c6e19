//! An upstream's answer by the letter, on its way in: a pod belongs to its user, who may make it say
//! anything.
//!
//! pingora reads what passes here. It would take a megabyte of head for as long as it drips, folded
//! lines, bare LF, two lengths that agree, a length beside chunks, a chunk without a size; what two
//! readers could frame in two ways, or only a hostile pod would send, does not get that far.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use http::Method;

use crate::transport::chunked::Chunked;
use crate::transport::{Inspect, ends_lines_with_crlf};

/// Largest head of an answer, and most lines of it.
const HEAD: usize = 64 * 1024;
const LINES: usize = 128;

/// Longest time from the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Looks at one answer.
#[derive(Debug)]
pub(super) struct Inspector {
    /// Whether the answer has no body whatever it says (RFC 9112 section 6.3).
    head_only: bool,
    /// The beginning of a head that is not all there, and when it came.
    begun: Vec<u8>,
    since: Option<Instant>,
    part: Part,
}

/// What of the answer is looked at.
#[derive(Debug)]
enum Part {
    Head,
    Chunks(Chunked),
    /// Its reader counts it, or it belongs to a tunnel.
    Rest,
}

/// What a head says of what follows it.
struct Framing {
    status: u16,
    chunked: bool,
    /// Length of the head.
    end: usize,
}

impl Inspector {
    /// For the answer to a request of this method.
    pub(super) fn new(method: &Method) -> Self {
        Self {
            head_only: *method == Method::HEAD,
            begun: Vec::new(),
            since: None,
            part: Part::Head,
        }
    }

    /// Looks at a piece of a head; returns what is behind the head's end.
    fn head<'r>(&mut self, read: &'r [u8]) -> io::Result<&'r [u8]> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let known = self.begun.len();
        let framing = if known == 0 {
            judge(read)?
        } else {
            self.begun.extend_from_slice(read);
            // Only a new line can end a head, or break its rules for good.
            if read.contains(&b'\n') { judge(&self.begun)? } else { None }
        };
        let Some(framing) = framing else {
            if known == 0 {
                self.begun.extend_from_slice(read);
            }
            return match self.begun.len() {
                ..=HEAD if since.elapsed() > HEAD_TIME => Err(ErrorKind::TimedOut.into()),
                ..=HEAD => Ok(&[]),
                _ => Err(invalid()),
            };
        };
        (self.begun, self.since) = (Vec::new(), None);
        self.part = match framing.status {
            // An interim answer, behind which another head comes (RFC 9110 section 15.2).
            100..200 if framing.status != 101 => Part::Head,
            101 | 204 | 304 => Part::Rest,
            _ if framing.chunked && !self.head_only => Part::Chunks(Chunked::default()),
            _ => Part::Rest,
        };
        Ok(read.get(framing.end - known..).unwrap_or_default())
    }
}

impl Inspect for Inspector {
    fn inspect(&mut self, mut read: &[u8]) -> io::Result<()> {
        while !read.is_empty() {
            match &mut self.part {
                Part::Head => read = self.head(read)?,
                Part::Chunks(chunks) => return chunks.follow(read).map_err(|_| invalid()),
                Part::Rest => return Ok(()),
            }
        }
        Ok(())
    }
}

fn invalid() -> io::Error {
    ErrorKind::InvalidData.into()
}

/// What the head at the start of these bytes says; nothing if it is not all there.
fn judge(read: &[u8]) -> io::Result<Option<Framing>> {
    let mut headers = [const { MaybeUninit::uninit() }; LINES];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let end = match parser.parse_response_with_uninit_headers(&mut response, read, &mut headers) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(invalid()),
    };
    let head = read.get(..end).unwrap_or_default();
    // A second line of either kind, or one beside the other, is a second way to read the message.
    let mut framed = None;
    for header in response.headers.iter() {
        let chunks = header.name.eq_ignore_ascii_case("transfer-encoding");
        if !chunks && !header.name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        let value = header.value.trim_ascii();
        let valid = if chunks { value.eq_ignore_ascii_case(b"chunked") } else { is_length(value) };
        if !valid || framed.replace(chunks).is_some() {
            return Err(invalid());
        }
    }
    let (status, chunked) = (response.code.unwrap_or_default(), framed == Some(true));
    // HTTP/1.0 knows neither chunks nor interim answers.
    let old = response.version == Some(0) && (chunked || status < 200);
    let small = end <= HEAD && !head.starts_with(b"\r\n");
    if status < 100 || old || !small || !ends_lines_with_crlf(head) {
        return Err(invalid());
    }
    Ok(Some(Framing { status, chunked, end }))
}

/// Whether a value is a length, and one in which every reader counts alike.
fn is_length(value: &[u8]) -> bool {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits && std::str::from_utf8(value).is_ok_and(|digits| digits.parse::<i64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bytes: &str) -> Result<(), ErrorKind> {
        let at_once = Inspector::new(&Method::GET).inspect(bytes.as_bytes());
        let mut inspector = Inspector::new(&Method::GET);
        let drip = bytes.bytes().try_for_each(|byte| inspector.inspect(&[byte]));
        assert_eq!(drip.is_ok(), at_once.is_ok(), "{bytes:?}");
        at_once.map_err(|error| error.kind())
    }

    #[test]
    fn an_answer_is_framed_in_one_way_or_refused() {
        let interim = |count| "HTTP/1.1 103 Early\r\n\r\n".repeat(count);
        let end = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
        for good in [
            end,
            "HTTP/1.1 200\r\n\r\nuntil the end\n\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:CHUNKED\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\nx",
            "HTTP/1.1 101 Yes\r\n\r\nx",
            &(interim(3) + end),
            "HTTP/1.1 2",
        ] {
            assert_eq!(look(good), Ok(()), "{good:?}");
        }
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 101 Yes\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(LINES + 1)),
            &format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD)),
        ] {
            assert_eq!(look(bad), Err(ErrorKind::InvalidData), "{bad:.60?}");
        }
    }

    #[test]
    fn the_answer_to_head_has_no_chunks_to_look_at() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx";
        assert!(Inspector::new(&Method::HEAD).inspect(answer).is_ok());
        assert!(Inspector::new(&Method::GET).inspect(answer).is_err());
    }

    #[test]
    fn a_head_has_a_time_to_come_in() {
        let mut inspector = Inspector::new(&Method::GET);
        inspector.inspect(b"HTTP/1.1 200 OK\r\n").unwrap();
        inspector.since = Instant::now().checked_sub(HEAD_TIME + Duration::from_secs(1));
        assert_eq!(inspector.inspect(b"X").unwrap_err().kind(), ErrorKind::TimedOut);
    }
}

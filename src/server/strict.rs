//! What parsers let pass in a request and the RFCs do not: every reader behind must read it as it was
//! read here.

use std::io::{self, ErrorKind};

use pingora::protocols::Stream;

use crate::error::Error;
use crate::transport::chunked::Chunked;
use crate::transport::{Inspect, Transport, ends_lines_with_crlf};

/// Judges a whole head that parsers understand.
pub(super) fn judge(head: &[u8], request: &httparse::Request<'_, '_>) -> Result<(), Error> {
    let mut expectations =
        request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("expect"));
    // There is one expectation (RFC 9110 section 10.1.1), and servers that look for it in others.
    let known = expectations
        .next()
        .is_none_or(|header| header.value.trim_ascii().eq_ignore_ascii_case(b"100-continue"));
    if ends_lines_with_crlf(head) && known && expectations.next().is_none() {
        Ok(())
    } else {
        Err(Error::InvalidRequest)
    }
}

/// A chunked body of which these bytes came together with the head.
pub(super) fn begin(read: &[u8]) -> Result<Chunked, Error> {
    let mut body = Chunked::default();
    body.follow(read).map_err(|_| Error::InvalidRequest)?;
    Ok(body)
}

/// Has the rest of a chunked body followed on its way in. None only if this is no connection of ours.
pub(super) fn follow(stream: Stream, chunks: Option<Chunked>) -> Option<Stream> {
    let mut transport = stream.into_any().downcast::<Transport>().ok()?;
    transport.inspect(chunks.map(|chunks| Box::new(Body(chunks)) as Box<dyn Inspect>));
    Some(transport)
}

/// The chunked body of a request.
struct Body(Chunked);

impl Inspect for Body {
    fn inspect(&mut self, read: &[u8]) -> io::Result<()> {
        self.0.follow(read).map_err(|_| ErrorKind::InvalidData.into())
    }
}

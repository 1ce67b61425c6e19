//! One request to an upstream, on a connection that may serve more.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora::{Error, ErrorType, Result};
use tokio::io::AsyncWriteExt;

use super::body::{Length, Reader, Writer};
use super::response::{self, Response};
use super::{HEAD_BUFFER, PIECE, Waits, failed, invalid, within};
use crate::transport::Transport;

/// Most bytes of an answer that are read at once: a head and a large piece of its body.
const ANSWER: usize = PIECE + HEAD_BUFFER;

/// Longest time from the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// What comes of waiting for more of an answer's body.
#[derive(Debug)]
pub enum Came {
    /// The next piece of it.
    Piece(Bytes),
    /// It is over.
    End,
    /// Nothing yet, but there is room again for the request's body ([`Exchange::has_room`]).
    Room,
}

/// A request under way, and its answer.
#[derive(Debug)]
pub struct Exchange {
    transport: Box<Transport>,
    /// What was read and not taken.
    read: BytesMut,
    /// When the head began of which only a part has come.
    since: Option<Instant>,
    /// Whether the answer has no body whatever it says (RFC 9112 section 6.3).
    head_only: bool,
    request: Writer,
    /// Why the upstream takes no more of the request.
    refused: Option<ErrorKind>,
    head: Option<Parts>,
    body: Reader,
    /// Whether the upstream allows another request on the connection.
    keep: bool,
    waits: Waits,
}

impl Exchange {
    /// A request of this method on a connection that is between two requests.
    #[must_use]
    pub fn new(transport: Box<Transport>, method: &Method, waits: Waits) -> Self {
        Self {
            transport,
            read: BytesMut::new(),
            since: None,
            head_only: *method == Method::HEAD,
            request: Writer::new(Length::Known(0)),
            refused: None,
            head: None,
            body: Reader::new(Length::Known(0)),
            keep: false,
            waits,
        }
    }

    /// Writes the head of the request, whose body is of this length. A head that a body follows leaves
    /// together with its beginning, or as soon as the answer is read.
    ///
    /// # Errors
    /// If the upstream does not take it in its time.
    pub async fn write_head(&mut self, head: &[u8], length: Length) -> Result<()> {
        self.request = Writer::new(length);
        self.transport.unsent().extend_from_slice(head);
        let whole = length == Length::Known(0);
        if whole || self.transport.is_full() { self.flush().await } else { Ok(()) }
    }

    /// Takes a piece of the request's body, and waits for nothing: what the upstream does not take now leaves
    /// while its answer is waited for. Whoever adds more looks at [`Exchange::has_room`] before.
    pub async fn write_body(&mut self, piece: &[u8]) {
        if self.refused.is_none()
            && let Err(error) = self.request.offer(&mut self.transport, piece).await
        {
            self.stop_asking(&error);
        }
    }

    /// Takes the end of the request's body, which leaves like a piece of it. If more was promised, the
    /// connection serves no other request.
    pub fn finish_body(&mut self) {
        if self.refused.is_none()
            && let Err(error) = self.request.finish(&mut self.transport)
        {
            self.stop_asking(&error);
        }
    }

    /// Whether another piece of the request's body may be added.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.transport.is_full()
    }

    /// Whether the upstream was given all that was written.
    #[must_use]
    pub fn is_drained(&mut self) -> bool {
        self.transport.unsent().is_empty()
    }

    /// Whether the upstream takes no more of the request. It may have answered before, or still do so.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Waits until the upstream has taken all that was written.
    ///
    /// # Errors
    /// If it does not in its time.
    pub async fn drain(&mut self) -> Result<()> {
        if self.is_drained() {
            return Ok(());
        }
        match within(self.waits.write, self.transport.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.stop_asking(&error),
            Err(_) => return Err(Error::new_up(ErrorType::WriteTimedout)),
        }
        Ok(())
    }

    /// Gives up what is left of the request.
    fn stop_asking(&mut self, error: &io::Error) {
        // What cannot be sent must not stand in the way of what is read.
        self.transport.unsent().clear();
        self.refused.get_or_insert_with(|| error.kind());
    }

    async fn flush(&mut self) -> Result<()> {
        match within(self.waits.write, self.transport.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(ErrorType::WriteError, error).into_up()),
            Err(_) => Err(Error::new_up(ErrorType::WriteTimedout)),
        }
    }

    /// Reads the head of an answer: of the final one, or of an interim one, behind which another comes.
    /// Comes back with none as soon as there is room again ([`Exchange::has_room`]). May be cancelled and
    /// called again.
    ///
    /// # Errors
    /// If it does not come in its time, or is not framed in one way.
    pub async fn read_head(&mut self) -> Result<Option<&Parts>> {
        let mut judged = 0;
        loop {
            // Only a new line can end a head, or break its rules for good.
            let new = self.read.get(judged..).unwrap_or_default();
            if new.contains(&b'\n') || self.read.len() > response::HEAD {
                let parsed = response::parse(&self.read);
                let parsed =
                    parsed.map_err(|error| failed(ErrorType::ReadError, error).into_up())?;
                if let Some((response, end)) = parsed {
                    self.read.advance(end);
                    return Ok(Some(self.begin(response)));
                }
            }
            judged = self.read.len();
            if !self.read.is_empty() {
                let since = *self.since.get_or_insert_with(Instant::now);
                if since.elapsed() > HEAD_TIME {
                    return Err(Error::new_up(ErrorType::ReadTimedout));
                }
            }
            match self.fill().await? {
                None => return Ok(None),
                Some(0) => {
                    let closed = io::Error::from(ErrorKind::UnexpectedEof);
                    return Err(failed(ErrorType::ConnectionClosed, closed).into_up());
                }
                Some(_) => {}
            }
        }
    }

    /// Takes a head on.
    fn begin(&mut self, response: Response) -> &Parts {
        let Response { head, length } = response;
        self.since = None;
        let length = match head.status {
            StatusCode::SWITCHING_PROTOCOLS => Length::UntilEnd,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Length::Known(0),
            status if status.is_informational() || self.head_only => Length::Known(0),
            _ => length,
        };
        self.body = Reader::new(length);
        self.keep = length != Length::UntilEnd && keeps(&head);
        self.head.insert(head)
    }

    /// The head that was read last.
    #[must_use]
    pub fn head(&self) -> Option<&Parts> {
        self.head.as_ref()
    }

    /// The same, to be changed.
    pub fn take_head(&mut self) -> Option<Parts> {
        self.head.take()
    }

    /// The next piece of the answer's body. May be cancelled and called again.
    ///
    /// # Errors
    /// If it does not come in its time, is not framed by the letter, or breaks off.
    pub async fn read_body(&mut self) -> Result<Came> {
        loop {
            match self.body.take(&mut self.read) {
                Ok(Some(piece)) => return Ok(Came::Piece(piece)),
                Ok(None) if self.body.is_over() => return Ok(Came::End),
                Ok(None) => {}
                Err(_) => return Err(failed(ErrorType::ReadError, invalid()).into_up()),
            }
            match self.fill().await? {
                None => return Ok(Came::Room),
                Some(0) => {
                    self.end()
                        .map_err(|error| failed(ErrorType::ConnectionClosed, error).into_up())?;
                    return Ok(Came::End);
                }
                Some(_) => {}
            }
        }
    }

    /// The upstream says nothing more.
    fn end(&mut self) -> io::Result<()> {
        match self.refused {
            // It had ended before it was written to; or we have.
            None | Some(ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => self.body.end(),
            // The system has told of the reset already, where it was written to: now it looks like an end.
            Some(kind) => Err(kind.into()),
        }
    }

    /// Reads once, and sends what waits. None if there is room again before.
    async fn fill(&mut self) -> Result<Option<usize>> {
        self.read.reserve(ANSWER);
        let limit = if self.has_room() { self.waits.read } else { self.waits.write };
        match self.transport.read_or_send(limit, &mut self.read).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) if !self.transport.unsent().is_empty() => {
                // It was not to be sent: what there is to read is still there.
                self.stop_asking(&error);
                Ok(None)
            }
            Ok(Err(error)) => Err(failed(ErrorType::ReadError, error).into_up()),
            Err(_) if self.has_room() => Err(Error::new_up(ErrorType::ReadTimedout)),
            Err(_) => Err(Error::new_up(ErrorType::WriteTimedout)),
        }
    }

    /// The connection, and what was read of it that belongs to no head: for a tunnel.
    #[must_use]
    pub fn into_parts(self) -> (Box<Transport>, BytesMut) {
        (self.transport, self.read)
    }

    /// The connection, if another request may follow on it: the answer is over, the upstream keeps it, has
    /// taken all of the request, and has said nothing that nobody asked for. The request must be over, too.
    #[must_use]
    pub fn into_kept(mut self) -> Option<Box<Transport>> {
        let taken = self.refused.is_none() && self.is_drained();
        let over = self.body.is_over() && self.read.is_empty();
        (self.keep && taken && over).then_some(self.transport)
    }
}

/// Whether an upstream keeps the connection (RFC 9112 section 9.3).
fn keeps(head: &Parts) -> bool {
    let says = |option: &[u8]| names(&head.headers, option);
    match head.version {
        Version::HTTP_10 => says(b"keep-alive") && !says(b"close"),
        _ => !says(b"close"),
    }
}

fn names(headers: &HeaderMap, option: &[u8]) -> bool {
    let mut lines = headers.get_all(header::CONNECTION).iter();
    lines.any(|line| {
        let mut options = line.as_bytes().split(|byte| *byte == b',');
        options.any(|named| named.trim_ascii().eq_ignore_ascii_case(option))
    })
}

#[cfg(test)]
mod tests;

//! One request of a client, on a connection that may serve more.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{Method, StatusCode, header};
use pingora::http::RequestHeader;
use pingora::{BError, Error, ErrorType, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::body::{Length, Reader, Writer};
use super::request::Request;
use super::{HEAD_BUFFER, PIECE, Waits, failed, invalid, response, within};
use crate::transport::Transport;

/// Most bytes of a body that are kept for another try.
const REPLAY: usize = 64 * 1024;

/// Longest time, and most bytes, for which what still comes is taken that nobody wants; and how much of it at
/// once.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER_PIECE: usize = 1024;

/// A request, its body, and the answer to it.
#[derive(Debug)]
pub struct Session {
    transport: Box<Transport>,
    /// What was read and not taken: of the body, then of the next request.
    read: BytesMut,
    request: RequestHeader,
    length: Length,
    body: Reader,
    /// The beginning of the body, if it is kept; none once it is too long.
    replay: Replay,
    keep: bool,
    /// Whether the client has not announced that this is its last request.
    goes_on: bool,
    waits: Waits,
    status: Option<StatusCode>,
    answer: Option<Writer>,
    received: u64,
    sent: u64,
}

/// What is kept of a body for another try.
#[derive(Debug)]
enum Replay {
    No,
    Kept(BytesMut),
    TooLong,
}

impl Session {
    /// A request on this connection. `read` is what came behind its head.
    #[must_use]
    pub fn new(transport: Box<Transport>, read: BytesMut, request: Request) -> Self {
        let Request { head, length, keep } = request;
        Self {
            transport,
            read,
            request: head,
            length,
            body: Reader::new(length),
            replay: Replay::No,
            keep,
            goes_on: keep,
            waits: Waits { read: Duration::MAX, write: Duration::MAX },
            status: None,
            answer: None,
            received: 0,
            sent: 0,
        }
    }

    /// Sets the longest waits for the client from now on.
    pub fn limit(&mut self, waits: Waits) {
        self.waits = waits;
    }

    /// The client's connection.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The head.
    #[must_use]
    pub fn request(&self) -> &RequestHeader {
        &self.request
    }

    /// Length of the body.
    #[must_use]
    pub fn length(&self) -> Length {
        self.length
    }

    /// Whether all of the body was read.
    #[must_use]
    pub fn is_body_over(&self) -> bool {
        self.body.is_over()
    }

    /// Bytes of the body that were read.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of the answer's body that were written.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Status of the answer, as soon as its head is written; of an interim answer, too.
    #[must_use]
    pub fn answered(&self) -> Option<StatusCode> {
        self.status
    }

    /// No other request follows on this connection.
    pub fn close_after(&mut self) {
        self.keep = false;
    }

    /// Keeps what is read of the body from now on, up to a bound.
    pub fn keep_body(&mut self) {
        if matches!(self.replay, Replay::No) {
            self.replay = Replay::Kept(BytesMut::new());
        }
    }

    /// What was kept of the body. None if it is too long.
    #[must_use]
    pub fn kept_body(&self) -> Option<Bytes> {
        match &self.replay {
            Replay::No => Some(Bytes::new()),
            Replay::Kept(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Replay::TooLong => None,
        }
    }

    /// The next piece of the body; none if it is over.
    ///
    /// # Errors
    /// If it does not come in its time, is not framed by the letter, or breaks off.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.take(&mut self.read) {
                Ok(Some(piece)) => {
                    self.note(&piece);
                    return Ok(Some(piece));
                }
                Ok(None) if self.body.is_over() => return Ok(None),
                Ok(None) => {}
                Err(_) => return Err(failed(ErrorType::ReadError, invalid()).into_down()),
            }
            self.read.reserve(PIECE);
            match self.transport.read_within(self.waits.read, &mut self.read).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(gone()),
                Ok(Err(error)) => return Err(failed(ErrorType::ReadError, error).into_down()),
                Err(_) => return Err(Error::new_down(ErrorType::ReadTimedout)),
            }
        }
    }

    /// The next piece of the body. Once it is over, or with `over`, waits for ever, unless the client
    /// closes.
    ///
    /// # Errors
    /// As [`Session::read_body`]; and if the client closes.
    pub async fn read_body_or_idle(&mut self, over: bool) -> Result<Option<Bytes>> {
        if !over && !self.body.is_over() {
            return self.read_body().await;
        }
        // What was written must not wait for what comes.
        self.transport.flush().await.map_err(write_failed)?;
        if self.read.is_empty() {
            let mut next = [0; 64];
            match self.transport.read(&mut next).await {
                Ok(0) => return Err(gone()),
                Ok(count) => self.read.extend_from_slice(next.get(..count).unwrap_or_default()),
                Err(error) => return Err(failed(ErrorType::ReadError, error).into_down()),
            }
        }
        // The beginning of another request: it has its turn.
        pending().await
    }

    fn note(&mut self, piece: &Bytes) {
        self.received += piece.len() as u64;
        if let Replay::Kept(kept) = &mut self.replay {
            if kept.len() + piece.len() > REPLAY {
                self.replay = Replay::TooLong;
            } else {
                kept.extend_from_slice(piece);
            }
        }
    }

    /// Writes the head of the answer, or of an interim one.
    ///
    /// # Errors
    /// If the client does not take it in its time.
    pub async fn write_head(&mut self, head: &Parts) -> Result<()> {
        let interim = head.status.is_informational();
        if self.answer.is_some() {
            return Err(Error::new_in(ErrorType::InternalError));
        }
        if !interim {
            let length = self.length_of(head);
            // Nothing but the end of the connection ends such a body.
            self.keep &= length != Length::UntilEnd;
            // A client that waited for a word before it sent its body may not send it any more (RFC 9110
            // section 10.1.1): nobody knows what comes next.
            self.keep &= !self.may_be_silent();
            self.answer = Some(Writer::new(length));
        }
        let keep = (!interim).then_some(self.keep);
        response::put(self.transport.unsent(), head, keep);
        self.status = Some(head.status);
        if interim || self.transport.is_full() { self.flush().await } else { Ok(()) }
    }

    /// Whether the client waits for leave to send its body, and has sent nothing of it.
    fn may_be_silent(&self) -> bool {
        !self.body.is_over()
            && self.received == 0
            && self.request.headers.contains_key(header::EXPECT)
    }

    /// Length of an answer's body (RFC 9112 section 6.3).
    fn length_of(&self, head: &Parts) -> Length {
        let bodyless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodyless || self.request.method == Method::HEAD {
            return Length::Known(0);
        }
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            return Length::Chunks;
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        length.map_or(Length::UntilEnd, Length::Known)
    }

    /// Writes a piece of the answer's body.
    ///
    /// # Errors
    /// If the client takes nothing of it in its time.
    pub async fn write_body(&mut self, piece: &[u8]) -> Result<()> {
        let Some(answer) = &mut self.answer else {
            return Err(Error::new_in(ErrorType::InternalError));
        };
        let mut rest = answer.begin(&mut self.transport, piece);
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            // A piece may be large: who takes some of it has as much time for the next.
            match within(self.waits.write, self.transport.write(rest)).await {
                Ok(Ok(0)) => return Err(write_failed(ErrorKind::WriteZero.into())),
                Ok(Ok(taken)) => {
                    rest = rest.get(taken..).unwrap_or_default();
                    self.sent += taken as u64;
                }
                Ok(Err(error)) => return Err(write_failed(error)),
                Err(_) => return Err(Error::new_down(ErrorType::WriteTimedout)),
            }
        }
        answer.end(&mut self.transport);
        Ok(())
    }

    /// Writes the end of the answer; whatever still waits leaves.
    ///
    /// # Errors
    /// If the client does not take it in its time, or more of the body was promised.
    pub async fn finish_body(&mut self) -> Result<()> {
        if let Some(answer) = &mut self.answer {
            let finished = answer.finish(&mut self.transport);
            finished.map_err(write_failed)?;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        match within(self.waits.write, self.transport.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(write_failed(error)),
            Err(_) => Err(Error::new_down(ErrorType::WriteTimedout)),
        }
    }

    /// Ends the request. Returns its connection, and what was read of the next request, if another may
    /// follow.
    ///
    /// # Errors
    /// As [`Session::finish_body`]; and if the rest of the request's body does not come.
    pub async fn finish(mut self: Box<Self>) -> Result<Option<(Box<Transport>, BytesMut)>> {
        self.finish_body().await?;
        if !self.keep {
            // Who still sends a body has a request under way, for as long as it is waited for.
            let sends = !self.body.is_over() && !self.may_be_silent();
            self.shutdown().await;
            if !self.goes_on && self.body.is_over() && self.read.is_empty() {
                return Ok(None);
            }
            let over = self.linger();
            if sends {
                drop(over.await);
            }
            return Ok(None);
        }
        if !self.body.is_over() {
            let (limit, mut taken) = (self.waits.read, 0);
            let rest = async {
                while taken < LINGER_BYTES
                    && let Some(bytes) = self.read_body().await?
                {
                    taken += bytes.len();
                }
                Result::<()>::Ok(())
            };
            match within(limit, rest).await {
                Ok(Err(error)) if *error.etype() == ErrorType::ConnectionClosed => {
                    return Err(error);
                }
                Ok(Ok(()) | Err(_)) | Err(_) => {}
            }
            if !self.body.is_over() {
                // It has its answer; what else it sends is too much, too slow or nothing.
                self.shutdown().await;
                drop(self.linger());
                return Ok(None);
            }
        }
        // A large buffer is not for a connection that waits.
        if self.read.is_empty() && self.read.capacity() > HEAD_BUFFER {
            self.read = BytesMut::new();
        }
        Ok(Some((self.transport, self.read)))
    }

    /// Closes the connection once the client has ended its side, or has had time to take what it was told;
    /// [`Session::shutdown`] goes before. Nobody has to wait for that: the request is over.
    pub fn linger(self: Box<Self>) -> JoinHandle<()> {
        tokio::spawn(linger(self.transport))
    }

    /// The connection, and what was read behind the request's head.
    #[must_use]
    pub fn into_parts(self) -> (Box<Transport>, BytesMut) {
        (self.transport, self.read)
    }

    /// Ends the connection as it is.
    pub async fn shutdown(&mut self) {
        // It is over either way.
        let _ = AsyncWriteExt::shutdown(&mut self.transport).await;
    }
}

/// Takes some of what still comes: to close with bytes unread, or before they arrive, would reset the
/// connection and take the answer back (RFC 9112 section 9.6). Whether they are a body, other requests or
/// neither makes no difference.
async fn linger(mut transport: Box<Transport>) {
    let rest = async {
        let (mut piece, mut taken) = ([0; LINGER_PIECE], 0);
        while taken < LINGER_BYTES
            && let Ok(count @ 1..) = transport.read(&mut piece).await
        {
            taken += count;
        }
    };
    // In time or not, the connection ends now.
    let _ = within(LINGER, rest).await;
}

fn write_failed(error: io::Error) -> BError {
    failed(ErrorType::WriteError, error).into_down()
}

fn gone() -> BError {
    let closed = io::Error::from(ErrorKind::UnexpectedEof);
    failed(ErrorType::ConnectionClosed, closed).into_down()
}

#[cfg(test)]
mod tests;

//! One request of a client and the answer to it, over HTTP/1.1 or HTTP/2: what the rooms see of either.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;
use pingora::{BError, Error, ErrorType, Result};

use crate::http1::body::Length;
use crate::http1::server::Session as Http1;
use crate::http1::{Waits, within};
use crate::transport::{Remote, Transport};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every answer to one request bears, whoever makes it.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The request's id; what is no value of a header is left out.
    pub id: Arc<str>,
    /// The value of `Strict-Transport-Security`.
    pub hsts: Option<HeaderValue>,
}

/// What is written to a stream of HTTP/2 at once.
const PART: usize = 16 * 1024;

/// A request and its answer.
pub struct Session {
    kind: Kind,
    stamp: Option<Stamp>,
}

enum Kind {
    Http1(Box<Http1>),
    Http2(Box<ServerSession>, Arc<Remote>, Waits),
}

impl From<Http1> for Session {
    fn from(session: Http1) -> Self {
        Self { kind: Kind::Http1(Box::new(session)), stamp: None }
    }
}

impl Session {
    /// A request that came over HTTP/2, from this client.
    #[must_use]
    pub fn http2(session: HttpSession, client: Arc<Remote>) -> Self {
        let session = Box::new(ServerSession::new_http2(session));
        let waits = Waits { read: Duration::MAX, write: Duration::MAX };
        Self { kind: Kind::Http2(session, client, waits), stamp: None }
    }

    /// Has every answer of ours bear this.
    pub fn bear(&mut self, stamp: Stamp) {
        self.stamp = Some(stamp);
    }

    /// Puts what every answer bears on one.
    pub fn stamp(&self, answer: &mut Parts) {
        let Some(stamp) = &self.stamp else { return };
        if let Some(hsts) = &stamp.hsts {
            answer.headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if let Ok(id) = HeaderValue::from_str(&stamp.id) {
            answer.headers.insert(REQUEST_ID, id);
        }
    }

    /// The request's id, of letters, digits and a few marks that mean nothing in HTML.
    #[must_use]
    pub fn id(&self) -> &str {
        self.stamp.as_ref().map_or("", |stamp| &stamp.id)
    }

    /// Who is at the other end of its connection.
    #[must_use]
    pub fn client(&self) -> &Remote {
        match &self.kind {
            Kind::Http1(session) => session.transport().remote(),
            Kind::Http2(_, client, _) => client,
        }
    }

    /// The head.
    #[must_use]
    pub fn request(&self) -> &RequestHeader {
        match &self.kind {
            Kind::Http1(session) => session.request(),
            Kind::Http2(session, ..) => session.req_header(),
        }
    }

    /// Whether it came over HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self.kind, Kind::Http2(..))
    }

    /// Sets the longest waits for the client from now on.
    pub fn limit(&mut self, waits: Waits) {
        match &mut self.kind {
            Kind::Http1(session) => session.limit(waits),
            Kind::Http2(session, _, limits) => {
                // pingora holds no limit of what is read over HTTP/2.
                session.set_write_timeout(Some(waits.write));
                *limits = waits;
            }
        }
    }

    /// No other request follows on its connection. Over HTTP/2 that is not for a request to decide.
    pub fn close_after(&mut self) {
        if let Kind::Http1(session) = &mut self.kind {
            session.close_after();
        }
    }

    /// How the body is framed towards an upstream.
    #[must_use]
    pub fn length(&mut self) -> Length {
        match &mut self.kind {
            Kind::Http1(session) => session.length(),
            Kind::Http2(session, ..) => {
                if session.is_body_empty() {
                    return Length::Known(0);
                }
                let length = session.req_header().headers.get(header::CONTENT_LENGTH);
                let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
                length.map_or(Length::Chunks, Length::Known)
            }
        }
    }

    /// Whether all of the body was read.
    #[must_use]
    pub fn is_body_over(&mut self) -> bool {
        match &mut self.kind {
            Kind::Http1(session) => session.is_body_over(),
            Kind::Http2(session, ..) => session.is_body_done(),
        }
    }

    /// The next piece of the body; none if it is over.
    ///
    /// # Errors
    /// If it does not come in its time, is not framed by the letter, or breaks off.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.kind {
            Kind::Http1(session) => session.read_body().await,
            Kind::Http2(session, _, waits) => {
                in_time(waits.read, session.read_request_body()).await
            }
        }
    }

    /// The next piece of the body. Once it is over, or with `over`, waits for ever, unless the client
    /// goes.
    ///
    /// # Errors
    /// As [`Session::read_body`]; and if the client goes.
    pub async fn read_body_or_idle(&mut self, over: bool) -> Result<Option<Bytes>> {
        match &mut self.kind {
            Kind::Http1(session) => session.read_body_or_idle(over).await,
            Kind::Http2(session, _, waits) => {
                let reads = !over && !session.is_body_done();
                let limit = if reads { waits.read } else { Duration::MAX };
                in_time(limit, session.read_body_or_idle(over)).await
            }
        }
    }

    /// Keeps what is read of the body from now on, up to a bound, for another try.
    pub fn keep_body(&mut self) {
        match &mut self.kind {
            Kind::Http1(session) => session.keep_body(),
            Kind::Http2(session, ..) => session.enable_retry_buffering(),
        }
    }

    /// What was kept of the body. None if it is too long.
    #[must_use]
    pub fn kept_body(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Http1(session) => session.kept_body(),
            Kind::Http2(session, ..) if session.retry_buffer_truncated() => None,
            Kind::Http2(session, ..) => Some(session.get_retry_buffer().unwrap_or_default()),
        }
    }

    /// Writes the head of the answer, or of an interim one.
    ///
    /// # Errors
    /// If the client does not take it in its time.
    pub async fn write_head(&mut self, head: Parts) -> Result<()> {
        match &mut self.kind {
            Kind::Http1(session) => session.write_head(&head).await,
            Kind::Http2(session, _, waits) => {
                let write = session.write_response_header(Box::new(ResponseHeader::from(head)));
                match tokio::time::timeout(waits.write, write).await {
                    Ok(written) => written.map_err(down),
                    Err(_) => Err(Error::new_down(ErrorType::WriteTimedout)),
                }
            }
        }
    }

    /// Writes a piece of the answer's body.
    ///
    /// # Errors
    /// If the client does not take it in its time.
    pub async fn write_body(&mut self, mut piece: Bytes) -> Result<()> {
        match &mut self.kind {
            Kind::Http1(session) => session.write_body(&piece).await,
            Kind::Http2(session, ..) => {
                // Its limit is for all that it is given at once, and other streams share the line.
                while !piece.is_empty() {
                    let part = piece.split_to(piece.len().min(PART));
                    session.write_response_body(part, false).await.map_err(down)?;
                }
                Ok(())
            }
        }
    }

    /// Writes the end of the answer; whatever still waits leaves.
    ///
    /// # Errors
    /// If the client does not take it in its time.
    pub async fn finish_body(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Http1(session) => session.finish_body().await,
            Kind::Http2(session, ..) => session.finish_body().await.map_err(down),
        }
    }

    /// Status of the answer, as soon as its head is written; of an interim answer, too.
    #[must_use]
    pub fn answered(&self) -> Option<StatusCode> {
        match &self.kind {
            Kind::Http1(session) => session.answered(),
            Kind::Http2(session, ..) => session.response_written().map(|head| head.status),
        }
    }

    /// Bytes of the body that were read.
    #[must_use]
    pub fn received(&self) -> u64 {
        match &self.kind {
            Kind::Http1(session) => session.received(),
            Kind::Http2(session, ..) => session.body_bytes_read() as u64,
        }
    }

    /// Bytes of the answer's body that were written.
    #[must_use]
    pub fn sent(&self) -> u64 {
        match &self.kind {
            Kind::Http1(session) => session.sent(),
            Kind::Http2(session, ..) => session.body_bytes_sent() as u64,
        }
    }

    /// Ends the request. Returns its connection, and what was read of the next request, if another may
    /// follow.
    ///
    /// # Errors
    /// As [`Session::finish_body`]; and if the rest of the request's body does not come.
    pub async fn finish(self) -> Result<Option<(Box<Transport>, BytesMut)>> {
        match self.kind {
            Kind::Http1(session) => session.finish().await,
            // Boxed: it holds a session of pingora's by value.
            Kind::Http2(session, ..) => {
                Box::pin(session.finish()).await.map(|_| None).map_err(down)
            }
        }
    }

    /// The connection, and what was read behind the request's head: for a tunnel. None over HTTP/2, where
    /// a connection is not one request's.
    #[must_use]
    pub fn into_parts(self) -> Option<(Box<Transport>, BytesMut)> {
        match self.kind {
            Kind::Http1(session) => Some(session.into_parts()),
            Kind::Http2(..) => None,
        }
    }

    /// Closes the connection once the client has had time to take what it was told;
    /// [`Session::shutdown`] goes before. Nobody has to wait for that. Over HTTP/2 the connection stays.
    pub fn linger(self) {
        match self.kind {
            Kind::Http1(session) => drop(session.linger()),
            Kind::Http2(..) => {}
        }
    }

    /// Ends the request as it is, visibly incomplete.
    pub async fn shutdown(&mut self) {
        match &mut self.kind {
            Kind::Http1(session) => session.shutdown().await,
            Kind::Http2(session, ..) => session.shutdown().await,
        }
    }
}

/// Waits for what an HTTP/2 client sends, for so long at most.
async fn in_time<T>(limit: Duration, read: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::new(ErrorType::ReadTimedout));
    within(limit, read).await.unwrap_or_else(late).map_err(down)
}

fn down(error: BError) -> BError {
    error.into_down()
}

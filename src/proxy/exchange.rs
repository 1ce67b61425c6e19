//! A request to an upstream and its response back: both bodies stream, each at the pace of its reader.

use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::protocols::http::compression::ResponseCompressionCtx as Compression;
use pingora::{Error as PingoraError, ErrorSource, ErrorType, Result};
use tokio::time::timeout;

use super::compression;
use super::context::{Plan, Way};
use super::headers;
use crate::admission::TunnelSeat;
use crate::admission::pace::Pace;
use crate::error::Error;
use crate::respond;
use crate::tunnel::handshake::is_answered;
use crate::upstream::desktops::Found;
use crate::upstream::{self, Connection};

/// Interim responses that may come before the final one; more are a fault or an attack.
const MAX_INTERIM: usize = 8;

/// Times that a request is sent at most: a kept connection may end just when it is used again.
const MAX_TRIES: usize = 3;

/// How far the body of a request is on its way.
#[derive(Debug)]
struct Upload {
    /// Bytes of it so far.
    received: u64,
    /// How fast they come.
    pace: Pace,
    /// Whether all of it was passed on, or can no longer be.
    over: bool,
    /// Whether the upstream stopped taking it.
    broken: bool,
}

/// An upstream that has answered: the head of its final response is read.
pub(super) struct Answer {
    pub(super) upstream: Connection,
    /// What it was found as.
    pub(super) found: Found,
    /// What its tunnel is counted by, if it is to be one.
    pub(super) seat: TunnelSeat,
    upload: Upload,
}

/// Sends a request and reads the head of its response. What may be repeated is, when a kept
/// connection turns out to be over.
pub(super) async fn ask(session: &mut Session, plan: &Plan, way: &Way<'_>) -> Result<Answer> {
    let repeatable = session.req_header().method.is_idempotent();
    if repeatable && !session.is_body_empty() {
        session.enable_retry_buffering();
    }
    let rate = way.rooms.admission.body_rate();
    let pace = Pace::new(Instant::now(), way.rooms.listen.read_timeout, rate);
    let mut tries = 1;
    loop {
        let head = request_head(session, plan, way)?;
        // Each time anew: whose address it is may have changed.
        let found = way.rooms.find(plan, way).await?;
        let seat = way.rooms.seat(plan, &found)?;
        let pool = (tries < MAX_TRIES && !plan.upgrade).then_some(way.pool);
        let timeouts = &plan.route.row.timeouts;
        let upstream = Connection::open(&found, &head.method, timeouts, pool).await;
        let upstream = upstream.map_err(Error::from)?;
        let reused = upstream.reused;
        let replay = (tries > 1).then(|| session.get_retry_buffer()).flatten();
        let over = session.is_body_empty();
        let upload = Upload { received: 0, pace, over, broken: false };
        let answer = Answer { upstream, found, seat, upload };
        match answer.ask(session, plan, head, replay).await {
            Err(error)
                if reused
                    && repeatable
                    && tries < MAX_TRIES
                    && is_end_of_connection(&error)
                    && !session.retry_buffer_truncated() =>
            {
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

fn is_end_of_connection(error: &PingoraError) -> bool {
    *error.esource() == ErrorSource::Upstream
        && upstream::fault(error) == upstream::Error::ConnectFailed
        && matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        )
}

/// The head for the upstream.
fn request_head(session: &mut Session, plan: &Plan, way: &Way<'_>) -> Result<RequestHeader> {
    let has_body = !session.is_body_empty();
    let mut head = session.req_header().clone();
    head.set_version(Version::HTTP_11);
    headers::to_upstream(&mut head, &plan.rules(way.trail))?;
    if has_body
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
    {
        // HTTP/2 has frames for it.
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(head)
}

/// Passes on an interim response, to a client that knows such.
async fn tell(session: &mut Session, plan: &Plan, mut head: ResponseHeader) -> Result<()> {
    if session.req_header().version == Version::HTTP_10 {
        return Ok(());
    }
    headers::to_client(&mut head, &plan.answer())?;
    write_head(session, head).await
}

/// Writes a head within the time that a client has to take something.
pub(super) async fn write_head(session: &mut Session, head: ResponseHeader) -> Result<()> {
    let limit = session.get_write_timeout();
    let write = session.write_response_header(Box::new(head));
    let written = match limit {
        Some(limit) => timeout(limit, write).await,
        None => Ok(write.await),
    };
    match written {
        Ok(written) => written.map_err(|error| error.into_down()),
        Err(_) => Err(PingoraError::new_down(ErrorType::WriteTimedout)),
    }
}

fn invalid() -> Box<PingoraError> {
    Error::from(upstream::Error::InvalidResponse).into()
}

impl Answer {
    /// The head of the response.
    pub(super) fn head(&self) -> Result<&ResponseHeader> {
        self.upstream.http.resp_header().ok_or_else(invalid)
    }

    /// Sends the request and reads up to the final response's head.
    async fn ask(
        mut self,
        session: &mut Session,
        plan: &Plan,
        head: RequestHeader,
        replay: Option<Bytes>,
    ) -> Result<Self> {
        let sent = self.upstream.http.write_request_header(Box::new(head)).await;
        sent.map_err(|error| error.into_up())?;
        if let Some(bytes) = replay {
            self.pass_on(session, plan, Some(bytes)).await?;
        }
        let mut interim = 0;
        loop {
            tokio::select! {
                biased;
                body = session.read_body_or_idle(self.upload.over) => {
                    let body = body.map_err(|error| error.into_down())?;
                    self.pass_on(session, plan, body).await?;
                }
                read = self.upstream.http.read_response() => {
                    read.map_err(|error| error.into_up())?;
                    let head = self.head()?;
                    match head.status {
                        StatusCode::SWITCHING_PROTOCOLS
                            if plan.upgrade && is_answered(session.req_header(), head) =>
                        {
                            return Ok(self);
                        }
                        StatusCode::SWITCHING_PROTOCOLS => return Err(invalid()),
                        status if status.is_informational() => {
                            interim += 1;
                            if interim > MAX_INTERIM {
                                return Err(invalid());
                            }
                            tell(session, plan, head.clone()).await?;
                        }
                        _ => return Ok(self),
                    }
                }
            }
        }
    }

    /// Passes on a piece of the request's body, or its end.
    async fn pass_on(
        &mut self,
        session: &mut Session,
        plan: &Plan,
        piece: Option<Bytes>,
    ) -> Result<()> {
        let Self { upstream, upload, .. } = self;
        if let Some(bytes) = &piece {
            upload.received += bytes.len() as u64;
            if upload.received > plan.route.row.limits.body.as_u64() {
                return Err(Error::BodyTooLarge.into());
            }
            if !upload.pace.keeps(bytes.len() as u64, Instant::now()) {
                return Err(Error::BodyTooSlow.into());
            }
        }
        let write = async {
            // An empty chunk is the last one: what a piece without bytes stands for is not over.
            if let Some(bytes) = piece.as_ref().filter(|bytes| !bytes.is_empty()) {
                upstream.http.write_body(bytes).await?;
            }
            if piece.is_none() || session.is_body_done() {
                upload.over = true;
                upstream.http.finish_body().await?;
            }
            Ok::<_, Box<PingoraError>>(())
        };
        match write.await {
            Ok(()) => Ok(()),
            Err(error) if *error.etype() == ErrorType::WriteTimedout => Err(error.into_up()),
            Err(_) => {
                // It may have answered before it stopped taking: that is still to be read.
                upload.over = true;
                upload.broken = true;
                Ok(())
            }
        }
    }

    /// Passes the response on to its end, and what is left of the request's body meanwhile.
    pub(super) async fn pass_back(
        mut self,
        session: &mut Session,
        plan: &Plan,
        way: &Way<'_>,
    ) -> Result<()> {
        let mut head = self.head()?.clone();
        headers::to_client(&mut head, &plan.answer())?;
        respond::stamp(&mut head, session.req_header())?;
        let expects = session.req_header().headers.contains_key(header::EXPECT);
        let unsent = expects && !self.upload.over && self.upload.received == 0;
        if unsent {
            // The client may not send the body any more (RFC 9110 section 10.1.1): nobody knows what
            // comes next.
            session.set_keepalive(None);
        }
        let bodyless = session.req_header().method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        frame(session, &mut head, bodyless)?;
        let allowed = plan.route.row.compress && !bodyless;
        let mut compression = compression::start(session.req_header(), &mut head, allowed)?;
        write_head(session, head).await?;
        loop {
            tokio::select! {
                biased;
                piece = self.upstream.http.read_body_ref() => {
                    let Some(piece) = piece.map_err(|error| error.into_up())? else { break };
                    // An empty chunk would be the last one.
                    if !piece.is_empty() {
                        write_body(session, piece, compression.as_mut()).await?;
                    }
                }
                body = session.read_body_or_idle(self.upload.over) => {
                    let body = body.map_err(|error| error.into_down())?;
                    self.pass_on(session, plan, body).await?;
                }
            }
        }
        if let Some(rest) = compression.and_then(|mut c| c.response_body_filter(None, true)) {
            session.write_response_body(rest, false).await.map_err(|e| e.into_down())?;
        }
        if !self.upload.over {
            // The client has its answer; whoever gave it may still want the rest of the request.
            session.finish_body().await.map_err(|error| error.into_down())?;
        }
        if unsent && !self.upload.over {
            return Ok(());
        }
        while !self.upload.over {
            let body = session.read_request_body().await.map_err(|error| error.into_down())?;
            self.pass_on(session, plan, body).await?;
        }
        if !self.upload.broken {
            self.upstream.release(way.pool).await;
        }
        Ok(())
    }
}

/// Says how long the body is, in the way that the client's version of HTTP knows.
fn frame(session: &mut Session, head: &mut ResponseHeader, bodyless: bool) -> Result<()> {
    match session.req_header().version {
        Version::HTTP_2 => drop(head.remove_header(&header::TRANSFER_ENCODING)),
        // It knows no chunks: the end of the connection is the end of the body.
        Version::HTTP_10 if head.remove_header(&header::TRANSFER_ENCODING).is_some() => {
            session.set_keepalive(None);
        }
        Version::HTTP_10 => {}
        _ if !bodyless
            && !head.headers.contains_key(header::TRANSFER_ENCODING)
            && !head.headers.contains_key(header::CONTENT_LENGTH) =>
        {
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        _ => {}
    }
    head.set_version(Version::HTTP_11);
    Ok(())
}

async fn write_body(
    session: &mut Session,
    piece: &[u8],
    compression: Option<&mut Compression>,
) -> Result<()> {
    let written = match (compression, &mut *session) {
        (Some(compression), _) => {
            let piece = Bytes::copy_from_slice(piece);
            match compression.response_body_filter(Some(&piece), false) {
                Some(packed) => session.write_response_body(packed, false).await,
                None => return Err(PingoraError::new_in(ErrorType::InternalError)),
            }
        }
        (None, Session::H1(http1)) => http1.write_body(piece).await.map(drop),
        (None, session) => session.write_response_body(Bytes::copy_from_slice(piece), false).await,
    };
    written.map_err(|error| error.into_down())
}

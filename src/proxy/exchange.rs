//! A request to an upstream and its response back: both bodies stream, each at the pace of its reader.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{Error as PingoraError, ErrorSource, ErrorType, Result};

use super::compression::{self, Packing};
use super::context::{Plan, Way};
use super::headers;
use crate::admission::TunnelSeat;
use crate::admission::pace::Pace;
use crate::error::Error;
use crate::http1::body::Length;
use crate::http1::client::Came;
use crate::session::Session;
use crate::tunnel::handshake::is_answered;
use crate::upstream::desktops::Found;
use crate::upstream::{self, Connection};

/// Interim responses that may come before the final one; more are a fault or an attack.
const MAX_INTERIM: usize = 8;

/// First size of the buffer for the head of a request.
const HEAD: usize = 1024;

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
    let repeatable = session.request().method.is_idempotent();
    let length = session.length();
    let rate = way.rooms.admission.body_rate();
    let over = length == Length::Known(0);
    // A body that is over has no pace.
    let begun = if over { way.now.mono } else { Instant::now() };
    let pace = Pace::new(begun, way.rooms.listen.read_timeout, rate);
    if repeatable && !over {
        session.keep_body();
    }
    let mut head = BytesMut::with_capacity(HEAD);
    headers::to_upstream(&mut head, session.request(), length, &plan.rules(way.trail))?;
    let mut tries = 1;
    loop {
        // Each time anew: whose address it is may have changed.
        let found = way.rooms.find(plan, way).await?;
        let seat = way.rooms.seat(plan, &found)?;
        let pool = (tries < MAX_TRIES && !plan.upgrade).then_some(way.pool);
        let timeouts = &plan.route.row.timeouts;
        let upstream = Connection::open(&found, &session.request().method, timeouts, pool).await;
        let upstream = upstream.map_err(Error::from)?;
        if !way.desktops.holds(&found) {
            // Somebody else may have taken the connection. Nothing was sent.
            tries += 1;
            if tries > MAX_TRIES {
                return Err(Error::from(upstream::Error::DesktopGone).into());
            }
            continue;
        }
        let reused = upstream.reused;
        let replay = (tries > 1).then(|| session.kept_body()).flatten();
        let upload = Upload { received: 0, pace, over };
        let answer = Answer { upstream, found, seat, upload };
        match answer.ask(session, plan, (&head, length), replay).await {
            Err(error)
                if reused
                    && repeatable
                    && tries < MAX_TRIES
                    && is_end_of_connection(&error)
                    && session.kept_body().is_some() =>
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

/// Passes on an interim response, to a client that knows such.
async fn tell(session: &mut Session, plan: &Plan, mut head: Parts) -> Result<()> {
    if session.request().version == Version::HTTP_10 {
        return Ok(());
    }
    headers::to_client(&mut head, &plan.answer());
    session.write_head(head).await
}

fn invalid() -> Box<PingoraError> {
    Error::from(upstream::Error::InvalidResponse).into()
}

impl Answer {
    /// The head of the response.
    pub(super) fn head(&self) -> Result<&Parts> {
        self.upstream.http.head().ok_or_else(invalid)
    }

    /// Sends the request and reads up to the final response's head.
    async fn ask(
        mut self,
        session: &mut Session,
        plan: &Plan,
        (head, length): (&[u8], Length),
        replay: Option<Bytes>,
    ) -> Result<Self> {
        self.upstream.http.write_head(head, length).await?;
        if let Some(bytes) = replay {
            self.upload.received = bytes.len() as u64;
            self.send(session, Some(bytes)).await;
        }
        let mut interim = 0;
        loop {
            let idle = !self.wants_more();
            tokio::select! {
                biased;
                body = session.read_body_or_idle(idle) => {
                    self.pass_on(session, plan, body?).await?;
                }
                head = self.upstream.http.read_head() => {
                    let Some(head) = head? else { continue };
                    match head.status {
                        StatusCode::SWITCHING_PROTOCOLS
                            if plan.upgrade
                                && self.upload.over
                                && is_answered(session.request(), head) =>
                        {
                            self.upstream.http.drain().await?;
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
        let upload = &mut self.upload;
        if let Some(bytes) = &piece {
            upload.received += bytes.len() as u64;
            if upload.received > plan.route.row.limits.body.as_u64() {
                return Err(Error::BodyTooLarge.into());
            }
            if !upload.pace.keeps(bytes.len() as u64, Instant::now()) {
                return Err(Error::BodyTooSlow.into());
            }
        }
        self.send(session, piece).await;
        Ok(())
    }

    /// Gives the upstream a piece of the request's body, or its end.
    async fn send(&mut self, session: &mut Session, piece: Option<Bytes>) {
        let Self { upstream, upload, .. } = self;
        // An empty chunk is the last one: what a piece without bytes stands for is not over.
        if let Some(bytes) = piece.as_ref().filter(|bytes| !bytes.is_empty()) {
            upstream.http.write_body(bytes).await;
        }
        if piece.is_none() || session.is_body_over() {
            upload.over = true;
            upstream.http.finish_body();
        }
    }

    /// Whether more of the request's body is to be read. Otherwise the client is only listened to.
    fn wants_more(&mut self) -> bool {
        // An answer may have come before the upstream stopped taking the request.
        self.upload.over |= self.upstream.http.has_refused();
        !self.upload.over && self.upstream.http.has_room()
    }

    /// Passes the response on to its end, and what is left of the request's body meanwhile.
    pub(super) async fn pass_back(
        mut self,
        session: &mut Session,
        plan: &Plan,
        way: &Way<'_>,
    ) -> Result<()> {
        let mut head = self.upstream.http.take_head().ok_or_else(invalid)?;
        headers::to_client(&mut head, &plan.answer());
        session.stamp(&mut head);
        let request = session.request();
        let expects = request.headers.contains_key(header::EXPECT);
        let unsent = expects && !self.upload.over && self.upload.received == 0;
        let bodyless = request.method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let ends = frame(&mut head, request.version, bodyless);
        let allowed = plan.route.row.compress && !bodyless;
        let mut packing = compression::start(request, &mut head, allowed)?;
        if ends {
            session.close_after();
        }
        session.write_head(head).await?;
        loop {
            let idle = !self.wants_more();
            tokio::select! {
                biased;
                came = self.upstream.http.read_body() => match came? {
                    Came::Piece(piece) => write_body(session, piece, packing.as_mut()).await?,
                    Came::Room => {}
                    Came::End => break,
                },
                body = session.read_body_or_idle(idle) => {
                    self.pass_on(session, plan, body?).await?;
                }
            }
        }
        if let Some(rest) = packing.and_then(Packing::end) {
            session.write_body(rest).await?;
        }
        if !self.upload.over || !self.upstream.http.is_drained() {
            // The client has its answer; whoever gave it may still want the rest of the request.
            session.finish_body().await?;
        }
        if unsent && !self.upload.over {
            return Ok(());
        }
        loop {
            if self.upstream.http.drain().await.is_err() {
                // That is the upstream's loss alone.
                return Ok(());
            }
            if self.upload.over || self.upstream.http.has_refused() {
                break;
            }
            let body = session.read_body().await?;
            self.pass_on(session, plan, body).await?;
        }
        self.upstream.release(way.pool);
        Ok(())
    }
}

/// Says how long the body is, in the way that the client's version of HTTP knows. True if only the end of
/// the connection can.
fn frame(head: &mut Parts, version: Version, bodyless: bool) -> bool {
    match version {
        Version::HTTP_2 => {
            head.headers.remove(header::TRANSFER_ENCODING);
        }
        // It knows no chunks.
        Version::HTTP_10 => return head.headers.remove(header::TRANSFER_ENCODING).is_some(),
        _ if !bodyless
            && !head.headers.contains_key(header::TRANSFER_ENCODING)
            && !head.headers.contains_key(header::CONTENT_LENGTH) =>
        {
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        _ => {}
    }
    false
}

async fn write_body(
    session: &mut Session,
    piece: Bytes,
    packing: Option<&mut Packing>,
) -> Result<()> {
    let Some(packing) = packing else { return session.write_body(piece).await };
    match packing.pack(&piece) {
        Some(packed) => session.write_body(packed).await,
        None => Err(PingoraError::new_in(ErrorType::InternalError)),
    }
}

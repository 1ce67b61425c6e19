//! A client's connection: PROXY header, then one request head after the other, each within limits.

use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::lifecycle::HEADS;
use super::stage::Stage;
use super::{http2, plain, proxy_protocol};
use crate::admission::{Admission, Refusal, Seat};
use crate::config::Listen;
use crate::error::Error;
use crate::http1::request::{self, Request};
use crate::http1::server::Session as Http1;
use crate::http1::{HEAD_BUFFER, within};
use crate::proxy::{Gateway, trail};
use crate::respond;
use crate::session::Session;
use crate::telemetry::access_log::{Connected, Entered, Record};
use crate::tls::{self, AcceptError, Acceptor};
use crate::transport::{SocketPolicy, Transport, Wire};
use crate::upstream::pool::{Pool, SWEEP};

/// Longest wait for a client to take the answer to a head that was refused.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The same for a connection that is not taken on.
pub(super) const TURN_AWAY: Duration = Duration::from_millis(800);

/// Most empty lines that may stand before a request without being its beginning.
const EMPTY_LINES: usize = 4;

/// Serves the connections of a worker.
pub(super) struct Connections {
    gateway: Gateway,
    /// The worker's connections to upstreams: none wakes another thread.
    pool: Pool,
    /// Whether the process is about to end.
    leaving: watch::Receiver<bool>,
    stage: watch::Receiver<Stage>,
}

/// A connection on which another request may follow, and what was read of it.
pub(super) type Next = (Box<Transport>, BytesMut);

impl Connections {
    /// The connections of a worker.
    pub(super) fn new(
        gateway: Gateway,
        pool: Pool,
        leaving: watch::Receiver<bool>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        Self { gateway, pool, leaving, stage }
    }

    /// Serves one request; returns its connection if another may follow. Boxed: a connection that
    /// waits for a request costs no more than the wait.
    pub(super) fn request(
        &self,
        session: Session,
    ) -> Pin<Box<dyn Future<Output = Option<Next>> + Send + '_>> {
        Box::pin(self.gateway.serve(session, &self.pool))
    }

    /// Closes connections to upstreams that were idle for long enough, again and again.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            sleep(SWEEP).await;
            self.pool.sweep(Instant::now());
        }
    }

    /// Counts something of a connection as under way.
    pub(super) fn enter(&self) -> Entered {
        self.gateway.in_flight.enter()
    }

    /// What is taken on now.
    pub(super) fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.gateway.rooms().admission)
    }

    /// How the sockets of clients are set now.
    pub(super) fn sockets(&self) -> SocketPolicy {
        SocketPolicy::of_clients(self.gateway.rooms().listen.write_timeout)
    }

    /// Counts a connection that is to be served, or somebody who may still take one.
    pub(super) fn connect(&self) -> Connected {
        self.gateway.in_flight.connect()
    }

    /// Serves one connection to its end. It is counted before its task first runs.
    pub(super) async fn serve(
        self: Arc<Self>,
        (mut tcp, peer): (TcpStream, SocketAddr),
        tls: Option<Acceptor>,
        mut seat: Seat,
        _connected: Connected,
    ) {
        let peer = {
            let rooms = self.gateway.rooms();
            proxy_protocol::read_from(&mut tcp, peer, &rooms.listen.proxy_protocol).await
        };
        let Ok(peer) = peer else { return };
        let known = self.admission().identify(&mut seat, peer.ip());
        if let Err(refusal) = known {
            drop(seat);
            drop(self.turn_away((tcp, peer), tls.is_some(), refusal, TURN_AWAY).await);
            return;
        }
        let wire = match tls {
            None => Wire::Plain(tcp),
            Some(acceptor) => match acceptor.accept(tcp).await {
                Ok(tls) => Wire::Tls(Box::new(tls)),
                Err(AcceptError::NotTls(tcp)) if self.gateway.rooms().listen.redirect => {
                    let transport = Transport::new(Wire::Plain(tcp), peer);
                    return Box::pin(self.send_to_https(transport)).await;
                }
                Err(error) => {
                    debug!(reason = error.reason(), "no TLS connection");
                    return;
                }
            },
        };
        let certificate = match &wire {
            Wire::Tls(tls) => tls::Session::of(tls).client.map(|client| client.escaped_pem()),
            Wire::Plain(_) => None,
        };
        let told = certificate.and_then(|text| HeaderValue::try_from(text).ok());
        let transport = Transport::new(wire, peer).counted(seat).with_certificate(told);
        if transport.speaks_http2() {
            let listen = self.gateway.rooms().listen.clone();
            let leaving = self.leaving.clone();
            http2::serve(&self, transport, &listen, leaving).await;
        } else {
            self.requests(Box::new(transport)).await;
        }
    }

    /// One HTTP/1 request after the other.
    async fn requests(&self, mut transport: Box<Transport>) {
        let mut read = BytesMut::new();
        let mut stage = self.stage.clone();
        let mut grace = HEADS;
        loop {
            // Settings are those of now, for each request anew.
            let rooms = self.gateway.rooms();
            let listen = &rooms.listen;
            if !first_bytes(listen, &mut transport, &mut read, &mut stage, grace).await {
                return;
            }
            grace = Duration::ZERO;
            let request = match read_head(listen, &mut transport, &mut read).await {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(error) => return self.refuse(&mut transport, error).await,
            };
            drop(rooms);
            let session = Http1::new(transport, read, request);
            let Some(next) = self.request(session.into()).await else { return };
            (transport, read) = next;
        }
    }

    /// Ends a connection that is not taken on, and returns it to be closed. Over plain HTTP it is told why,
    /// unless too many are; a handshake would cost more than it is worth.
    pub(super) async fn turn_away(
        &self,
        (tcp, peer): (TcpStream, SocketAddr),
        tls: bool,
        refusal: Refusal,
        within: Duration,
    ) -> TcpStream {
        let farewell = self.admission().farewell();
        let Some(_farewell) = farewell.filter(|_| !tls) else { return tcp };
        let mut transport = Transport::new(Wire::Plain(tcp), peer);
        drop(timeout(within, self.refuse(&mut transport, refusal.into())).await);
        transport.abandon()
    }

    /// Answers plain HTTP where TLS is spoken.
    async fn send_to_https(&self, mut transport: Transport) {
        let listen = self.gateway.rooms().listen.clone();
        let mut read = BytesMut::new();
        match read_head(&listen, &mut transport, &mut read).await {
            Ok(Some(request)) => {
                let id = trail::fresh();
                let Some(answer) = plain::answer(&request.head, &id) else {
                    return self.refuse(&mut transport, Error::InvalidRequest).await;
                };
                let record = self.record(&transport, id, 308, "");
                self::answer(&mut transport, answer.as_bytes(), record).await;
            }
            Ok(None) => {}
            Err(error) => self.refuse(&mut transport, error).await,
        }
    }

    /// Answers a head that was refused.
    async fn refuse(&self, transport: &mut Transport, error: Error) {
        let id = trail::fresh();
        let (status, answer) = respond::raw(error, &id);
        let record = self.record(transport, id, status, error.reason());
        self::answer(transport, &answer, record).await;
    }

    /// The line of a head that is answered here.
    fn record(&self, to: &Transport, id: Arc<str>, status: u16, reason: &'static str) -> Record {
        let client = Some(to.remote().address.ip().to_canonical());
        let under_way = self.enter();
        let mut record = Record::empty(client, id, under_way, Instant::now());
        record.status = status;
        record.reason = reason;
        record
    }
}

/// Writes an answer and ends the connection; then the line of the record is written.
async fn answer(to: &mut Transport, answer: &[u8], record: Record) {
    let write = async {
        to.write_all(answer).await?;
        to.flush().await?;
        AsyncWriteExt::shutdown(to).await?;
        // A close with unread bytes would take the answer back (RFC 9112 section 9.6).
        let mut rest = [0; 1024];
        while to.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whether the client took it makes no difference to us.
    drop(timeout(LAST_WORD, write).await);
    drop(record);
}

/// Waits for a request to begin. False if the client closes, or says nothing for too long or until
/// idle connections are closed, and for the time of `grace` after that.
async fn first_bytes(
    listen: &Listen,
    transport: &mut Transport,
    read: &mut BytesMut,
    stage: &mut watch::Receiver<Stage>,
    grace: Duration,
) -> bool {
    let mut empty = 0;
    if has_begun(read, &mut empty) {
        return true;
    }
    // A large buffer is not for a connection that waits.
    if read.capacity() > HEAD_BUFFER {
        let left = mem::take(read);
        read.extend_from_slice(&left);
    }
    read.reserve(HEAD_BUFFER);
    // Without keep-alive the first request is waited for all the same.
    let first = !grace.is_zero() && listen.keepalive.is_zero();
    let patience = if first { listen.header_timeout } else { listen.keepalive };
    let closed = async {
        drop(stage.wait_for(|stage| *stage > Stage::Serving).await);
        if !grace.is_zero() {
            sleep(grace).await;
        }
    };
    let begun = async {
        loop {
            let Ok(Ok(1..)) = transport.read_within(patience, read).await else {
                return false;
            };
            if has_begun(read, &mut empty) {
                return true;
            }
        }
    };
    tokio::select! {
        biased;
        begun = begun => begun,
        () = closed => false,
    }
}

/// Whether a request has begun in what was read. Empty lines before it are taken away, of which `empty` were
/// there already: old clients send one behind a body (RFC 9112 section 2.2), and it asks for nothing.
fn has_begun(read: &mut BytesMut, empty: &mut usize) -> bool {
    while *empty < EMPTY_LINES && read.starts_with(b"\r\n") {
        read.advance(2);
        *empty += 1;
    }
    // A CR may be half of such a line.
    !matches!(&**read, b"" | b"\r")
}

/// Takes a whole head off what is read; none if the client closes in it.
async fn read_head(
    listen: &Listen,
    transport: &mut Transport,
    read: &mut BytesMut,
) -> Result<Option<Request>, Error> {
    let line = usize::try_from(listen.max_line.as_u64()).unwrap_or(usize::MAX);
    let mut judged = 0;
    let whole = async {
        loop {
            // A head ends with a line, and only a new line can break a limit for good.
            let line_ended = read.get(judged..).is_some_and(|new| new.contains(&b'\n'));
            if (line_ended || read.len() > line)
                && let Some((request, end)) = request::parse(read, listen)?
            {
                read.advance(end);
                return Ok(Some(request));
            }
            judged = read.len();
            match transport.read_buf(read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    };
    within(listen.header_timeout, whole).await.map_err(|_| Error::HeadTimeout)?
}

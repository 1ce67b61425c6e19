//! A client's connection: PROXY header, then one request head after the other, each within limits
//! before pingora sees it.
//!
//! pingora bounds neither the time nor, usefully, the size of a head, and answers a bad one itself.
//! Here a head is read whole, judged, and handed to pingora's session as bytes already read.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::server::ReusableHttpStream;
use pingora::protocols::http::v1::server::HttpSession;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::{ALPN, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::stage::Stage;
use super::{http2, plain, proxy_protocol, strict};
use crate::admission::{Admission, Refusal, Seat};
use crate::config::Listen;
use crate::error::Error;
use crate::proxy::{Gateway, trail};
use crate::respond;
use crate::telemetry::access_log::Record;
use crate::tls::{self, AcceptError, Acceptor};
use crate::transport::chunked::Chunked;
use crate::transport::{SocketPolicy, Transport, Wire};
use crate::upstream::pool::{Pool, SWEEP};

/// First size of the buffer for a head.
const HEAD_BUFFER: usize = 4096;

/// Longest wait for a client to take the answer to a head that was refused.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The same for a connection that is not taken on.
const TURN_AWAY: Duration = Duration::from_millis(800);

/// Serves the connections of a worker.
pub(super) struct Connections {
    gateway: Gateway,
    /// The worker's connections to upstreams: none wakes another thread.
    pool: Pool,
    /// Whether the process is about to end.
    leaving: watch::Receiver<bool>,
    stage: watch::Receiver<Stage>,
}

/// A head that was read and judged.
pub(super) struct Head {
    /// Length of head and body. None if only the session can tell: chunks, or bytes for a tunnel.
    request: Option<usize>,
    /// A chunked body, as far as it came with the head.
    chunks: Option<Chunked>,
}

impl Head {
    /// Most headers of a request that can be configured.
    pub(super) const MOST_HEADERS: usize = 256;
}

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
        session: ServerSession,
    ) -> Pin<Box<dyn Future<Output = Option<ReusableHttpStream>> + Send + '_>> {
        Box::pin(self.gateway.serve(session, &self.pool))
    }

    /// Closes connections to upstreams that were idle for long enough, again and again.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            sleep(SWEEP).await;
            self.pool.sweep(Instant::now());
        }
    }

    /// What is taken on now.
    pub(super) fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.gateway.rooms().admission)
    }

    /// How the sockets of clients are set now.
    pub(super) fn sockets(&self) -> SocketPolicy {
        SocketPolicy::of_clients(self.gateway.rooms().listen.write_timeout)
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut tcp: TcpStream,
        peer: SocketAddr,
        tls: Option<Acceptor>,
        mut seat: Seat,
    ) {
        let _connected = self.gateway.in_flight.connect();
        let peer = {
            let rooms = self.gateway.rooms();
            proxy_protocol::read_from(&mut tcp, peer, &rooms.listen.proxy_protocol).await
        };
        let Ok(peer) = peer else { return };
        let known = self.admission().identify(&mut seat, peer.ip());
        if let Err(refusal) = known {
            drop(seat);
            return self.turn_away(tcp, peer, tls.is_some(), refusal).await;
        }
        let wire = match tls {
            None => Wire::Plain(tcp),
            Some(acceptor) => match acceptor.accept(tcp).await {
                Ok(tls) => Wire::Tls(Box::new(tls)),
                Err(AcceptError::NotTls(tcp)) if self.gateway.rooms().listen.redirect => {
                    let stream = Box::new(Transport::new(Wire::Plain(tcp), peer));
                    return Box::pin(self.send_to_https(stream)).await;
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
        let mut transport = Transport::new(wire, peer).counted(seat);
        if let Some(certificate) = certificate {
            transport = transport.with_certificate(certificate);
        }
        let stream: Stream = Box::new(transport);
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            let listen = self.gateway.rooms().listen.clone();
            let leaving = self.leaving.clone();
            http2::serve(&self, stream, &listen, leaving).await;
        } else {
            self.requests(stream).await;
        }
    }

    /// One HTTP/1 request after the other.
    async fn requests(&self, mut stream: Stream) {
        let mut read = BytesMut::new();
        let mut stage = self.stage.clone();
        loop {
            // Settings are those of now, for each request anew.
            let rooms = self.gateway.rooms();
            let listen = &rooms.listen;
            if read.is_empty() && !first_bytes(listen, &mut stream, &mut read, &mut stage).await {
                return;
            }
            let head = match read_head(listen, &mut stream, &mut read).await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => return self.refuse(&mut stream, error).await,
            };
            // What belongs to the next request stays here.
            let given = head.request.unwrap_or(usize::MAX).min(read.len());
            let given = read.split_to(given);
            drop(rooms);
            let Some(followed) = strict::follow(stream, head.chunks) else { return };
            let mut session = HttpSession::new(followed);
            session.set_pipelined_prefix(given);
            if !matches!(session.read_request().await, Ok(Some(_))) {
                return self.refuse(&mut session.into_inner(), Error::InvalidRequest).await;
            }
            let served = self.request(ServerSession::H1(session)).await;
            let Some(next) = served else { return };
            let (next, more) = next.into_parts();
            // What came during the response comes after what came before it.
            read.extend_from_slice(&more.unwrap_or_default());
            stream = next;
        }
    }

    /// Closes a connection that is not taken on. Over plain HTTP it is told why, unless too many are;
    /// a handshake would cost more than it is worth.
    pub(super) async fn turn_away(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        tls: bool,
        refusal: Refusal,
    ) {
        let farewell = self.admission().farewell();
        let Some(_farewell) = farewell.filter(|_| !tls) else { return };
        let mut stream: Stream = Box::new(Transport::new(Wire::Plain(tcp), peer));
        drop(timeout(TURN_AWAY, self.refuse(&mut stream, refusal.into())).await);
    }

    /// Answers plain HTTP where TLS is spoken.
    async fn send_to_https(&self, mut stream: Stream) {
        let listen = self.gateway.rooms().listen.clone();
        let mut read = BytesMut::new();
        match read_head(&listen, &mut stream, &mut read).await {
            Ok(Some(_)) => {
                let id = trail::fresh();
                let Some(answer) = plain::answer(&read, &id) else {
                    return self.refuse(&mut stream, Error::InvalidRequest).await;
                };
                let record = self.record(&stream, id, 308, "");
                self::answer(&mut stream, answer.as_bytes(), record).await;
            }
            Ok(None) => {}
            Err(error) => self.refuse(&mut stream, error).await,
        }
    }

    /// Answers a head that was refused.
    async fn refuse(&self, stream: &mut Stream, error: Error) {
        let id = trail::fresh();
        let (status, answer) = respond::raw(error, &id);
        let record = self.record(stream, id, status, error.reason());
        self::answer(stream, &answer, record).await;
    }

    /// The line of a head that is answered here.
    fn record(&self, stream: &Stream, id: String, status: u16, reason: &'static str) -> Record {
        let mut record = Record::empty(peer(stream), id, self.gateway.in_flight.enter());
        record.status = status;
        record.reason = reason;
        record
    }
}

/// Writes an answer and ends the connection; then the line of the record is written.
async fn answer(stream: &mut Stream, answer: &[u8], record: Record) {
    let write = async {
        stream.write_all(answer).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(stream).await?;
        // A close with unread bytes would take the answer back (RFC 9112 section 9.6).
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whether the client took it makes no difference to us.
    drop(timeout(LAST_WORD, write).await);
    drop(record);
}

/// Waits for a request to begin. False if the client closes, or says nothing for too long or until
/// idle connections are closed.
async fn first_bytes(
    listen: &Listen,
    stream: &mut Stream,
    read: &mut BytesMut,
    stage: &mut watch::Receiver<Stage>,
) -> bool {
    read.reserve(HEAD_BUFFER);
    tokio::select! {
        biased;
        first = timeout(listen.keepalive, stream.read_buf(read)) => matches!(first, Ok(Ok(1..))),
        _ = stage.wait_for(|stage| *stage > Stage::Serving) => false,
    }
}

/// Reads until a whole head is there; none if the client closes in it.
async fn read_head(
    listen: &Listen,
    stream: &mut Stream,
    read: &mut BytesMut,
) -> Result<Option<Head>, Error> {
    let line = usize::try_from(listen.max_line.as_u64()).unwrap_or(usize::MAX);
    let mut judged = 0;
    let whole = async {
        loop {
            // A head ends with a line, and only a new line can break a limit for good.
            let line_ended = read.get(judged..).is_some_and(|new| new.contains(&b'\n'));
            if (line_ended || read.len() > line)
                && let Some(head) = judge(listen, read)?
            {
                return Ok(Some(head));
            }
            judged = read.len();
            match stream.read_buf(read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    };
    timeout(listen.header_timeout, whole).await.map_err(|_| Error::HeadTimeout)?
}

/// The head at the start of what was read, if it is whole.
fn judge(listen: &Listen, read: &[u8]) -> Result<Option<Head>, Error> {
    let line = usize::try_from(listen.max_line.as_u64()).unwrap_or(usize::MAX);
    let most = usize::try_from(listen.max_head.as_u64()).unwrap_or(usize::MAX);
    let mut headers = [const { MaybeUninit::uninit() }; Head::MOST_HEADERS];
    let allowed = headers.get_mut(..listen.max_headers.min(Head::MOST_HEADERS));
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(read, allowed.unwrap_or_default());
    let end = match parsed {
        Ok(httparse::Status::Complete(length)) => Some(length),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => return Err(Error::HeadTooLarge),
        Err(_) => return Err(Error::InvalidRequest),
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
    let Some(length) = end else { return Ok(None) };
    strict::judge(head, &request)?;
    let (body, chunked) = body_length(&request)?;
    Ok(Some(Head {
        request: body.and_then(|body| length.checked_add(body)),
        chunks: match chunked {
            true => Some(strict::begin(read.get(length..).unwrap_or_default())?),
            false => None,
        },
    }))
}

/// Length of the body of a request (RFC 9112 section 6.3), none if only reading it can tell; and whether
/// it comes in chunks.
///
/// What two servers could frame in two ways is refused (RFC 9112 section 11.2): two lengths, a length
/// beside chunks, an encoding that is not just chunks, two hosts.
fn body_length(request: &httparse::Request<'_, '_>) -> Result<(Option<usize>, bool), Error> {
    let values = |name: &'static str| {
        request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    let only = |name| {
        let mut found = values(name);
        let first = found.next().map(|header| header.value.trim_ascii());
        if found.next().is_some() { Err(Error::InvalidRequest) } else { Ok(first) }
    };
    let length = only("content-length")?;
    let encoding = only("transfer-encoding")?;
    only("host")?;
    let is_chunked = |value: &[u8]| value.eq_ignore_ascii_case(b"chunked");
    let old = request.version == Some(0);
    if request.method == Some("CONNECT") {
        return Err(Error::MethodRefused);
    }
    if encoding.is_some_and(|value| !is_chunked(value) || length.is_some() || old) {
        return Err(Error::InvalidRequest);
    }
    let length = match length {
        None => 0,
        Some(digits) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let digits = std::str::from_utf8(digits).map_err(|_| Error::InvalidRequest)?;
            digits.parse().map_err(|_| Error::InvalidRequest)?
        }
        Some(_) => return Err(Error::InvalidRequest),
    };
    let open_ended = encoding.is_some() || values("upgrade").next().is_some();
    Ok(((!open_ended).then_some(length), encoding.is_some()))
}

fn peer(stream: &Stream) -> Option<IpAddr> {
    let digest = stream.get_socket_digest()?;
    digest.peer_addr().and_then(PeerAddr::as_inet).map(|peer| peer.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn judge(read: &[u8]) -> Result<Option<Option<usize>>, Error> {
        let listen = Config::from_text("t", "").unwrap().config.listen;
        super::judge(&listen, read).map(|head| head.map(|head| head.request))
    }

    #[test]
    fn a_head_is_whole_or_not_yet_or_refused() {
        let long = "x".repeat(17 * 1024);
        let many: String = (0..101).map(|n| format!("a{n}: b\r\n")).collect();
        let large: String =
            (0..5).map(|n| format!("a{n}: {}\r\n", "x".repeat(13 * 1024))).collect();
        for (read, want) in [
            ("GET / HTTP/1.1\r\n\r\n", Ok(Some(Some(18)))),
            ("GET / HTTP/1.1\r\n\r\nGET", Ok(Some(Some(18)))),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", Ok(Some(Some(38)))),
            (
                "GET / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n",
                Err(Error::InvalidRequest),
            ),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Err(Error::InvalidRequest)),
            ("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Err(Error::InvalidRequest)),
            ("GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", Err(Error::InvalidRequest)),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                Err(Error::InvalidRequest),
            ),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Error::InvalidRequest)),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                Err(Error::InvalidRequest),
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(Error::InvalidRequest)),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", Err(Error::MethodRefused)),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(Some(None))),
            ("GET / HTTP/1.1\r\nupgrade: x\r\n\r\n", Ok(Some(None))),
            ("GET / HTTP/1.1\r\nHost:", Ok(None)),
            ("GET /a b HTTP/1.1\r\n\r\n", Err(Error::InvalidRequest)),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(Error::InvalidRequest)),
            ("GET / HTTP/1.1\r\nHo st: x\r\n\r\n", Err(Error::InvalidRequest)),
            (&format!("GET /{long}"), Err(Error::TargetTooLong)),
            (&format!("GET / HTTP/1.1\r\na: {long}"), Err(Error::HeadTooLarge)),
            (&format!("GET / HTTP/1.1\r\n{many}\r\n"), Err(Error::HeadTooLarge)),
            (&format!("GET / HTTP/1.1\r\n{large}\r\n"), Err(Error::HeadTooLarge)),
        ] {
            assert_eq!(judge(read.as_bytes()), want, "{:.40}", read);
        }
    }
}

//! One HTTP request on a connection of its own, within a limit, with words for each way it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, DATE, HOST, UPGRADE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::skew::Skew;
use super::trust::Noting;
use crate::proxy::clock;

/// Most bytes of a body that are read.
const MAX_BODY: usize = 64 << 10;

/// Longest wait for a body: status and headers are told without it, too.
const BODY_WAIT: Duration = Duration::from_secs(1);

/// What a WebSocket's key must be: 16 bytes in base64 (RFC 6455 section 4.1).
const KEY: &str = "ZGVza2dhdGUtZG9jdG9yIQ==";

/// Longest head of a WebSocket Close frame: two bytes, and the code.
const CLOSE_HEAD: usize = 4;

/// Longest wait for that frame: it comes at once or never.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// `Host` of the request, and the name for TLS without its port.
    pub(super) host: &'a str,
    /// Path of the request.
    pub(super) target: &'a str,
    /// Whether a WebSocket is asked for.
    pub(super) upgrade: bool,
    /// TLS, and who keeps what is seen of it.
    pub(super) tls: Option<&'a Arc<Noting>>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// All of it, or nothing where it is long or does not end.
    pub(super) body: Bytes,
    /// How far the server's clock is away, if it tells.
    pub(super) skew: Option<Skew>,
    /// Code with which an accepted WebSocket was closed.
    pub(super) close: Option<u16>,
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether deskgate made this answer itself: every one has these headers.
    pub(super) fn is_ours(&self) -> bool {
        self.header("cache-control") == Some("no-store")
            && self.header("referrer-policy") == Some("no-referrer")
            && self.header("x-content-type-options") == Some("nosniff")
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the connection is refused: nothing listens there")]
    Refused,
    #[error(
        "the connection was not taken within the limit: a filter drops it, or the host is gone"
    )]
    ConnectTimeout,
    #[error("no connection: {0}")]
    Unreachable(io::ErrorKind),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("connected, and no answer within the limit")]
    Timeout,
    #[error("the connection ended without an answer")]
    Dropped,
    #[error("what answers does not speak HTTP")]
    Invalid,
}

/// Asks the first address that takes the connection. Takes two limits at most, and a body's.
pub(super) async fn ask(
    addresses: &[SocketAddr],
    question: &Question<'_>,
    limit: Duration,
) -> Result<Answer, Failure> {
    let mut failure = Failure::Refused;
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return talk(stream, question, limit).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                failure = Failure::Refused;
            }
            Ok(Err(error)) => failure = Failure::Unreachable(error.kind()),
            Err(_) => failure = Failure::ConnectTimeout,
        }
    }
    Err(failure)
}

async fn talk(
    stream: TcpStream,
    question: &Question<'_>,
    limit: Duration,
) -> Result<Answer, Failure> {
    let begun = timeout(limit, Box::pin(begin(stream, question))).await;
    let begun = begun.unwrap_or(Err(Failure::Timeout))?;
    Ok(begun.whole(limit).await)
}

/// Asks, and waits for the head of the answer.
async fn begin(stream: TcpStream, question: &Question<'_>) -> Result<Begun, Failure> {
    let Some(noting) = question.tls else { return exchange(stream, question).await };
    let config = noting.client().map_err(|error| Failure::Tls(error.to_string()))?;
    let name = ServerName::try_from(without_port(question.host).to_owned())
        .map_err(|_| Failure::Tls("the host is no name for a certificate".to_owned()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    exchange(stream.map_err(|error| unshaken(&error))?, question).await
}

/// Why there is no TLS. Who ends the connection without a word may expect something before it, such as a
/// PROXY header.
fn unshaken(error: &io::Error) -> Failure {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let ended = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
    if ended.contains(&error.kind()) {
        return Failure::Dropped;
    }
    // Its errors hold nothing of the peer's but the kind of its mistake.
    Failure::Tls(error.to_string())
}

/// A host without its port.
pub(super) fn without_port(host: &str) -> &str {
    let bare = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    bare.trim_matches(['[', ']'])
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    question: &Question<'_>,
) -> Result<Begun, Failure> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Dropped)?;
    let driver = Driver(tokio::spawn(async move {
        // Its error reaches the response's reader as well.
        let _ = connection.with_upgrades().await;
    }));
    let mut request = Request::get(question.target)
        .header(HOST, question.host)
        .header(USER_AGENT, concat!("deskgate-doctor/", env!("CARGO_PKG_VERSION")));
    if question.upgrade {
        request = request
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", KEY);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| Failure::Invalid)?;
    let before = clock::now().wall;
    let response = sender.send_request(request).await;
    let response = response
        .map_err(|error| if error.is_parse() { Failure::Invalid } else { Failure::Dropped })?;
    let after = clock::now().wall;
    let skew = date(response.headers()).map(|date| Skew::of(date, before, after));
    Ok(Begun { response, skew, driver })
}

/// An answer whose head is here.
struct Begun {
    response: Response<Incoming>,
    skew: Option<Skew>,
    driver: Driver,
}

impl Begun {
    /// With the rest, as far as it comes soon.
    async fn whole(self, limit: Duration) -> Answer {
        let Self { response, skew, driver: _driver } = self;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        if status == 101 {
            let close = timeout(CLOSE_WAIT, closed(response)).await.ok().flatten();
            return Answer { status, headers, body: Bytes::new(), skew, close };
        }
        // What is longer is not ours.
        let body = Limited::new(response.into_body(), MAX_BODY).collect();
        let body = timeout(limit.min(BODY_WAIT), body).await.ok().and_then(Result::ok);
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Answer { status, headers, body, skew, close: None }
    }
}

/// The code of the Close frame that a WebSocket begins with.
async fn closed(response: Response<Incoming>) -> Option<u16> {
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.ok()?);
    let mut head = [0; CLOSE_HEAD];
    stream.read_exact(&mut head).await.ok()?;
    let [first, _, high, low] = head;
    // RFC 6455 section 5.5.1: opcode 8; the code comes first.
    (first & 0x0f == 8).then(|| u16::from_be_bytes([high, low]))
}

fn date(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()
}

/// Moves a connection's bytes, for as long as somebody reads the answer.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn the_key_is_one_that_servers_take() {
        assert_eq!(STANDARD.decode(KEY).unwrap().len(), 16);
    }

    #[test]
    fn an_end_within_a_handshake_is_no_word_of_tls() {
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
        assert!(matches!(unshaken(&ended), Failure::Dropped));
        let wrong = io::Error::new(io::ErrorKind::InvalidData, "no TLS");
        assert!(matches!(unshaken(&wrong), Failure::Tls(_)));
    }
}

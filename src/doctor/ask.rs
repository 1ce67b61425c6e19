//! One HTTP request on a connection of its own, within a limit, with words for each way it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, DATE, HOST, UPGRADE, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty, Limited};
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
    /// Its beginning, or nothing.
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

/// Asks the first address that takes the connection. Takes two limits at most.
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
    let Some(noting) = question.tls else {
        return timeout(limit, exchange(stream, question)).await.unwrap_or(Err(Failure::Timeout));
    };
    let config = noting.client().map_err(|error| Failure::Tls(error.to_string()))?;
    let name = ServerName::try_from(without_port(question.host).to_owned())
        .map_err(|_| Failure::Tls("the host is no name for a certificate".to_owned()))?;
    let answer = async {
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        // Its errors hold nothing of the peer's but the kind of its mistake.
        let stream = stream.map_err(|error| Failure::Tls(error.to_string()))?;
        exchange(stream, question).await
    };
    timeout(limit, Box::pin(answer)).await.unwrap_or(Err(Failure::Timeout))
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
) -> Result<Answer, Failure> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Dropped)?;
    let _driver = Driver(tokio::spawn(async move {
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
            .header("Sec-WebSocket-Key", "ZGVza2dhdGUtZG9jdG9yISE=");
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| Failure::Invalid)?;
    let before = clock::now().wall;
    let response = sender.send_request(request).await;
    let response = response
        .map_err(|error| if error.is_parse() { Failure::Invalid } else { Failure::Dropped })?;
    let after = clock::now().wall;
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let skew = date(&headers).map(|date| Skew::of(date, before, after));
    if status == 101 {
        let close = closed(response).await;
        return Ok(Answer { status, headers, body: Bytes::new(), skew, close });
    }
    // Only its beginning counts; what is longer is not ours.
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Answer { status, headers, body, skew, close: None })
}

/// The code of the Close frame that a WebSocket begins with.
async fn closed(response: http::Response<hyper::body::Incoming>) -> Option<u16> {
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.ok()?);
    let mut head = [0; CLOSE_HEAD];
    timeout(CLOSE_WAIT, stream.read_exact(&mut head)).await.ok()?.ok()?;
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

//! The requests that discovery makes of the Kubernetes API: a list, a watch, and one for a single pod.
//!
//! One HTTP/1.1 connection for each request, which is one in half a minute. Every wait has a limit
//! and every buffer a bound; errors are a closed list and hold nothing that was sent or received.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, DATE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

use super::slices::{Line, Page, PodObject, Slice, Told};

/// Longest time for a connection, with TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time for a response's head.
const HEAD: Duration = Duration::from_secs(10);
/// Longest time for a whole list, all its pages.
const LIST: Duration = Duration::from_secs(60);
/// What a server may be late in ending a watch. One that says nothing for longer is lost.
const LATE: Duration = Duration::from_secs(5);
/// Slices on one page.
const PAGE: usize = 500;
/// Most bytes of a list, all its pages.
const MAX_LIST: usize = 64 << 20;
/// Most bytes of a pod: the store behind the API keeps no object above 1.5 MiB.
const MAX_POD: usize = 4 << 20;
/// Longest line of a watch. The store behind the API keeps no object above 1.5 MiB.
const MAX_LINE: usize = 4 << 20;
/// Age after which the credential is read anew; the node replaces it long before it expires.
const TOKEN_AGE: Duration = Duration::from_secs(60);
/// Most bytes of a credential, and of a bundle of certificates.
const MAX_TOKEN: u64 = 64 << 10;
const MAX_CA: u64 = 1 << 20;

/// Where the API is. `Debug` is safe: files are named, not shown.
#[derive(Clone, Debug)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How to speak to it.
    pub transport: Transport,
}

/// How to speak to the API.
#[derive(Clone, Debug)]
pub enum Transport {
    /// HTTPS, as in a cluster. Both files are read again when they can have changed.
    Tls {
        /// PEM certificates of the authorities that the server's certificate may come from.
        ca: PathBuf,
        /// The credential of the service account.
        token: PathBuf,
    },
    /// HTTP without a credential, for tests and local proxies.
    Plain,
}

/// Why the API did not serve. A closed list: it is shown in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Fault {
    /// Nothing took the connection.
    #[error("connection refused or lost")]
    ConnectFailed,
    /// Nothing took the connection in time.
    #[error("connection timed out")]
    ConnectTimeout,
    /// The CA file or the token file cannot be used.
    #[error("the CA file or the token file cannot be used")]
    Credentials,
    /// The server's certificate is not from the configured authority, or no TLS is spoken.
    #[error("TLS failed")]
    Tls,
    /// No response, or an unfinished one, in time.
    #[error("response timed out")]
    ResponseTimeout,
    /// A watch of which nothing was heard to its end.
    #[error("the watch went silent")]
    Stalled,
    /// A response that broke off.
    #[error("the connection broke off")]
    Dropped,
    /// 401: the credential is not accepted.
    #[error("the API does not accept the credential (401)")]
    Unauthorized,
    /// 403: the service account may not do this.
    #[error("the API refuses this to the service account (403)")]
    Forbidden,
    /// 410: the version to continue from is too old.
    #[error("the version to continue from has expired (410)")]
    Expired,
    /// 429 or 5xx.
    #[error("the API is unavailable")]
    Unavailable,
    /// Any other status.
    #[error("the API refused the request")]
    Rejected,
    /// Not what this API answers.
    #[error("invalid response")]
    Invalid,
    /// Above a limit for lists, lines or slices.
    #[error("response too large")]
    TooLarge,
}

impl Fault {
    /// Fixed name for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::Credentials => "credentials",
            Self::Tls => "tls",
            Self::ResponseTimeout => "response_timeout",
            Self::Stalled => "stalled",
            Self::Dropped => "dropped",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Expired => "expired",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
        }
    }

    /// What an error status means.
    pub(super) fn of(status: u16) -> Self {
        match status {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            410 => Self::Expired,
            429 | 500..=599 => Self::Unavailable,
            _ => Self::Rejected,
        }
    }
}

/// A complete list.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) items: Vec<Slice>,
    pub(super) version: String,
    /// The server's clock, in milliseconds.
    pub(super) date: Option<i64>,
}

/// The API, for the slices of one service.
#[derive(Debug)]
pub(super) struct Api {
    server: Server,
    slices: String,
    pods: String,
    selector: String,
    watch_timeout: Duration,
    token: Option<(HeaderValue, Instant)>,
    trust: Option<Trust>,
}

/// The authorities in use, and the bytes they were read from.
struct Trust {
    pem: Vec<u8>,
    connector: TlsConnector,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Api {
    pub(super) fn new(
        server: Server,
        namespace: &str,
        service: &str,
        watch_timeout: Duration,
    ) -> Self {
        let namespace = encoded(namespace);
        Self {
            server,
            slices: format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
            pods: format!("/api/v1/namespaces/{namespace}/pods"),
            selector: encoded(&format!("kubernetes.io/service-name={service}")),
            watch_timeout,
            token: None,
            trust: None,
        }
    }

    /// All slices at one version.
    pub(super) async fn list(&mut self) -> Result<Listing, Fault> {
        timeout(LIST, self.pages()).await.unwrap_or(Err(Fault::ResponseTimeout))
    }

    async fn pages(&mut self) -> Result<Listing, Fault> {
        let mut items = Vec::new();
        let mut next = String::new();
        let mut room = MAX_LIST;
        loop {
            let Self { slices, selector, .. } = self;
            let mut target = format!("{slices}?labelSelector={selector}&limit={PAGE}");
            if !next.is_empty() {
                target.push_str("&continue=");
                target.push_str(&encoded(&next));
            }
            let (response, _driver) = self.get(&target).await?;
            let date = date(response.headers());
            let body = collect(response.into_body(), room).await?;
            room = room.saturating_sub(body.len());
            let page: Page = serde_json::from_slice(&body).map_err(|_| Fault::Invalid)?;
            items.extend(page.items.unwrap_or_default());
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() {
                let version = page.metadata.resource_version;
                // A watch from no version would begin anywhere.
                return if version.is_empty() {
                    Err(Fault::Invalid)
                } else {
                    Ok(Listing { items, version, date })
                };
            }
        }
    }

    /// What happened after `version`, and what will.
    pub(super) async fn watch(&mut self, version: &str) -> Result<Lines, Fault> {
        let deadline = Instant::now() + self.watch_timeout() + LATE;
        let target = format!(
            "{}?labelSelector={}&watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            self.slices,
            self.selector,
            self.watch_timeout().as_secs(),
            encoded(version),
        );
        let (response, driver) = self.get(&target).await?;
        Ok(Lines {
            body: response.into_body(),
            buffer: Buffer::default(),
            deadline,
            _driver: driver,
        })
    }

    /// What a pod tells of its addresses.
    pub(super) async fn pod(&mut self, name: &str) -> Result<Told, Fault> {
        let target = format!("{}/{}", self.pods, encoded(name));
        let (response, _driver) = self.get(&target).await?;
        let body = timeout(HEAD, collect(response.into_body(), MAX_POD)).await;
        let body = body.map_err(|_| Fault::ResponseTimeout)??;
        serde_json::from_slice::<PodObject>(&body).map(PodObject::told).map_err(|_| Fault::Invalid)
    }

    /// How long a watch lasts: whole seconds, at least one.
    pub(super) fn watch_timeout(&self) -> Duration {
        Duration::from_secs(self.watch_timeout.as_secs().max(1))
    }

    /// Sends one request. The response is a success.
    async fn get(&mut self, target: &str) -> Result<(Response<Incoming>, Driver), Fault> {
        let request = self.request(target)?;
        let stream =
            timeout(CONNECT, self.connect()).await.map_err(|_| Fault::ConnectTimeout)??;
        let answer = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|_| Fault::Dropped)?;
            let driver = Driver(tokio::spawn(async move {
                // Its error reaches the response's reader as well.
                let _ = connection.await;
            }));
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| if error.is_parse() { Fault::Invalid } else { Fault::Dropped })?;
            Ok((response, driver))
        };
        let (response, driver) =
            timeout(HEAD, answer).await.map_err(|_| Fault::ResponseTimeout)??;
        if response.status() == StatusCode::OK {
            return Ok((response, driver));
        }
        let fault = Fault::of(response.status().as_u16());
        if fault == Fault::Unauthorized {
            // It may have been replaced meanwhile.
            self.token = None;
        }
        Err(fault)
    }

    fn request(&mut self, target: &str) -> Result<Request<Empty<Bytes>>, Fault> {
        let host = match self.server.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.server.port),
            _ => format!("{}:{}", self.server.host, self.server.port),
        };
        let mut request = Request::get(target)
            .header(HOST, host)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("deskgate/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token()? {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Empty::new()).map_err(|_| Fault::Rejected)
    }

    fn token(&mut self) -> Result<Option<HeaderValue>, Fault> {
        let Transport::Tls { token: path, .. } = &self.server.transport else { return Ok(None) };
        if let Some((token, read)) = &self.token
            && read.elapsed() < TOKEN_AGE
        {
            return Ok(Some(token.clone()));
        }
        let text = read(path, MAX_TOKEN).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or(Fault::Credentials)?;
        let mut token = HeaderValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| Fault::Credentials)?;
        token.set_sensitive(true);
        self.token = Some((token.clone(), Instant::now()));
        Ok(Some(token))
    }

    async fn connect(&mut self) -> Result<Box<dyn Stream>, Fault> {
        let tls = self.tls()?;
        let stream = TcpStream::connect((self.server.host.as_str(), self.server.port))
            .await
            .map_err(|_| Fault::ConnectFailed)?;
        let Some(tls) = tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.server.host.clone()).map_err(|_| Fault::Tls)?;
        Ok(Box::new(tls.connect(name, stream).await.map_err(|_| Fault::Tls)?))
    }

    /// The CA file is read for each connection, as it may be replaced. Reading blocks: it is a few
    /// KiB on a memory file system.
    fn tls(&mut self) -> Result<Option<TlsConnector>, Fault> {
        let Transport::Tls { ca, .. } = &self.server.transport else { return Ok(None) };
        let pem = read(ca, MAX_CA).map_err(|_| Fault::Credentials)?;
        if let Some(trust) = self.trust.as_ref().filter(|trust| trust.pem == pem) {
            return Ok(Some(trust.connector.clone()));
        }
        let connector = connector(&pem).ok_or(Fault::Credentials)?;
        self.trust = Some(Trust { pem, connector: connector.clone() });
        Ok(Some(connector))
    }
}

/// Trusts these authorities and no others.
fn connector(pem: &[u8]) -> Option<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    if roots.is_empty() {
        return None;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most || bytes.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes)
}

/// A connection to the API.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Moves a connection's bytes, for as long as somebody reads the response.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn collect(mut body: Incoming, most: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Fault::Dropped)?.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(Fault::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// The lines of a watch.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    buffer: Buffer,
    deadline: Instant,
    _driver: Driver,
}

impl Lines {
    /// The next line; `None` when the server has ended the watch.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Fault> {
        loop {
            if let Some(line) = self.buffer.line()? {
                return serde_json::from_str(&line).map(Some).map_err(|_| Fault::Invalid);
            }
            let frame = timeout_at(self.deadline, self.body.frame()).await;
            match frame.map_err(|_| Fault::Stalled)? {
                // Part of a line at the end is a broken line.
                None if self.buffer.is_empty() => return Ok(None),
                None | Some(Err(_)) => return Err(Fault::Dropped),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.bytes.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Whether another whole line has already arrived.
    pub(super) fn more(&self) -> bool {
        self.buffer.has_line()
    }
}

/// Bytes to lines.
#[derive(Debug)]
struct Buffer {
    bytes: BytesMut,
    lines: LinesCodec,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), lines: LinesCodec::new_with_max_length(MAX_LINE) }
    }
}

impl Buffer {
    /// The next whole line that is not empty.
    fn line(&mut self) -> Result<Option<String>, Fault> {
        loop {
            match self.lines.decode(&mut self.bytes) {
                Ok(Some(line)) if line.trim().is_empty() => {}
                Ok(line) => return Ok(line),
                Err(LinesCodecError::MaxLineLengthExceeded) => return Err(Fault::TooLarge),
                Err(LinesCodecError::Io(_)) => return Err(Fault::Invalid),
            }
        }
    }

    fn has_line(&self) -> bool {
        self.bytes.contains(&b'\n')
    }

    fn is_empty(&self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }
}

/// The server's clock; the middle of the second that it names.
fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(date.as_millis()).ok()?.checked_add(500)
}

/// Percent-encoding of everything that is not unreserved (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests;

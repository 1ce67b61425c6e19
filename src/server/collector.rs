//! Sends spans to a collector of traces: OTLP over plain HTTP, one connection per message.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::config::Tracing;
use crate::telemetry::traces::{self, LastSpans};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Starts to trace, if the configuration names a collector.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn start(config: &Tracing, node: &str) -> Result<Option<LastSpans>, String> {
    if config.endpoint.is_empty() {
        return Ok(None);
    }
    // The thread that sends is none of tokio's, and waits.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let client = Collector { runtime, limit: config.timeout };
    traces::start(config, node, client).map(Some)
}

/// A way to the collector.
#[derive(Debug)]
struct Collector {
    runtime: Runtime,
    /// Longest time for one message and its answer.
    limit: Duration,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.runtime.block_on(async { timeout(self.limit, send(request)).await? })
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let host = request.uri().host().ok_or("no host")?.to_owned();
    let port = request.uri().port_u16().unwrap_or(80);
    let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = handshake(TokioIo::new(tcp)).await?;
    let connection = tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    // One server is spoken to, not a proxy (RFC 9112 section 3.2.1).
    let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
    head.headers.insert(http::header::HOST, authority.parse()?);
    head.uri = head.uri.path_and_query().map_or("/", |target| target.as_str()).parse()?;
    let answer = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, body))
}

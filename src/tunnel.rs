//! Tunnels: from an accepted upgrade to the last byte.
//!
//! A tunnel leaves pingora. Its session is taken out of the request, both sides' raw streams go to
//! our own [`mod@relay`], in a task of its own, and the request's memory is freed. (pingora 0.9.1 can
//! end its built-in tunnel when a 101 arrives before the empty request body was processed,
//! cloudflare/pingora#946.)

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use pingora::http::ResponseHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession as Pod;
use pingora::proxy::Session;
use pingora::{Error as PingoraError, ErrorType, Result};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::config::Timeouts;
use crate::telemetry::access_log::Record;
use crate::transport::{Transport, Wire};

pub mod relay;

use relay::{Early, Outcome, relay};

/// Size of the pipe that stands in for the session taken out of a request.
const PLACEHOLDER: usize = 64;

/// Hands an accepted upgrade over to the relay. Afterwards the request's session is an empty
/// placeholder: only `Ok(true)` may be returned to pingora.
///
/// # Errors
/// If the client is gone, or is not on an HTTP/1.1 connection.
pub async fn start(
    session: &mut Session,
    mut pod: Pod,
    head: &ResponseHeader,
    timeouts: &Timeouts,
    record: Record,
) -> Result<()> {
    let to_client = glued(&mut pod).await;
    let pod = wire_of(pod.into_inner())?;
    let (mut client, to_pod) = detach(session).await?;
    let head = to_bytes(head);
    let write = async {
        client.write_all(&head).await?;
        client.flush().await
    };
    match timeout(timeouts.send, write).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(gone()),
    }
    let client = wire_of(client)?;
    let idle = timeouts.idle;
    let early = Early { to_pod, to_client };
    tokio::spawn(async move {
        let outcome = relay(client, pod, early, idle).await;
        finish(record, outcome);
    });
    Ok(())
}

/// Writes what became of the tunnel into its access log line.
fn finish(mut record: Record, outcome: Outcome) {
    record.received = outcome.to_pod;
    record.sent = outcome.to_client;
    record.reason = outcome.end.reason();
}

/// Bytes that the pod sent together with its 101. They are in the session's buffer or can be read
/// at once; if neither, nothing is lost by not waiting.
async fn glued(pod: &mut Pod) -> Bytes {
    match pod.read_body_bytes().now_or_never() {
        Some(Ok(Some(bytes))) => bytes,
        Some(Ok(None) | Err(_)) | None => Bytes::new(),
    }
}

/// Takes the raw stream, and what was read from it too far, out of a request.
async fn detach(session: &mut Session) -> Result<(Stream, Bytes)> {
    let placeholder = ServerSession::new_http1(Box::new(tokio::io::duplex(PLACEHOLDER).0));
    let mut taken = std::mem::replace(&mut *session.downstream_session, placeholder);
    // Bytes past the request are kept only for a session that may serve another request.
    taken.set_pipelining_enabled(true);
    taken.set_keepalive(Some(1));
    let reusable = taken.finish().await.map_err(|_| gone())?.ok_or_else(gone)?;
    let (stream, early) = reusable.into_parts();
    Ok((stream, early.map(BytesMut::freeze).unwrap_or_default()))
}

/// The bare stream of a connection: every connection here is a [`Transport`].
fn wire_of(stream: Stream) -> Result<Wire> {
    let transport = stream.into_any().downcast::<Transport>();
    transport.map(|transport| transport.into_wire()).map_err(|_| gone())
}

fn gone() -> Box<PingoraError> {
    PingoraError::new_down(ErrorType::ConnectionClosed)
}

/// A response head as it goes over the wire.
fn to_bytes(head: &ResponseHeader) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    head.header_to_h1_wire(&mut out);
    out.put_slice(b"\r\n");
    out.freeze()
}

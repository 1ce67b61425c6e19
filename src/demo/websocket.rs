//! Turns an HTTP request into a WebSocket and sends on it within a time limit; assumes the request
//! came through [`super::serve`].

use std::time::Duration;

use futures_util::SinkExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::reply::{Reply, refusal};
use super::serve::Takeover;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a client may send in one message.
pub(super) const MESSAGE_LIMIT: usize = 256 * 1024;
/// More than the largest message plus tungstenite's own 128 KiB, so that no send is refused for room.
const WRITE_LIMIT: usize = 512 * 1024;
const UPGRADE_LIMIT: Duration = Duration::from_secs(10);
/// A peer that has not made room after this is given up.
const SEND_LIMIT: Duration = Duration::from_secs(30);

/// The peer is gone or does not read.
#[derive(Debug)]
pub(super) struct Gone;

/// Answers the handshake and runs `session` on the socket; a request that is none is refused.
pub(super) fn accept<S, F>(mut request: Request<Incoming>, session: S) -> Reply
where
    S: FnOnce(Socket) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let takeover = request.extensions().get::<Takeover>().cloned();
    let (Some(key), Some(takeover)) = (handshake_key(request.headers()), takeover) else {
        return refusal(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket");
    };
    let Ok(accept) = HeaderValue::from_str(&key) else {
        return refusal(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key");
    };
    let binary = offers_binary(request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    takeover.leave(async move {
        let Ok(Ok(upgraded)) = timeout(UPGRADE_LIMIT, upgrade).await else {
            tracing::debug!("demo: upgrade failed");
            return;
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT))
            .max_write_buffer_size(WRITE_LIMIT);
        let stream = TokioIo::new(upgraded);
        session(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await).await;
    });

    let mut reply = Response::new(Empty::new().boxed_unsync());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if binary {
        // Browsers fail a handshake that names a protocol they did not offer.
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
    }
    reply
}

/// The value for `Sec-WebSocket-Accept`, if the request asks for a WebSocket.
fn handshake_key(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(UPGRADE)?.to_str().ok()?;
    let wanted = upgrade.split(',').any(|name| name.trim().eq_ignore_ascii_case("websocket"));
    wanted.then_some(())?;
    Some(derive_accept_key(headers.get(SEC_WEBSOCKET_KEY)?.as_bytes()))
}

fn offers_binary(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == "binary")
}

/// Sends and flushes; nothing is queued for a peer that does not read.
pub(super) async fn send(socket: &mut Socket, message: Message) -> Result<(), Gone> {
    match timeout(SEND_LIMIT, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

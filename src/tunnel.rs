//! Tunnels: from an accepted upgrade to the last byte.
//!
//! A tunnel leaves pingora. Both sides' bare streams go to our own relay, in a task of its own, and the
//! request's memory is freed. (pingora 0.9.1 can end its
//! built-in tunnel when a 101 arrives before the empty request body was processed,
//! cloudflare/pingora#946.)

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderValue;
use http::header;
use http::response::Parts;
use pingora::{Error as PingoraError, ErrorType, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::admission::TunnelSeat;
use crate::config::Timeouts;
use crate::http1::client::Exchange as Pod;
use crate::http1::response;
use crate::session::Session;
use crate::telemetry::access_log::Record;
use crate::transport::{SocketPolicy, Transport, Wire};

mod direction;
pub mod drain;
pub mod ends;
pub mod frames;
pub mod handshake;
pub mod random;
pub mod registry;
pub mod relay;

use frames::{Pings, Side, Tracker};
use handshake::accept_of;
use registry::{Info, Registry, Tunnel};
use relay::{Early, Limits, Outcome, relay};

/// Longest wait for a client to receive what was said to it last, and to end.
const LINGER: Duration = Duration::from_secs(10);

/// Longest wait for a browser to take a refusal and close its side.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What a tunnel is opened with.
#[derive(Debug)]
pub struct Opening<'a> {
    /// What it is.
    pub info: Info,
    /// Where it is listed.
    pub registry: &'a Registry,
    /// Times of its route.
    pub timeouts: &'a Timeouts,
    /// Silence after which a peer is pinged; 0 for never.
    pub ping: Duration,
    /// How both its sockets are set.
    pub sockets: SocketPolicy,
    /// What it is counted by.
    pub seat: TunnelSeat,
    /// Its access log line.
    pub record: Record,
}

/// Hands an accepted upgrade over to the relay.
///
/// Returns the tunnel's number.
///
/// # Errors
/// If the client is gone, or is not on an HTTP/1.1 connection.
pub async fn start(session: Session, pod: Pod, head: &Parts, opening: Opening<'_>) -> Result<u64> {
    let (pod, to_client) = pod.into_parts();
    let (pod, _) = pod.into_wire();
    let (mut client, to_pod) = session.into_parts().ok_or_else(gone)?;
    // Whoever has an answer has a tunnel, that can be renewed and told to end.
    let tunnel = opening.registry.open(opening.info);
    if let Err(error) = say(&mut client, &to_bytes(head), opening.timeouts.send).await {
        tunnel.ended(ends::End::ClientLost);
        let mut record = opening.record;
        (record.reason, record.tunnel) = (ends::End::ClientLost.reason(), true);
        return Err(error);
    }
    let (mut client, connection) = client.into_wire();
    // One read is one write.
    client.buffer(direction::LARGE);
    opening.sockets.apply(client.tcp());
    opening.sockets.apply(pod.tcp());
    let ping = Some(opening.ping).filter(|ping| !ping.is_zero());
    let limits = Limits { idle: opening.timeouts.idle, ping };
    let early = Early { to_pod: to_pod.freeze(), to_client: to_client.freeze() };
    let id = announce(&tunnel, &opening.record);
    let relay = relay(client, pod, early, tunnel, limits);
    let last = Box::new((opening.record, id, connection, opening.seat));
    // Not an async block, which would have room for the relay twice.
    tokio::spawn(relay.map(move |(outcome, unheard)| {
        let (record, id, connection, _seat) = *last;
        finish(record, id, outcome);
        if let Some(client) = unheard {
            tokio::spawn(linger(client, connection));
        }
    }));
    Ok(id)
}

/// Tells that a tunnel is open; returns its number.
fn announce(tunnel: &Tunnel, record: &Record) -> u64 {
    let id = tunnel.id();
    let token = record.token.map(|token| token.to_string()).unwrap_or_default();
    info!(target: "tunnel", id, request_id = &*record.id, route = record.route(), token, "tunnel opened");
    id
}

/// Lets every tunnel read in small pieces from now on, or as large as it can: for want of memory.
pub fn read_small(small: bool) {
    direction::read_small(small);
}

/// Tells of every open tunnel, again and again.
pub async fn report(registry: Registry, every: Duration) {
    loop {
        sleep(every).await;
        for open in registry.list() {
            info!(
                target: "tunnel",
                id = open.id,
                route = &*open.route,
                token = open.token.as_deref().unwrap_or_default(),
                pod = &*open.pod,
                age = open.age,
                received = open.to_pod.bytes,
                sent = open.to_client.bytes,
                rtt = open.rtt,
                last_input = open.last_input,
                "tunnel open"
            );
        }
    }
}

/// Tells what became of a tunnel, in an event and in its access log line.
fn finish(mut record: Record, id: u64, outcome: Outcome) {
    record.received = outcome.to_pod.bytes;
    record.sent = outcome.to_client.bytes;
    record.reason = outcome.end.reason();
    record.tunnel = true;
    info!(
        target: "tunnel",
        id,
        request_id = &*record.id,
        route = record.route(),
        reason = record.reason,
        frames_received = outcome.to_pod.frames,
        frames_sent = outcome.to_client.frames,
        "tunnel closed"
    );
}

/// Lets a client receive what was said to it last. To close a stream that it still speaks on would reset it,
/// and its system would forget what it has not sent yet.
async fn linger(mut client: Wire, _connection: impl Send) {
    let rest = async {
        client.shutdown().await?;
        let mut taken = [0; 1024];
        while client.read(&mut taken).await? > 0 {}
        io::Result::Ok(())
    };
    // Whoever has not taken it by then has had its time.
    drop(timeout(LINGER, rest).await);
}

/// Accepts an upgrade and closes it at once, with a code and a text that a page can read: browsers
/// do not show a page the status of a refused upgrade. `id` is the request's.
///
/// # Errors
/// If the client is gone.
pub async fn accept_and_close(session: Session, id: &str, code: u16, text: &str) -> Result<()> {
    let key = session.request().headers.get("sec-websocket-key").ok_or_else(gone)?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| gone());
    let (mut answer, ()) = http::Response::new(()).into_parts();
    answer.status = http::StatusCode::SWITCHING_PROTOCOLS;
    let headers = &mut answer.headers;
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, value(&accept_of(key.as_bytes()))?);
    headers.insert("x-request-id", value(id)?);
    let (mut client, _) = session.into_parts().ok_or_else(gone)?;
    let mut bytes = to_bytes(&answer).to_vec();
    frames::close(&mut bytes, code, text, None);
    say(&mut client, &bytes, LAST_WORD).await?;
    let rest = async {
        // A close with unread bytes would take the answer back. The browser answers, and waits for
        // us to end the connection (RFC 6455 section 7.1.1).
        let mut tracker = Tracker::new(Side::Client);
        let (mut taken, mut none) = ([0; 256], Pings::new(0));
        while !(tracker.closed() && tracker.boundary()) {
            let count = client.read(&mut taken).await?;
            if count == 0 {
                break;
            }
            tracker.follow(taken.get_mut(..count).unwrap_or_default(), &mut none);
        }
        client.shutdown().await
    };
    drop(timeout(LAST_WORD, rest).await);
    Ok(())
}

/// Writes bytes to a client within a time.
async fn say(client: &mut Transport, bytes: &[u8], limit: Duration) -> Result<()> {
    let write = async {
        client.write_all(bytes).await?;
        client.flush().await
    };
    match timeout(limit, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(gone()),
    }
}

fn gone() -> Box<PingoraError> {
    PingoraError::new_down(ErrorType::ConnectionClosed)
}

/// A response head as it goes over the wire.
fn to_bytes(head: &Parts) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    response::put(&mut out, head, None);
    out.freeze()
}

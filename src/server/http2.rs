//! HTTP/2 towards a client: each stream is a request, within the limits of HTTP/1.

use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora::protocols::{Digest, Stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::Connections;
use crate::config::Listen;
use crate::session::Session;
use crate::transport::Transport;

mod meter;

/// Requests at a time on one connection.
const STREAMS: u32 = 100;

/// Bytes of a response that wait for the client, per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes that a client may send before they are read: for an upload a stream's worth in each round
/// trip, for the whole connection several, so that one that is not read does not stop the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Longest wait for the preface (RFC 9113 section 3.4).
const PREFACE: Duration = Duration::from_secs(10);

/// Longest wait for a client that has nothing under way to hear that its connection ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// Malformed requests on one connection before it is closed.
const MALFORMED: usize = 32;

/// Streams that were reset for what the client did on them, before its connection is closed.
const ERRORS: usize = 100;

/// Serves a connection to its end.
pub(super) async fn serve(
    connections: &Arc<Connections>,
    transport: Transport,
    listen: &Listen,
    mut leaves: watch::Receiver<bool>,
) {
    let client = Arc::new(transport.remote().clone());
    let stream: Stream = Box::new(meter::watch(transport));
    // What the rooms want to know of a connection, they know from us.
    let digest = Arc::new(Digest::default());
    let Ok(Ok(mut connection)) = timeout(PREFACE, handshake(stream, Some(options(listen)))).await
    else {
        return;
    };
    let mut requests = JoinSet::new();
    let (mut malformed, mut begun, mut leaving) = (0, false, false);
    // The end of an answer may still be on its way when its request has ended: the process waits for that.
    let mut under_way = None;
    // A stream that is reset frees its place while its request ends: more than this is an attack.
    while malformed < MALFORMED && requests.len() < 2 * STREAMS as usize {
        let patience = if leaving && !connection.has_streams() {
            GOODBYE
        } else if !begun && listen.keepalive.is_zero() {
            // Without keep-alive the first request is waited for all the same.
            listen.header_timeout
        } else {
            listen.keepalive
        };
        let accepted = tokio::select! {
            accepted = HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
            _ = leaves.wait_for(|leaving| *leaving), if !leaving => {
                // GOAWAY: what the client has begun is served, nothing more is taken.
                connection.graceful_shutdown();
                leaving = true;
                under_way = Some(connections.enter());
                continue;
            }
            Some(_) = requests.join_next() => continue,
            () = sleep(patience), if requests.is_empty() => {
                if leaving {
                    return;
                }
                // A request that is on its way is known not to be served, and may be sent again.
                connection.graceful_shutdown();
                leaving = true;
                continue;
            }
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => {
                begun = true;
                let connections = Arc::clone(connections);
                let session = Session::http2(session, Arc::clone(&client));
                requests.spawn(async move {
                    connections.request(session).await;
                });
            }
            Ok(Some(H2Accept::Rejected)) => malformed += 1,
            Ok(None) | Err(_) => break,
        }
    }
    // Requests under way learn of it by this, and their lines say how far they came.
    drop(connection);
    drop(timeout(GOODBYE, async { while requests.join_next().await.is_some() {} }).await);
    drop(under_way);
}

fn options(listen: &Listen) -> H2Options {
    let mut options = default_h2_options();
    options.max_header_list_size(u32::try_from(listen.max_head.as_u64()).unwrap_or(u32::MAX));
    options.max_concurrent_streams(STREAMS);
    options.max_local_error_reset_streams(Some(ERRORS));
    options.max_send_buffer_size(SEND_BUFFER);
    options.initial_window_size(STREAM_WINDOW);
    options.initial_connection_window_size(CONNECTION_WINDOW);
    options
}

//! Plays the broadcast service of a desktop: a greeting and then keepalives; assumes that clients
//! only listen and ignores what they say.

use std::time::Duration;

use futures_util::StreamExt;
use hyper::Request;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::Message;

use super::reply::Reply;
use super::websocket::{Gone, Socket, accept, send};

const KEEPALIVE: Duration = Duration::from_secs(30);

/// Any path is the broadcast.
pub(super) async fn answer(user: &'static str, request: Request<Incoming>) -> Reply {
    accept(request, move |socket| async move {
        if converse(socket, user).await.is_err() {
            tracing::debug!("demo: broadcast closed");
        }
    })
}

async fn converse(mut socket: Socket, user: &str) -> Result<(), Gone> {
    let hello = json!({"method": "hello", "data": {"user": user}});
    send(&mut socket, Message::text(hello.to_string())).await?;
    let mut keepalive = interval(KEEPALIVE);
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keepalive.tick().await; // the first tick is immediate
    loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(received) => drop(received.map_err(|_| Gone)?),
                None => return Ok(()),
            },
            _ = keepalive.tick() => {
                let message = json!({"method": "keepalive", "data": {}});
                send(&mut socket, Message::text(message.to_string())).await?;
            }
        }
    }
}

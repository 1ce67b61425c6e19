//! Plays the terminal service of a desktop: a terminal is a prompt that echoes lines; assumes text
//! frames and keeps nothing between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio_tungstenite::tungstenite::Message;

use super::reply::{Reply, bytes, refusal};
use super::websocket::{Gone, Socket, accept, send};

/// Nobody types more at once; the echo grows by a prompt for every line.
const TYPED_LIMIT: usize = 8 * 1024;

/// Hands out terminal numbers for one desktop.
pub(super) struct Terminals {
    user: &'static str,
    next: AtomicU32,
}

impl Terminals {
    pub(super) fn new(user: &'static str) -> Self {
        Self { user, next: AtomicU32::new(1) }
    }
}

/// Opens (`POST /terminals`), resizes (`POST /terminals/<pid>/size`) and attaches (`/terminals/<pid>`).
pub(super) async fn answer(terminals: Arc<Terminals>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let route =
        (segments.next(), segments.next().map(str::parse::<u32>), segments.next(), segments.next());
    let post = request.method() == Method::POST;
    match route {
        (Some("terminals"), None, None, None) if post => {
            let pid = terminals.next.fetch_add(1, Ordering::Relaxed);
            bytes(StatusCode::OK, "text/html; charset=utf-8", pid.to_string())
        }
        (Some("terminals"), Some(Ok(_)), Some("size"), None) if post => {
            bytes(StatusCode::OK, "text/plain", "")
        }
        (Some("terminals"), Some(Ok(pid)), None, None) => {
            let prompt = format!("{}@desktop:{pid}$ ", terminals.user);
            accept(request, move |socket| async move {
                if converse(socket, &prompt).await.is_err() {
                    tracing::debug!("demo: terminal closed");
                }
            })
        }
        _ => refusal(StatusCode::NOT_FOUND, "no such terminal"),
    }
}

async fn converse(mut socket: Socket, prompt: &str) -> Result<(), Gone> {
    send(&mut socket, Message::text(prompt)).await?;
    while let Some(received) = socket.next().await {
        if let Message::Text(text) = received.map_err(|_| Gone)? {
            if text.len() > TYPED_LIMIT {
                return Err(Gone);
            }
            send(&mut socket, Message::text(echoed(&text, prompt))).await?;
        }
    }
    Ok(())
}

/// What a terminal shows after `text` was typed: the text, and the prompt after every line.
fn echoed(text: &str, prompt: &str) -> String {
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .split('\n')
        .collect::<Vec<_>>()
        .join(&format!("\r\n{prompt}"))
}

#[cfg(test)]
mod tests {
    use super::echoed;

    #[test]
    fn every_kind_of_line_end_brings_the_prompt() {
        for typed in ["ls\r", "ls\n", "ls\r\n"] {
            assert_eq!(echoed(typed, "$ "), "ls\r\n$ ");
        }
        assert_eq!(echoed("l", "$ "), "l");
    }
}

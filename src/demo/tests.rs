//! Drives all stand-ins over real sockets; assumes the loopback addresses of the demo are local.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail loudly"
)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Mint, Options, Standins};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Numbered(AtomicU32);

impl Mint for Numbered {
    fn mint(&self, target: &str, ttl: Duration) -> Option<String> {
        Some(format!("{target}/{}/{}", ttl.as_secs(), self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

pub(super) async fn started() -> Standins {
    let options = Options { novnc: None, token_life: Duration::from_secs(77) };
    Standins::start(options, Arc::new(Numbered::default())).await.unwrap()
}

/// One exchange on a connection of its own: the status and everything after the headers.
async fn call(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: desk.test:81\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

async fn call_json(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, Value) {
    let (status, body) = call(to, method, path, headers, body).await;
    (status, serde_json::from_str(&body).unwrap())
}

async fn user_token(standins: &Standins, user: &str) -> String {
    let body = format!(r#"{{"user":"{user}"}}"#);
    let (status, answer) = call_json(standins.pyos, "POST", "/API/auth/auth", "", &body).await;
    assert_eq!(status, 200);
    format!("ABCAuthorization: Bearer {}\r\n", answer["result"]["jwt_user_token"].as_str().unwrap())
}

#[tokio::test]
async fn launching_needs_a_user_token_and_gives_a_desktop_token() {
    let standins = started().await;
    let launch = "/API/composer/launchdesktop";
    let (status, answer) = call_json(standins.pyos, "POST", launch, "", r#"{"user":"ada"}"#).await;
    assert_eq!((status, answer["status"].as_u64()), (401, Some(401)));
    let ada = user_token(&standins, "ada").await;
    let (_, answer) = call_json(standins.pyos, "POST", launch, &ada, r#"{"user":"ada"}"#).await;
    assert_eq!(answer["result"]["authorization"], "127.0.0.2/77/0");
    assert_eq!(answer["result"]["expire_in"], 77);
    assert_eq!(answer["result"]["target_ip"], "desk.test");
    assert_eq!(answer["result"]["websocketrouting"], "http_origin");
    let (_, answer) =
        call_json(standins.pyos, "POST", "/API/composer/refreshdesktoptoken", &ada, "{}").await;
    assert_eq!(answer["result"]["authorization"], "127.0.0.2/77/1");
    let (status, _) = call(standins.pyos, "POST", launch, &ada, r#"{"user":"bob"}"#).await;
    assert_eq!(status, 403);
    let (status, _) =
        call(standins.pyos, "POST", launch, "ABCAuthorization: Bearer guess\r\n", "{}").await;
    assert_eq!(status, 401);
    let (status, answer) = call_json(standins.pyos, "GET", "/API/none", "", "").await;
    assert_eq!((status, answer["status"].as_u64()), (404, Some(404)));
    let (status, _) = call(standins.pyos, "POST", "/API/auth/auth", "", r#"{"user":"eve"}"#).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn launching_tells_its_progress_as_events() {
    let standins = started().await;
    let headers = user_token(&standins, "bob").await
        + "Accept: text/event-stream\r\nOrigin: http://page.test:9\r\n";
    let begun = std::time::Instant::now();
    let (status, body) =
        call(standins.pyos, "POST", "/API/composer/launchdesktop", &headers, "{}").await;
    assert_eq!(status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let events: Vec<Value> = body
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let (last, steps) = events.split_last().unwrap();
    assert!(
        steps.len() >= 3
            && steps.iter().all(|event| event["status"] == 100 && event["message"].is_string())
    );
    assert_eq!(last["status"], 200);
    assert_eq!(last["result"]["target_ip"], "page.test");
    assert_eq!(last["result"]["authorization"], "127.0.0.3/77/0");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let standins = started().await;
    let (status, _) =
        call(standins.pyos, "POST", "/API/auth/auth", "", &"x".repeat(65 * 1024)).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn services_tell_what_they_were_asked() {
    let standins = started().await;
    let at = |port| SocketAddr::new(standins.desktops[0].address, port);
    let (_, answer) =
        call_json(at(standins.ports.spawner), "POST", "/spawner/launch?a=1", "X-Two: 2\r\n", "{}")
            .await;
    assert_eq!(
        (&answer["user"], &answer["query"], &answer["body_bytes"]),
        (&"ada".into(), &"a=1".into(), &2.into())
    );
    assert_eq!(answer["headers"]["x-two"], "2");
    let (_, answer) =
        call_json(at(standins.ports.filer), "POST", "/filer", "", &"x".repeat(300_000)).await;
    assert_eq!(answer["body_bytes"], 300_000);
    let (_, answer) =
        call_json(at(standins.ports.filer), "GET", "/filer?file=notes.txt", "", "").await;
    assert_eq!(answer["file"], "notes.txt");
    let (_, answer) =
        call_json(at(standins.ports.filer), "DELETE", "/filer", "", r#"{"file":"a"}"#).await;
    assert_eq!(answer["body"]["file"], "a");
}

#[tokio::test]
async fn speed_test_and_website_answer() {
    let standins = started().await;
    let (_, garbage) =
        call(standins.speedtest, "GET", "/speedtest/garbage.php?ckSize=1", "", "").await;
    assert!(garbage.len() > 1024 * 1024);
    let (status, _) = call(standins.speedtest, "POST", "//empty.php", "", "xyz").await;
    assert_eq!(status, 200);
    let (_, answer) = call_json(
        standins.speedtest,
        "GET",
        "/getIP.php",
        "X-Forwarded-For: 10.1.1.1, 2.2.2.2\r\n",
        "",
    )
    .await;
    assert_eq!(answer["processedString"], "10.1.1.1");
    let (status, page) = call(standins.website, "GET", "/", "", "").await;
    assert!(
        status == 200
            && page.contains("data-novnc=\"missing\"")
            && page.contains("noVNC is not installed")
    );
    let (status, _) = call(standins.website, "GET", "/novnc/../Cargo.toml", "", "").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn terminals_and_broadcast_speak() {
    let standins = started().await;
    let desktop = standins.desktops[1].address;
    let (_, pid) = call(
        SocketAddr::new(desktop, standins.ports.terminals),
        "POST",
        "/terminals?cols=80&rows=24",
        "",
        "",
    )
    .await;
    let size = format!("/terminals/{pid}/size?cols=90&rows=30");
    let (status, _) =
        call(SocketAddr::new(desktop, standins.ports.terminals), "POST", &size, "", "").await;
    assert_eq!(status, 200);
    let (mut socket, _) =
        dial(desktop, standins.ports.terminals, &format!("/terminals/{pid}?jwt"), None).await;
    let prompt = socket.next().await.unwrap().unwrap().into_text().unwrap();
    socket.send(Message::text("ls\r")).await.unwrap();
    let echo = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(echo.as_str(), format!("ls\r\n{prompt}"));
    let (mut socket, _) = dial(desktop, standins.ports.broadcast, "/broadcast", None).await;
    let hello: Value =
        serde_json::from_str(&socket.next().await.unwrap().unwrap().into_text().unwrap()).unwrap();
    assert_eq!((&hello["method"], &hello["data"]["user"]), (&"hello".into(), &"bob".into()));
    let (status, _) =
        call(SocketAddr::new(desktop, standins.ports.broadcast), "GET", "/broadcast", "", "").await;
    assert_eq!(status, 426);
}

pub(super) async fn dial(
    host: IpAddr,
    port: u16,
    path: &str,
    offer: Option<&'static str>,
) -> (WebSocketStream<TcpStream>, Option<String>) {
    let mut request = format!("ws://{host}:{port}{path}").into_client_request().unwrap();
    if let Some(offer) = offer {
        request.headers_mut().insert("sec-websocket-protocol", offer.parse().unwrap());
    }
    let stream = TcpStream::connect((host, port)).await.unwrap();
    let (socket, response) = client_async(request, stream).await.unwrap();
    let chosen = response
        .headers()
        .get("sec-websocket-protocol")
        .map(|value| value.to_str().unwrap().to_owned());
    (socket, chosen)
}

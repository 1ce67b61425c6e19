//! Every address, what protects them, and the limits, over real connections.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::telemetry::metrics::{Build as MetricsBuild, State};

const TOKEN: &str = "0123456789-operator";

#[derive(Default)]
struct Fake {
    missing: Mutex<Vec<String>>,
    level: Mutex<LogLevel>,
    faults: Mutex<Vec<String>>,
    slow: bool,
    broken: bool,
    reloads: AtomicUsize,
    drained: AtomicUsize,
}

fn tunnel(id: u64) -> Tunnel {
    let pod = if id == 3 { "10.244.0.7".to_owned() } else { format!("pod-{id}") };
    let token = Some("0123456789ab".to_owned());
    Tunnel { id, pod, token, age: 100.0 - id as f64, to_client: id, ..Tunnel::default() }
}

impl Operations for Fake {
    fn missing(&self) -> Vec<String> {
        self.missing.lock().unwrap().clone()
    }
    fn metrics(&self) -> String {
        Metrics::new(MetricsBuild::default()).exposition(State::default())
    }
    fn overview(&self) -> Overview {
        let tunnels = (1..=2000).map(tunnel).collect();
        let reloads = vec![Reload::default(); 200];
        Overview { tunnels, reloads, tunnels_open: 2000, ..Overview::default() }
    }
    fn tunnels(&self) -> Vec<Tunnel> {
        (1..=3).map(tunnel).collect()
    }
    fn tunnel(&self, id: u64) -> Option<Tunnel> {
        self.tunnels().into_iter().find(|tunnel| tunnel.id == id)
    }
    fn close(&self, id: u64) -> Closing {
        match id {
            1 => Closing::Told,
            2 => Closing::Already,
            _ => Closing::Unknown,
        }
    }
    fn revoke(&self, what: &Revocation) -> usize {
        usize::from(*what == Revocation::Pod("pod-1".to_owned()))
    }
    fn drain(&self) {
        self.drained.fetch_add(1, Relaxed);
    }
    fn level(&self) -> LogLevel {
        *self.level.lock().unwrap()
    }
    fn set_level(&self, level: LogLevel) {
        *self.level.lock().unwrap() = level;
    }
    fn config(&self) -> Vec<Setting> {
        let text = str::to_owned;
        vec![Setting { key: text("a.b"), value: text("1"), origin: text("built in") }]
    }
    async fn reload(&self) -> Result<(), Vec<String>> {
        assert!(!self.broken, "a fault of the program's");
        self.reloads.fetch_add(1, Relaxed);
        if self.slow {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let faults = self.faults.lock().unwrap().clone();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

fn start(fake: Fake, token: Option<&str>) -> (SocketAddr, Arc<Fake>) {
    let token = token.map(|token| Token::new(token).unwrap());
    let hosts = ["admin.example.org", "Port.example.org:9443", "front.example.org:443"];
    let mut listeners = Listeners::new(token, hosts.map(str::to_owned).to_vec());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listeners.tcp(listener).unwrap();
    let fake = Arc::new(fake);
    tokio::spawn(serve(listeners, Arc::clone(&fake)));
    (address, fake)
}

struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Got {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = String::new();
    let reading = stream.read_to_string(&mut all);
    timeout(Duration::from_secs(20), reading).await.expect("an end").unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    Got { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Sends a request line with some headers, and a body.
async fn send(address: SocketAddr, line: &str, headers: &str, body: &str) -> Got {
    let host = if headers.to_lowercase().contains("host:") { "" } else { "Host: 127.0.0.1\r\n" };
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{line} HTTP/1.1\r\n{host}{length}{headers}\r\n{body}");
    talk(TcpStream::connect(address).await.unwrap(), &request).await
}

const AUTH: &str = "Authorization: Bearer 0123456789-operator\r\n";
const JSON: &str =
    "Authorization: Bearer 0123456789-operator\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn every_address_answers() {
    let (address, fake) = start(Fake::default(), Some(TOKEN));
    for (line, body, status, expected) in [
        ("GET /livez", "", 200, Some(json!({"status": "alive"}))),
        ("GET /readyz", "", 200, Some(json!({"status": "ready"}))),
        ("GET /openapi.json", "", 200, None),
        ("GET /admin/overview", "", 200, None),
        ("GET /admin/tunnels", "", 200, None),
        ("GET /admin/tunnels/2", "", 200, None),
        ("GET /admin/tunnels/9", "", 404, None),
        ("GET /admin/tunnels/+1", "", 404, None),
        ("GET /admin/tunnels/", "", 404, None),
        ("DELETE /admin/tunnels/1", "", 202, Some(json!({"closed": 1}))),
        ("DELETE /admin/tunnels/2", "", 202, Some(json!({"closed": 0}))),
        ("DELETE /admin/tunnels/9", "", 404, None),
        ("POST /admin/revoke", r#"{"pod":"pod-1"}"#, 200, Some(json!({"closed": 1}))),
        ("POST /admin/revoke", r#"{"token":"0123456789ab"}"#, 200, Some(json!({"closed": 0}))),
        ("POST /admin/revoke", r#"{"token":"0123456789AB"}"#, 400, None),
        ("POST /admin/revoke", r#"{"everything":true}"#, 200, Some(json!({"closed": 0}))),
        ("POST /admin/revoke", r#"{"everything":false}"#, 400, None),
        ("POST /admin/revoke", r#"{"pod":""}"#, 400, None),
        ("POST /admin/revoke", r#"{"pod":"a","token":"0123456789ab"}"#, 400, None),
        ("POST /admin/revoke", "{}", 400, None),
        ("POST /admin/drain", "", 202, Some(json!({"draining": true}))),
        ("GET /admin/loglevel", "", 200, Some(json!({"level": "info"}))),
        ("PUT /admin/loglevel", r#"{"level":"debug"}"#, 200, Some(json!({"level": "debug"}))),
        ("PUT /admin/loglevel", r#"{"level":"trace"}"#, 400, None),
        ("POST /admin/reload", "", 200, Some(json!({"taken": true}))),
        ("GET /nothing", "", 404, None),
        ("GET //livez", "", 404, None),
        (
            "GET /admin/config",
            "",
            200,
            Some(json!({"settings": [{"key": "a.b", "value": "1", "origin": "built in"}]})),
        ),
    ] {
        let headers = if body.is_empty() { AUTH } else { JSON };
        let got = send(address, line, headers, body).await;
        assert_eq!(got.status, status, "{line}: {}", got.body);
        let value = got.json();
        expected.inspect(|expected| assert_eq!(value, *expected, "{line}"));
        assert!(got.head.contains("content-type: application/json"), "{line}");
        for header in ["nosniff", "no-store", "default-src 'none'", "frame-ancestors 'none'"] {
            assert!(got.head.contains(header), "{line}: {header}");
        }
        if status >= 400 {
            assert_eq!(value["status"], status);
        }
    }
    assert_eq!(fake.level(), LogLevel::Debug);
    assert_eq!(fake.drained.load(Relaxed), 1);
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let (address, fake) = start(Fake::default(), Some(TOKEN));
    fake.missing.lock().unwrap().push("discovery".to_owned());
    let got = send(address, "GET /readyz", "", "").await;
    assert_eq!(got.status, 503);
    assert_eq!(got.json(), json!({"status": "not ready", "missing": ["discovery"]}));
}

#[tokio::test]
async fn a_refused_reload_tells_its_faults() {
    let (address, fake) = start(Fake::default(), Some(TOKEN));
    *fake.faults.lock().unwrap() = vec!["my.toml:3: wrong".to_owned(); 1000];
    let got = send(address, "POST /admin/reload", AUTH, "").await;
    assert_eq!((got.status, got.json()["faults"].as_array().unwrap().len()), (422, 100));
}

#[tokio::test]
async fn wrong_methods_learn_the_right_ones() {
    let (address, _) = start(Fake::default(), Some(TOKEN));
    for (line, allow) in [
        ("POST /livez", "get, head"),
        ("GET /admin/drain", "post"),
        ("PUT /admin/tunnels/1", "get, head, delete"),
        ("TRACE /admin/loglevel", "get, head, put"),
        ("OPTIONS /", "get, head"),
        ("get /livez", "get, head"),
    ] {
        let got = send(address, line, AUTH, "").await;
        assert_eq!(got.status, 405, "{line}");
        assert!(got.head.contains(&format!("\r\nallow: {allow}\r\n")), "{line}: {}", got.head);
    }
    let got = send(address, "HEAD /livez", "", "").await;
    assert_eq!((got.status, got.body.as_str()), (200, ""));
}

#[tokio::test]
async fn only_probes_metrics_and_the_page_are_open() {
    let (address, fake) = start(Fake::default(), Some(TOKEN));
    for line in ["GET /livez", "GET /readyz", "GET /metrics", "GET /"] {
        assert_eq!(send(address, line, "", "").await.status, 200, "{line}");
    }
    for line in [
        "GET /admin/overview",
        "GET /admin/tunnels",
        "GET /admin/tunnels/1",
        "GET /admin/config",
        "DELETE /admin/tunnels/1",
        "POST /admin/revoke",
        "POST /admin/drain",
        "POST /admin/reload",
        "GET /admin/loglevel",
        "PUT /admin/loglevel",
        "GET /openapi.json",
    ] {
        for headers in [
            "",
            "Authorization: Bearer 0123456789-operatoR\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: Basic 0123456789-operator\r\n",
            "Authorization: Bearer 0123456789-operator\r\nAuthorization: Bearer x\r\n",
            "Cookie: token=0123456789-operator\r\n",
        ] {
            let got = send(address, line, headers, "").await;
            assert_eq!(got.status, 401, "{line} {headers}");
            assert!(got.head.contains("www-authenticate: bearer"), "{line}");
            assert!(!got.body.contains("operator"), "{line}");
        }
    }
    assert_eq!(fake.drained.load(Relaxed) + fake.reloads.load(Relaxed), 0);
}

#[tokio::test]
async fn without_a_token_loopback_is_open_and_nothing_else() {
    let (address, _) = start(Fake::default(), None);
    assert_eq!(send(address, "GET /admin/overview", "", "").await.status, 200);
    let mut listeners = Listeners::new(None, vec![]);
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listeners.tcp(listener).unwrap();
    tokio::spawn(serve(listeners, Arc::new(Fake::default())));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(send(address, "GET /admin/overview", AUTH, "").await.status, 403);
    assert_eq!(send(address, "GET /metrics", "", "").await.status, 200);
}

#[tokio::test]
async fn the_socket_file_is_for_its_owner_and_needs_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut listeners = Listeners::new(Some(Token::new(TOKEN).unwrap()), vec![]);
    listeners.unix(&path).unwrap();
    // An earlier one is replaced.
    listeners.unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let serving = tokio::spawn(serve(listeners, Arc::new(Fake::default())));
    let stream = UnixStream::connect(&path).await.unwrap();
    let got = talk(stream, "GET /admin/overview HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(got.status, 200);
    serving.abort();
    drop(serving.await);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let refused = Listeners::new(None, vec![]).unix(&path).unwrap_err();
    assert!(matches!(refused, SocketError::Taken(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn names_that_were_rebound_are_refused() {
    let (address, _) = start(Fake::default(), None);
    for host in [
        "127.0.0.1",
        "127.0.0.1:9",
        "[::1]:80",
        "localhost:1",
        "LocalHost",
        "10.1.2.3",
        "admin.example.org:9090",
        "port.example.org:9443",
        "front.example.org",
        "front.example.org:443",
    ] {
        let got = send(address, "GET /livez", &format!("Host: {host}\r\n"), "").await;
        assert_eq!(got.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil@127.0.0.1",
        "",
        "[evil]",
        "localhost.evil",
        "port.example.org",
        "port.example.org:944",
        "front.example.org:9443",
    ] {
        let got = send(address, "GET /livez", &format!("Host: {host}\r\n"), "").await;
        assert!([421, 400].contains(&got.status), "{host}: {}", got.status);
    }
    let got = send(address, "GET /livez", "X: host:\r\n", "").await;
    assert_eq!(got.status, 421);
    let got = send(address, "GET /livez", "Host: 127.0.0.1\r\nHost: evil.example\r\n", "").await;
    assert_eq!(got.status, 421);
}

#[tokio::test]
async fn other_sites_are_refused() {
    let (address, fake) = start(Fake::default(), None);
    for headers in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n",
        "Origin: http://evil.example\r\n",
        "Origin: http://127.0.0.1:81\r\n",
        "Origin: null\r\n",
    ] {
        for line in ["POST /admin/drain", "GET /admin/overview"] {
            assert_eq!(send(address, line, headers, "").await.status, 403, "{line} {headers}");
        }
    }
    // A form's types, with and without a body.
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let headers = format!("Content-Type: {media}\r\n");
        assert_eq!(send(address, "POST /admin/drain", &headers, "").await.status, 415);
        let body = r#"{"level":"debug"}"#;
        assert_eq!(send(address, "PUT /admin/loglevel", &headers, body).await.status, 415);
    }
    assert_eq!(send(address, "PUT /admin/loglevel", "", "{}").await.status, 415);
    assert_eq!(fake.drained.load(Relaxed), 0);
    for headers in [
        "Sec-Fetch-Site: same-origin\r\nOrigin: http://127.0.0.1\r\n",
        "Sec-Fetch-Site: none\r\n",
        "Content-Type: Application/JSON; charset=utf-8\r\n",
    ] {
        assert_eq!(send(address, "POST /admin/drain", headers, "").await.status, 202, "{headers}");
    }
    // A link from elsewhere opens the page.
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    assert_eq!(send(address, "GET /", link, "").await.status, 200);
}

#[tokio::test]
async fn lists_are_sorted_and_bounded() {
    let (address, _) = start(Fake::default(), None);
    for (query, first) in [("", 1), ("?sort=bytes", 3), ("?sort=age&limit=1", 1), ("?sort=pod", 3)]
    {
        let got = send(address, &format!("GET /admin/tunnels{query}"), "", "").await.json();
        assert_eq!(
            (&got["total"], &got["tunnels"][0]["id"]),
            (&json!(3), &json!(first)),
            "{query}"
        );
    }
    let got = send(address, "GET /admin/tunnels?limit=1", "", "").await.json();
    assert_eq!(got["tunnels"].as_array().unwrap().len(), 1);
    for query in [
        "limit=0",
        "limit=10001",
        "limit=-1",
        "limit=+1",
        "limit=a",
        "sort=x",
        "x=1",
        "limit",
        "limit=1&limit=1",
    ] {
        let got = send(address, &format!("GET /admin/tunnels?{query}"), "", "").await;
        assert_eq!(got.status, 400, "{query}");
    }
    let overview = send(address, "GET /admin/overview", "", "").await.json();
    assert_eq!(overview["tunnels"].as_array().unwrap().len(), 500);
    assert_eq!(overview["tunnels"][0]["id"], 2000);
    assert_eq!(overview["reloads"].as_array().unwrap().len(), 50);
}

#[tokio::test]
async fn an_address_is_no_label() {
    let (address, _) = start(Fake::default(), None);
    let got = send(address, "GET /admin/tunnels", "", "").await;
    assert!(!got.body.contains("10.244."), "{}", got.body);
    assert_eq!(got.json()["tunnels"][2]["pod"], "unnamed");
}

#[tokio::test]
async fn metrics_have_their_type() {
    let (address, _) = start(Fake::default(), Some(TOKEN));
    let got = send(address, "GET /metrics", "", "").await;
    assert!(got.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(got.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_page_allows_its_own_script_only() {
    let (address, _) = start(Fake::default(), Some(TOKEN));
    let got = send(address, "GET /", "", "").await;
    assert!(got.head.contains("content-type: text/html; charset=utf-8"));
    for part in [
        "script-src 'sha256-",
        "style-src 'sha256-",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ] {
        assert!(got.head.contains(part), "{part}");
    }
    assert!(!got.head.contains("unsafe"));
    assert!(!got.head.contains("set-cookie"));
    for forbidden in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "document.cookie",
        "localStorage",
        " style=\"",
        " onclick=",
    ] {
        assert!(!got.body.contains(forbidden), "{forbidden}");
    }
    assert!(!got.body.replace("http://www.w3.org/2000/svg", "").contains("://"), "loads nothing");
    assert_eq!((got.body.matches("<script").count(), got.body.matches("<style").count()), (1, 1));
}

#[tokio::test]
async fn the_description_names_every_address() {
    let (address, _) = start(Fake::default(), None);
    let got = send(address, "GET /openapi.json", "", "").await.json();
    let paths = got["paths"].as_object().unwrap();
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            let line = format!("{} {}", method.to_uppercase(), path.replace("{id}", "1"));
            let status = send(address, &line, "", "").await.status;
            assert!(![404, 405].contains(&status), "{line}");
        }
    }
    assert_eq!(paths.len(), 13);
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let (address, _) = start(Fake::default(), Some(TOKEN));
    for size in [64 * 1024 + 1, 900_000] {
        let got = send(address, "PUT /admin/loglevel", JSON, &" ".repeat(size)).await;
        assert_eq!(got.status, 413);
    }
    let chunked = format!("{JSON}Transfer-Encoding: chunked\r\n");
    let chunk = format!("20000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x20000));
    let request =
        format!("PUT /admin/loglevel HTTP/1.1\r\nHost: localhost\r\n{chunked}\r\n{chunk}");
    let got = talk(TcpStream::connect(address).await.unwrap(), &request).await;
    assert_eq!(got.status, 413);
    let head =
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let got = talk(TcpStream::connect(address).await.unwrap(), &head).await;
    assert_eq!(got.status, 431);
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let (address, _) = start(Fake { slow: true, ..Fake::default() }, Some(TOKEN));
    let begin = Instant::now();
    let silent = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut all = Vec::new();
        drop(timeout(Duration::from_secs(8), stream.read_to_end(&mut all)).await.expect("cut"));
        assert!(begin.elapsed() >= Duration::from_secs(4));
    };
    let head = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..100 {
            if stream.write_all(b"GET").await.is_err() || begin.elapsed() > Duration::from_secs(8) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(7));
    };
    let body = async {
        let request = format!(
            "PUT /admin/loglevel HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 9\r\n\r\n{{"
        );
        let got = talk(TcpStream::connect(address).await.unwrap(), &request).await;
        assert_eq!(got.status, 408);
    };
    let operation = async {
        assert_eq!(send(address, "POST /admin/reload", AUTH, "").await.status, 504);
    };
    tokio::join!(silent, head, body, operation);
    // The others are served meanwhile and after.
    assert_eq!(send(address, "GET /livez", "", "").await.status, 200);
}

#[tokio::test]
async fn one_client_has_a_bound_on_connections() {
    let (address, _) = start(Fake::default(), Some(TOKEN));
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await);
    let mut all = Vec::new();
    drop(stream.read_to_end(&mut all).await);
    assert!(all.is_empty());
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(send(address, "GET /livez", "", "").await.status, 200);
}

#[tokio::test]
async fn a_fault_ends_one_connection_and_nothing_else() {
    let (address, _) = start(Fake { broken: true, ..Fake::default() }, None);
    for _ in 0..70 {
        assert_eq!(send(address, "POST /admin/reload", "", "").await.status, 0);
    }
    assert_eq!(send(address, "GET /livez", "", "").await.status, 200);
}

#[test]
fn tokens_have_to_be_fit() {
    assert!(Token::new(" 0123456789abcdef\n").unwrap().is(b"0123456789abcdef"));
    assert_eq!(Token::new("short").unwrap_err(), TokenError::Length);
    assert_eq!(Token::new("0123456789 abcdef").unwrap_err(), TokenError::Alphabet);
    assert_eq!(Token::new(&"a".repeat(257)).unwrap_err(), TokenError::Length);
    let token = Token::new("0123456789abcdef").unwrap();
    assert!(!format!("{token:?}").contains('0'));
    let clone = token.clone();
    assert_eq!(token.replace("short").unwrap_err(), TokenError::Length);
    assert!(clone.is(b"0123456789abcdef"));
    token.replace("another-0123456789").unwrap();
    assert!(clone.is(b"another-0123456789") && !clone.is(b"0123456789abcdef"));
}

//! A gateway with everything around it: two pods, pyos, a website, a speed test.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio_tungstenite::tungstenite;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::{Client, Exchange, Gateway, Origin, Response, SOON, raw, tokens};

/// The two users' pods.
pub(crate) const PODS: [&str; 2] = ["127.0.0.2", "127.0.0.3"];

/// A gateway and its upstreams. Every service of a pod is at the same port.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) pods: [Origin; 2],
    pub(crate) pyos: Origin,
    pub(crate) website: Origin,
    pub(crate) speedtest: Origin,
    pub(crate) port: u16,
}

impl Site {
    /// Upstreams that answer 200 with their own name.
    pub(crate) fn start() -> Self {
        Self::with("", named)
    }

    /// The same with more configuration.
    pub(crate) fn configured(toml: &str) -> Self {
        Self::with(toml, named)
    }

    /// The same with a handler for every upstream.
    pub(crate) fn serving(handler: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::configured_serving("", handler)
    }

    /// A handler for every upstream, and more configuration.
    pub(crate) fn configured_serving(
        toml: &str,
        handler: impl Fn(&mut Exchange) + Send + Sync + 'static,
    ) -> Self {
        let handler: Arc<Handler> = Arc::new(handler);
        Self::with(toml, move |_| Arc::clone(&handler))
    }

    fn with(toml: &str, handler: impl FnOnce(&'static str) -> Arc<Handler> + Clone) -> Self {
        let (listeners, port) = pod_listeners();
        let [first, second] = listeners;
        let make = |name: &'static str| {
            let handler = handler.clone()(name);
            move |exchange: &mut Exchange| handler(exchange)
        };
        let pods = [Origin::on(first, make("pod a")), Origin::on(second, make("pod b"))];
        let pyos = Origin::start(make("pyos"));
        let website = Origin::start(make("website"));
        let speedtest = Origin::start(make("speedtest"));
        let mut config: toml::Table = base(port, &pyos, &website, &speedtest).parse().unwrap();
        merge(&mut config, toml.parse().unwrap());
        let gateway = Gateway::start(&config.to_string());
        Self { gateway, pods, pyos, website, speedtest, port }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// `GET` with these header lines, each ended by CRLF.
    pub(crate) fn get(&self, target: &str, headers: &str) -> Response {
        self.ask("GET", target, headers)
    }

    /// A request without a body.
    pub(crate) fn ask(&self, method: &str, target: &str, headers: &str) -> Response {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: desk.example\r\n{headers}\r\n");
        raw(self.address(), head).unwrap()
    }

    /// A WebSocket on this target, with the whole response to the handshake.
    pub(crate) fn websocket(&self, target: &str) -> WebSocket<TcpStream> {
        self.websocket_with(target, &[]).0
    }

    pub(crate) fn websocket_with(
        &self,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> (WebSocket<TcpStream>, tungstenite::handshake::client::Response) {
        let mut request = format!("ws://desk.example{target}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = self.client().from.into_inner();
        tungstenite::client::client_with_config(request, stream, Some(roomy())).unwrap()
    }

    /// The head of an upgrade request.
    pub(crate) fn upgrade(target: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: desk.example\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }

    /// The target of the first pod's screen.
    pub(crate) fn screen() -> String {
        format!("/websockify?{}", tokens::valid(PODS[0]))
    }

    /// The header line with a good token of the first pod.
    pub(crate) fn bearer() -> String {
        format!("ABCAuthorization: Bearer {}\r\n", tokens::valid(PODS[0]))
    }
}

type Handler = dyn Fn(&mut Exchange) + Send + Sync;

fn named(name: &'static str) -> Arc<Handler> {
    Arc::new(move |exchange| {
        if exchange.body().is_ok() {
            let body = if exchange.head.starts_with("HEAD ") { "" } else { name };
            exchange.answer("200 OK", "", body);
        }
    })
}

/// Listeners at one port of both pods, a port that `/container` may reach.
pub(crate) fn pod_listeners() -> ([TcpListener; 2], u16) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..2000 {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        let seed = u16::try_from(std::process::id() % 2900).unwrap();
        let port = 7000 + (seed + step) % 2900;
        if let (Ok(first), Ok(second)) =
            (TcpListener::bind((PODS[0], port)), TcpListener::bind((PODS[1], port)))
        {
            return ([first, second], port);
        }
    }
    panic!("no port is free on both pods");
}

fn base(port: u16, pyos: &Origin, website: &Origin, speedtest: &Origin) -> String {
    let names = ["vnc", "terminals", "printerfiler", "filer", "broadcast", "spawner"];
    let ports = names.map(|name| format!("{name} = {port}")).join(", ");
    let upstream = |name: &str, origin: &Origin| {
        let address = origin.address();
        let (host, port) = (address.ip(), address.port());
        format!("[upstreams.{name}]\nhost = \"{host}\"\nport = {port}\n")
    };
    format!(
        "[desktop]\nports = {{ {ports} }}\n{}{}{}",
        upstream("pyos", pyos),
        upstream("website", website),
        upstream("speedtest", speedtest)
    )
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Room for the largest messages of the tests.
fn roomy() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20))
}

/// Accepts an upgrade by hand and goes on as a WebSocket server.
pub(crate) fn websocket(exchange: &Exchange, headers: &str) -> WebSocket<TcpStream> {
    let key = exchange.header("sec-websocket-key").unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{headers}\r\n"
    );
    let mut stream = exchange.stream().try_clone().unwrap();
    drop(stream.write_all(head.as_bytes()));
    drop(stream.set_read_timeout(Some(SOON)));
    let early = exchange.from.buffer().to_vec();
    WebSocket::from_partially_read(stream, early, Role::Server, Some(roomy()))
}

/// A pod that sends every message back, until the client closes.
pub(crate) fn echo(exchange: &mut Exchange) {
    let mut socket = websocket(exchange, "");
    while let Ok(message) = socket.read() {
        if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
            break;
        }
    }
    exchange.close();
}

//! The browser's side: tunnels through a proxy.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::message::{Kind, Message, Receiver, Sender, Side};
use crate::support::{HOST, Outcome};
use crate::upstream::{INPUT, KEY, Order};

/// Handshakes under way at once, when many tunnels are opened.
const AT_ONCE: usize = 64;

/// For one tunnel to open.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// How much a client reads at once when a picture comes.
const WIDE: usize = 256 * 1024;

/// What carries a tunnel: TCP, or TLS over it.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

pub(crate) type Wire = Box<dyn Duplex>;

/// The way into a proxy.
#[derive(Clone)]
pub(crate) struct Door {
    /// To connect to, in turn.
    pub(crate) addresses: Arc<[SocketAddr]>,
    pub(crate) tls: Option<TlsConnector>,
    /// Paths to ask for, in turn.
    pub(crate) paths: Arc<[String]>,
    /// Both sides begin with something that is no WebSocket.
    pub(crate) garbage: bool,
}

/// An open tunnel.
pub(crate) struct Tunnel {
    pub(crate) from: Receiver<ReadHalf<Wire>>,
    pub(crate) to: Sender<WriteHalf<Wire>>,
}

impl Tunnel {
    /// Opens a tunnel and has it carry one message to the pod and back.
    async fn open(door: Door, index: usize) -> Outcome<Self> {
        let wire = TcpStream::connect(door.addresses[index % door.addresses.len()]).await?;
        let mut tunnel = Self::shake_hands(wire, &door, index).await?;
        if door.garbage {
            tunnel.to.garbage().await?;
            tunnel.from.next().await?;
        }
        tunnel.echo(&[0x5a; INPUT]).await?;
        Ok(tunnel)
    }

    async fn shake_hands(wire: TcpStream, door: &Door, index: usize) -> Outcome<Self> {
        wire.set_nodelay(true)?;
        let wire: Wire = match &door.tls {
            Some(tls) => Box::new(tls.connect(ServerName::try_from(HOST)?, wire).await?),
            None => Box::new(wire),
        };
        let (from, to) = tokio::io::split(wire);
        let mut from = Receiver::new(from, Side::Server);
        let mut to = Sender::new(to, Side::Client);
        let path = &door.paths[index % door.paths.len()];
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: binary\r\n\r\n"
        );
        to.raw(request.as_bytes()).await?;
        let head = from.head().await?;
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        answer.parse(&head)?;
        match answer.code {
            Some(101) => Ok(Self { from, to }),
            code => Err(format!("the proxy answered {}", code.unwrap_or_default()).into()),
        }
    }

    /// Sends a message and waits for it to come back.
    pub(crate) async fn echo(&mut self, payload: &[u8]) -> Outcome<()> {
        self.to.binary(payload).await?;
        let message = self.next().await?;
        if message.kind == Kind::Binary && message.payload == payload {
            return Ok(());
        }
        Err("an echo that is not what was sent".into())
    }

    /// The next message; a proxy's pings are answered.
    pub(crate) async fn next(&mut self) -> Outcome<Message> {
        loop {
            let message = self.from.next().await?;
            match message.kind {
                Kind::Ping => self.to.pong(&message.payload).await?,
                Kind::Pong => {}
                Kind::Text | Kind::Binary | Kind::Garbage => return Ok(message),
            }
        }
    }

    /// Stays open, idle, until told to go on.
    pub(crate) async fn idle(mut self, mut go_on: watch::Receiver<()>) -> Outcome<Self> {
        loop {
            let message = tokio::select! {
                _ = go_on.changed() => return Ok(self),
                message = self.from.next() => message?,
            };
            if message.kind == Kind::Ping {
                self.to.pong(&message.payload).await?;
            }
        }
    }

    /// Tells the pod what to do, and makes ready for a picture.
    pub(crate) async fn order(&mut self, order: Order) -> Outcome<()> {
        self.from.at_once = WIDE;
        self.to.text(&order.to_string()).await
    }
}

/// Opens many tunnels and hands each over, until all are open or one fails.
pub(crate) async fn open(door: &Door, count: usize, mut opened: impl FnMut(Tunnel)) -> Outcome<()> {
    let mut opening = JoinSet::new();
    let mut next = 0;
    loop {
        while opening.len() < AT_ONCE && next < count {
            let open = Tunnel::open(door.clone(), next);
            opening.spawn(async move {
                timeout(OPEN_WITHIN, open).await.map_err(|_| "a tunnel did not open in time")?
            });
            next += 1;
        }
        match opening.join_next().await {
            None => return Ok(()),
            Some(tunnel) => opened(tunnel??),
        }
    }
}

/// Opens many tunnels for a load.
pub(crate) async fn open_all(door: &Door, count: usize) -> Outcome<Vec<Tunnel>> {
    let mut tunnels = Vec::with_capacity(count);
    open(door, count, |tunnel| tunnels.push(tunnel)).await?;
    Ok(tunnels)
}

/// Runs the same on every tunnel at once.
pub(crate) async fn on_all<T, F>(
    tunnels: Vec<Tunnel>,
    run: impl Fn(Tunnel, u32) -> F,
) -> Outcome<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    let mut running: JoinSet<_> = (0..).zip(tunnels).map(|(i, tunnel)| run(tunnel, i)).collect();
    let mut results = Vec::with_capacity(running.len());
    while let Some(result) = running.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

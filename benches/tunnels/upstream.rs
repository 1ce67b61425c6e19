//! The pod behind every proxy: a WebSocket server, in a process of its own, that does as it is told.
//!
//! A binary message comes back as it is. A text message is an [`Order`].

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::message::{Kind, Receiver, Sender, Side};
use crate::support::Outcome;
use crate::support::process::end_with_input;

/// The key of RFC 6455 section 1.3 and its answer: all clients here use it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Pictures and inputs of one desktop.
pub(crate) const PICTURES_PER_SECOND: u32 = 30;
pub(crate) const INPUTS_PER_SECOND: u32 = 20;
pub(crate) const INPUT: usize = 64;

/// One message of a fast picture, and how many of them come at each step: 105 MB/s.
pub(crate) const FAST_PICTURE: usize = 64 * 1024;
const FAST_MESSAGES: usize = 8;
const FAST_STEP: Duration = Duration::from_millis(5);

/// What a pod sends when an order is carried out.
pub(crate) const DONE: &[u8] = b"done";

static PAYLOAD: [u8; FAST_PICTURE] = [0xa5; FAST_PICTURE];

/// What a client wants, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// So many messages of this size, as fast as they go.
    Bulk { size: usize, count: u64 },
    /// A desktop for so many seconds; the stream's index chooses its sizes and its phase.
    Desktop { seconds: u32, index: u32 },
    /// A fast picture for so long, while binary messages still come back.
    Picture { millis: u64 },
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bulk { size, count } => write!(f, "bulk {size} {count}"),
            Self::Desktop { seconds, index } => write!(f, "desktop {seconds} {index}"),
            Self::Picture { millis } => write!(f, "picture {millis}"),
        }
    }
}

impl FromStr for Order {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(text: &str) -> Outcome<Self> {
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["bulk", size, count] => Ok(Self::Bulk { size: size.parse()?, count: count.parse()? }),
            ["desktop", seconds, index] => {
                Ok(Self::Desktop { seconds: seconds.parse()?, index: index.parse()? })
            }
            ["picture", millis] => Ok(Self::Picture { millis: millis.parse()? }),
            _ => Err(format!("not an order: {text}").into()),
        }
    }
}

/// The size of a picture of a desktop: 8 to 64 KiB, without a pattern but always the same.
pub(crate) fn picture_size(index: u32, picture: u32) -> usize {
    let mixed = (index << 16 ^ picture).wrapping_mul(0x9e37_79b1).rotate_left(13);
    8 * 1024 + (mixed.wrapping_mul(0x85eb_ca6b) >> 8) as usize % (56 * 1024)
}

/// The address of one of the pods; they share a port.
pub(crate) fn address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, 0, u8::try_from(pod + 1).unwrap_or(u8::MAX))
}

/// Serves as so many pods until standard input ends, which it does with the process that asked.
pub(crate) fn main(pods: usize) -> Outcome<()> {
    end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listeners = listen(pods).await?;
        println!("{}", listeners[0].local_addr()?.port());
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener));
        }
        match accepting.join_next().await {
            Some(ended) => ended?,
            None => Ok(()),
        }
    })
}

/// The same port at every pod's address.
async fn listen(pods: usize) -> Outcome<Vec<TcpListener>> {
    'port: loop {
        let first = TcpListener::bind((address(0), 0)).await?;
        let port = first.local_addr()?.port();
        let mut all = vec![first];
        for pod in 1..pods {
            match TcpListener::bind(SocketAddr::from((address(pod), port))).await {
                Ok(listener) => all.push(listener),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue 'port,
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(all);
    }
}

async fn accept(listener: TcpListener) -> Outcome<()> {
    loop {
        match listener.accept().await {
            // A connection that breaks is the client's to report.
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            // No descriptors left: those who wait shall see that.
            Err(error) => {
                eprintln!("upstream: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let (from, to) = stream.into_split();
    let mut from = Receiver::new(from, Side::Client);
    let mut to = Sender::new(to, Side::Server);
    let head = from.head().await?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(&head)?;
    let key = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("sec-websocket-key"));
    if key.is_none_or(|key| key.value != KEY.as_bytes()) {
        return to.raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    }
    drop(head);
    to.raw(ANSWER.as_bytes()).await?;
    loop {
        let message = from.next().await?;
        match message.kind {
            Kind::Binary => to.binary(&message.payload).await?,
            Kind::Ping => to.pong(&message.payload).await?,
            Kind::Pong => {}
            Kind::Garbage => to.garbage().await?,
            Kind::Text => {
                let order = std::str::from_utf8(&message.payload)?.parse()?;
                obey(order, &mut from, &mut to).await?;
            }
        }
    }
}

async fn obey<R, W>(order: Order, from: &mut Receiver<R>, to: &mut Sender<W>) -> Outcome<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match order {
        Order::Bulk { size, count } => {
            let payload = PAYLOAD.get(..size).ok_or("too large a message")?;
            for _ in 0..count {
                to.binary(payload).await?;
            }
        }
        Order::Desktop { seconds, index } => {
            let pictures = async {
                let between = Duration::from_secs(1) / PICTURES_PER_SECOND;
                let start = Instant::now() + between.mul_f64(f64::from(index % 64) / 64.0);
                for picture in 0..seconds * PICTURES_PER_SECOND {
                    sleep_until(start + between * picture).await;
                    to.binary(&PAYLOAD[..picture_size(index, picture)]).await?;
                }
                Outcome::Ok(())
            };
            let inputs = async {
                for _ in 0..seconds * INPUTS_PER_SECOND {
                    from.next().await?;
                }
                Outcome::Ok(())
            };
            tokio::try_join!(pictures, inputs)?;
        }
        Order::Picture { millis } => {
            let end = Instant::now() + Duration::from_millis(millis);
            let mut step = interval(FAST_STEP);
            step.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while Instant::now() < end {
                tokio::select! {
                    biased;
                    input = from.next() => to.binary(&input?.payload).await?,
                    _ = step.tick() => for _ in 0..FAST_MESSAGES {
                        to.binary(&PAYLOAD).await?;
                        while let Some(input) = from.next().now_or_never() {
                            to.binary(&input?.payload).await?;
                        }
                    }
                }
            }
        }
    }
    to.text(std::str::from_utf8(DONE)?).await
}

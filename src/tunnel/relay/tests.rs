use super::*;
use crate::tunnel::direction::LARGE;
use crate::tunnel::registry::{Info, Registry};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

mod anything;
mod ends;
mod moving;
mod sharing;
mod silence;

/// Takes everything at once. tokio's own would make its writer yield now and then.
struct Taker;

impl AsyncWrite for Taker {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// No pings: for what is not about them.
const QUIET: Limits = Limits { idle: seconds(3600), ping: None };

/// A running relay, and the far ends of its client and pod.
struct Rig {
    client: DuplexStream,
    pod: DuplexStream,
    registry: Registry,
    begun: Instant,
    relay: JoinHandle<Outcome>,
}

fn info(deadline: Option<Instant>) -> Info {
    let grace = Duration::ZERO;
    let (route, pod) = ("vnc".into(), "pod".into());
    Info { route, token: None, pod, uid: None, client: None, deadline, grace }
}

/// What a tunnel was; whoever may not have heard all is dropped.
fn relay<C, P>(
    client: C,
    pod: P,
    early: Early,
    tunnel: Tunnel,
    limits: Limits,
) -> impl Future<Output = Outcome>
where
    C: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    let relay = super::relay(client, pod, early, tunnel, limits);
    async { relay.await.0 }
}

fn start_with(early: Early, limits: Limits, deadline: Option<Instant>) -> Rig {
    let (client, near_client) = duplex(64);
    let (pod, near_pod) = duplex(64);
    let registry = Registry::default();
    let tunnel = registry.open(info(deadline));
    let relay = tokio::spawn(relay(near_client, near_pod, early, tunnel, limits));
    Rig { client, pod, registry, begun: Instant::now(), relay }
}

fn start(limits: Limits) -> Rig {
    start_with(Early::default(), limits, None)
}

/// A frame, masked as clients do.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut out = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

/// Reads one short frame: its first byte and its payload, unmasked.
async fn read_frame(side: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    side.read_exact(&mut head).await?;
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        side.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    side.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((head[0], payload))
}

async fn read_to_end(side: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    side.read_to_end(&mut all).await.unwrap();
    all
}

/// Nothing arrives for a while.
async fn assert_silent(side: &mut DuplexStream, time: Duration) {
    let mut byte = [0];
    assert!(timeout(time, side.read(&mut byte)).await.is_err(), "{byte:?} arrived");
}

/// Reads on, and answers pings as browsers do; gives back what else arrived.
fn browser(mut side: DuplexStream) -> JoinHandle<Vec<(u8, Vec<u8>)>> {
    tokio::spawn(async move {
        let mut others = Vec::new();
        while let Ok((first, payload)) = read_frame(&mut side).await {
            match first {
                0x89 => side.write_all(&masked(0x8a, &payload)).await.unwrap(),
                _ => others.push((first, payload)),
            }
        }
        others
    })
}

//! Moves bytes both ways between a client and a pod until both have ended.
//!
//! One task, driven by readiness. A direction reads only when everything it read before was taken
//! by the other side, so a side that stalls costs one buffer and delays nobody else. Idle tunnels
//! hold no buffer.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

/// First size of a buffer, and the size it returns to after a pause.
const SMALL: usize = 16 * 1024;

/// Largest size of a buffer, and so the most that is held for a side that stalls.
const LARGE: usize = 256 * 1024;

/// After one side has ended, the other may be silent for this long.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed first and the pod followed.
    ClientClose,
    /// The client's connection broke.
    ClientLost,
    /// One side closed and the other did not follow in time.
    HalfClosed,
    /// Nothing moved for the route's idle time.
    Idle,
    /// The pod closed first and the client followed.
    PodClose,
    /// The pod's connection broke.
    PodLost,
}

impl End {
    /// Fixed name for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::ClientLost => "client_lost",
            Self::HalfClosed => "half_closed",
            Self::Idle => "idle",
            Self::PodClose => "pod_close",
            Self::PodLost => "pod_lost",
        }
    }
}

/// What a tunnel was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes from the client to the pod.
    pub to_pod: u64,
    /// Bytes from the pod to the client.
    pub to_client: u64,
    /// How it ended.
    pub end: End,
}

/// Bytes that arrived together with the heads.
#[derive(Debug, Default)]
pub struct Early {
    /// From the client.
    pub to_pod: Bytes,
    /// From the pod.
    pub to_client: Bytes,
}

/// Which of the two sides an I/O error came from.
enum Broken {
    Reader,
    Writer,
}

/// One direction of a tunnel.
struct Direction {
    buffer: BytesMut,
    /// Size of the next buffer.
    size: usize,
    /// The reader has ended.
    ended: bool,
    /// Something was written since the last flush.
    unflushed: bool,
    moved: u64,
}

impl Direction {
    fn new(early: Bytes) -> Self {
        let buffer = BytesMut::from(early);
        Self { buffer, size: SMALL, ended: false, unflushed: false, moved: 0 }
    }

    /// Moves what can be moved now; ready when the reader's end was passed on.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        loop {
            while !self.buffer.is_empty() {
                let written = ready!(writer.as_mut().poll_write(cx, &self.buffer));
                let written = written.map_err(|_| Broken::Writer)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::Writer));
                }
                self.buffer.advance(written);
                self.moved += written as u64;
                self.unflushed = true;
            }
            if self.ended {
                return writer.as_mut().poll_shutdown(cx).map_err(|_| Broken::Writer);
            }
            match self.poll_fill(cx, reader.as_mut()) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reader)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(writer.as_mut().poll_flush(cx)).map_err(|_| Broken::Writer)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once into an empty buffer; grows the next one while reads fill it.
    fn poll_fill<R: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        reader: Pin<&mut R>,
    ) -> Poll<io::Result<()>> {
        self.buffer.reserve(self.size);
        match poll_read_buf(reader, cx, &mut self.buffer) {
            Poll::Ready(Ok(0)) => self.ended = true,
            Poll::Ready(Ok(read)) if read >= self.size => self.size = (self.size * 4).min(LARGE),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.buffer = BytesMut::new();
                self.size = SMALL;
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Relays until both sides have ended, one breaks, or nothing moves for `idle`.
pub async fn relay<C, P>(client: C, pod: P, early: Early, idle: Duration) -> Outcome
where
    C: AsyncRead + AsyncWrite,
    P: AsyncRead + AsyncWrite,
{
    let mut client = pin!(client);
    let mut pod = pin!(pod);
    let mut up = Direction::new(early.to_pod);
    let mut down = Direction::new(early.to_client);
    let mut clock = pin!(Clock::new(idle));
    let end = poll_fn(|cx| {
        let before = up.moved + down.moved;
        let to_pod = up.poll(cx, client.as_mut(), pod.as_mut());
        let to_client = down.poll(cx, pod.as_mut(), client.as_mut());
        let end = match (to_pod, to_client) {
            (Poll::Ready(Err(Broken::Reader)), _) | (_, Poll::Ready(Err(Broken::Writer))) => {
                End::ClientLost
            }
            (Poll::Ready(Err(Broken::Writer)), _) | (_, Poll::Ready(Err(Broken::Reader))) => {
                End::PodLost
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => clock.first_end(),
            (to_pod, to_client) => {
                let half = match (to_pod.is_ready(), to_client.is_ready()) {
                    (true, _) => Some(End::ClientClose),
                    (_, true) => Some(End::PodClose),
                    (false, false) => None,
                };
                let moved = up.moved + down.moved != before;
                return clock.as_mut().poll(cx, moved, half);
            }
        };
        Poll::Ready(end)
    })
    .await;
    Outcome { to_pod: up.moved, to_client: down.moved, end }
}

/// Limits a tunnel's silence. Activity only notes the time; the timer is moved when it fires.
struct Clock {
    sleep: Pin<Box<Sleep>>,
    idle: Duration,
    last: Instant,
    first: Option<End>,
}

impl Clock {
    fn new(idle: Duration) -> Self {
        let now = Instant::now();
        Self { sleep: Box::pin(sleep_until(now + idle)), idle, last: now, first: None }
    }

    /// Which side closed first, once both have.
    fn first_end(&self) -> End {
        self.first.unwrap_or(End::ClientClose)
    }

    /// Ready when the limit was passed.
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        moved: bool,
        half: Option<End>,
    ) -> Poll<End> {
        if moved {
            self.last = Instant::now();
        }
        if self.first.is_none() && half.is_some() {
            self.first = half;
            self.last = Instant::now();
            let deadline = self.last + HALF_CLOSED.min(self.idle);
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let limit = if self.first.is_some() { HALF_CLOSED.min(self.idle) } else { self.idle };
            let deadline = self.last + limit;
            if Instant::now() >= deadline {
                return Poll::Ready(if self.first.is_some() { End::HalfClosed } else { End::Idle });
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests;

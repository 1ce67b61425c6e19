//! One TCP connection, with TLS or without: what HTTP and the tunnel relay read and write.
//!
//! A connection costs no more than its socket and a timer while it is idle, and a tunnel gets the bare stream back.
//! pingora's HTTP/2 works on it, too, since it implements pingora's `IO`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use crate::admission::Seat;

mod for_pingora;
mod socket_policy;
mod wire;

pub use socket_policy::SocketPolicy;
pub use wire::{COPY, Wire};

/// Most bytes that wait for a flush, or until somebody waits for what the other side says: a head and a
/// small body leave in one packet, and nothing that a slow upstream sent is held back.
const UNSENT: usize = 1460;

/// Looks at what a connection reads before its reader does.
pub trait Inspect: Send + Sync {
    /// Looks at the next bytes.
    ///
    /// # Errors
    /// What the reader gets instead of them, if they are not what they should be.
    fn inspect(&mut self, read: &[u8]) -> io::Result<()>;
}

/// Who is at the other end of a client's connection.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its address, or the one for which a proxy speaks.
    pub address: SocketAddr,
    /// Whether it speaks TLS with us.
    pub tls: bool,
    /// What upstreams are told of the certificate that it has shown.
    pub certificate: Option<HeaderValue>,
}

/// A connection whose small writes leave together.
pub struct Transport {
    wire: Wire,
    inspector: Option<Box<dyn Inspect>>,
    remote: Remote,
    /// Written, and not yet given to the system.
    unsent: BytesMut,
    /// What a client's connection is counted by.
    seat: Option<Seat>,
    /// Rings when a wait for what the other side says is over; made for the first.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// The other side said nothing for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent;

/// Longer waits are as good as for ever; times stay far from overflow.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Transport {
    /// A connection whose other end is `peer`, or speaks for it.
    #[must_use]
    pub fn new(wire: Wire, peer: SocketAddr) -> Self {
        let remote = Remote { address: peer, tls: wire.tls().is_some(), certificate: None };
        Self { wire, inspector: None, remote, unsent: BytesMut::new(), seat: None, alarm: None }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What is written and waits for a flush, to be added to. Whoever adds much asks
    /// [`Transport::is_full`] and flushes then.
    pub fn unsent(&mut self) -> &mut BytesMut {
        &mut self.unsent
    }

    /// Whether more waits than should.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unsent.len() > UNSENT
    }

    /// Whether the client has agreed to HTTP/2.
    #[must_use]
    pub fn speaks_http2(&self) -> bool {
        self.wire.tls().is_some_and(|tls| tls.alpn_protocol() == Some(b"h2"))
    }

    /// Has everything that is read from now on looked at.
    pub fn inspect(&mut self, inspector: Box<dyn Inspect>) {
        self.inspector = Some(inspector);
    }

    /// The same, of a client that showed a certificate, of which upstreams are told this.
    #[must_use]
    pub fn with_certificate(mut self, told: Option<HeaderValue>) -> Self {
        self.remote.certificate = told;
        self
    }

    /// The same connection, counted as long as it lasts.
    #[must_use]
    pub fn counted(self, seat: Seat) -> Self {
        Self { seat: Some(seat), ..self }
    }

    /// The bare stream, and what it is counted by. Everything written before must have been flushed.
    #[must_use]
    pub fn into_wire(self) -> (Wire, Option<Seat>) {
        debug_assert!(self.unsent.is_empty(), "bytes would be lost");
        (self.wire, self.seat)
    }

    /// The bare socket, to be closed. What was not flushed is lost.
    #[must_use]
    pub fn abandon(self) -> TcpStream {
        match self.wire {
            Wire::Plain(tcp) => tcp,
            Wire::Tls(tls) => tls.into_inner().0,
        }
    }

    /// Whether neither bytes nor an end has come that nobody has read. Asks the system only if it has
    /// told of something.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let read = self.wire.tcp().try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads once what has come, behind what the buffer holds; waits for so long at most. 0 is the end.
    /// May be cancelled and called again.
    ///
    /// All waits of a connection have one timer, which mostly is only moved on: to set one for each and
    /// to stop it cost a fortieth of a small request.
    pub async fn read_within(
        &mut self,
        limit: Duration,
        buffer: &mut BytesMut,
    ) -> Result<io::Result<usize>, Silent> {
        let mut waits = false;
        poll_fn(|cx| self.poll_read_within(cx, limit, &mut waits, buffer)).await
    }

    /// The same while much waits to leave: comes back without having read, with none, as soon as more
    /// can be added.
    pub async fn read_or_send(
        &mut self,
        limit: Duration,
        buffer: &mut BytesMut,
    ) -> Result<io::Result<Option<usize>>, Silent> {
        let full = self.is_full();
        let mut waits = false;
        poll_fn(|cx| {
            let read = self.poll_read_within(cx, limit, &mut waits, buffer);
            if read.is_pending() && full && !self.is_full() {
                return Poll::Ready(Ok(Ok(None)));
            }
            read.map_ok(|read| read.map(Some))
        })
        .await
    }

    fn poll_read_within(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        waits: &mut bool,
        buffer: &mut BytesMut,
    ) -> Poll<Result<io::Result<usize>, Silent>> {
        if let Poll::Ready(read) = poll_read_buf(Pin::new(&mut *self), cx, buffer) {
            return Poll::Ready(Ok(read));
        }
        if !std::mem::replace(waits, true) {
            let end = Instant::now() + limit.min(FOREVER);
            match &mut self.alarm {
                Some(alarm) => alarm.as_mut().reset(end),
                None => self.alarm = Some(Box::pin(sleep_until(end))),
            }
        }
        match &mut self.alarm {
            Some(alarm) => alarm.as_mut().poll(cx).map(|()| Err(Silent)),
            None => Poll::Pending,
        }
    }

    /// Takes all of it and waits for nothing: what the system does not take now leaves when the connection
    /// is read or flushed. Whoever adds much looks at [`Transport::is_full`] before.
    pub async fn offer(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match Pin::new(&mut *self).poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                    Poll::Pending => {
                        self.unsent.extend_from_slice(bytes);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Waits until something has come.
    #[cfg(test)]
    pub(crate) async fn readable(&self) {
        self.wire.tcp().readable().await.unwrap();
    }

    /// Gives the system what was written; its memory is freed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.wire).poll_write(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        self.unsent = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("tls", &self.remote.tls).finish_non_exhaustive()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits for the other side has said what there is to say.
        if !this.unsent.is_empty() || this.wire.owes() {
            // What the system does not take now goes with the next poll, for which it wakes this task.
            let _pending = Pin::new(&mut *this).poll_flush(cx)?;
        }
        let known = buf.filled().len();
        ready!(Pin::new(&mut this.wire).poll_read(cx, buf))?;
        if let Some(inspector) = &mut this.inspector {
            inspector.inspect(buf.filled().get(known..).unwrap_or_default())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.unsent.len() + buf.len() <= UNSENT {
            this.unsent.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        // What waited and what comes leave together: a head and its body in one call.
        while !this.unsent.is_empty() {
            let slices = [IoSlice::new(&this.unsent), IoSlice::new(buf)];
            let sent = ready!(Pin::new(&mut this.wire).poll_write_vectored(cx, &slices))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let waited = this.unsent.len();
            this.unsent.advance(sent.min(waited));
            if sent > waited {
                this.unsent = BytesMut::new();
                return Poll::Ready(Ok(sent - waited));
            }
        }
        Pin::new(&mut this.wire).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.wire).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn each_wait_has_its_own_limit_whatever_the_last_one_had() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut theirs = TcpStream::connect(address).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let mut transport = Transport::new(Wire::Plain(ours), address);
        let mut read = BytesMut::new();
        let long = Duration::from_secs(20);
        for limit in [long, Duration::MAX, long] {
            let said = async {
                // It waits before it is told.
                tokio::task::yield_now().await;
                theirs.write_all(b"one").await.unwrap();
            };
            let (count, ()) = tokio::join!(transport.read_within(limit, &mut read), said);
            assert_eq!(count.unwrap().unwrap(), 3);
        }
        // Shorter than those before.
        let start = Instant::now();
        let short = Duration::from_millis(20);
        assert_eq!(transport.read_within(short, &mut read).await.unwrap_err(), Silent);
        assert!((short..long).contains(&start.elapsed()), "{:?}", start.elapsed());
        // One that rang does not ring for the next.
        let said = async {
            tokio::task::yield_now().await;
            theirs.write_all(b"four").await.unwrap();
        };
        let (count, ()) = tokio::join!(transport.read_within(long, &mut read), said);
        assert_eq!(count.unwrap().unwrap(), 4);
        drop(theirs);
        assert_eq!(transport.read_within(long, &mut read).await.unwrap().unwrap(), 0);
        assert_eq!(read, "oneoneonefour");
    }
}

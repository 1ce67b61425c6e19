//! The stream under a connection: TCP, or TLS over it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Bytes that are copied at once. glibc copies more than that with one instruction, `rep movsb`, which
/// on some of AMD's processors takes several times as long when the two sides are not aligned alike;
/// and a TLS record's payload begins five bytes into its memory.
pub const COPY: usize = 2048;

/// Pieces of [`COPY`] bytes that are encrypted with one call: twelve records of TLS.
const PIECES: usize = 96;

/// A connection's bare stream.
#[derive(Debug)]
pub enum Wire {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP, this side being the server.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The socket under it.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Has TLS take so many bytes at once that the system does not take yet.
    pub fn buffer(&mut self, most: usize) {
        if let Self::Tls(tls) = self {
            tls.get_mut().1.set_buffer_limit(Some(most));
        }
    }

    /// Whether there are records that the system has not taken yet.
    pub(super) fn owes(&self) -> bool {
        self.tls().is_some_and(|tls| tls.wants_write())
    }

    pub(super) fn tls(&self) -> Option<&rustls::ServerConnection> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            // A close without `close_notify` is an end like any other: what comes over it has
            // lengths of its own, and much software leaves it out.
            Self::Tls(tls) => {
                let read = ready!(Pin::new(tls).poll_read(cx, buf));
                let cut = read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof);
                Poll::Ready(if cut { Ok(()) } else { read })
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let both = pieces.iter_mut().zip(buf.chunks(COPY));
                let count = both.map(|(place, piece)| *place = IoSlice::new(piece)).count();
                Pin::new(tls).poll_write_vectored(cx, pieces.get(..count).unwrap_or_default())
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

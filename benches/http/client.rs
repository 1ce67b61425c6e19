//! A client of our own, for what wrk and h2load do not do: new tokens, handshakes, idle connections,
//! long bodies.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::support::{HOST, Outcome};

/// How much is read at once.
const AT_ONCE: usize = 64 * 1024;

/// Longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection to a proxy.
pub(crate) struct Client {
    wire: Box<dyn Duplex>,
    buffer: BytesMut,
}

/// An answer, its body left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Of the body, where the head tells it.
    pub(crate) length: Option<u64>,
    /// Whether the body was encoded.
    pub(crate) encoded: bool,
}

impl Answer {
    /// It, if it is what was hoped for.
    pub(crate) fn ok(self) -> Outcome<Self> {
        match self.status {
            200 => Ok(self),
            status => Err(format!("the proxy answered {status}").into()),
        }
    }
}

impl Client {
    pub(crate) async fn plain(to: SocketAddr) -> Outcome<Self> {
        let wire = TcpStream::connect(to).await?;
        wire.set_nodelay(true)?;
        Ok(Self { wire: Box::new(wire), buffer: BytesMut::new() })
    }

    /// Shakes hands, and tells how.
    pub(crate) async fn tls(to: SocketAddr, tls: &TlsConnector) -> Outcome<(Self, HandshakeKind)> {
        let wire = TcpStream::connect(to).await?;
        wire.set_nodelay(true)?;
        let wire = tls.connect(ServerName::try_from(HOST)?, wire).await?;
        let kind = wire.get_ref().1.handshake_kind().ok_or("no handshake took place")?;
        Ok((Self { wire: Box::new(wire), buffer: BytesMut::new() }, kind))
    }

    /// Asks and waits for the whole answer.
    pub(crate) async fn get(&mut self, path: &str, headers: &str) -> Outcome<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n");
        self.send(request.as_bytes()).await?;
        self.answer().await
    }

    /// Asks once, and tells whether the answer is encoded; its body is not read.
    pub(crate) async fn encoded(mut self, path: &str, headers: &str) -> Outcome<bool> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n");
        self.send(request.as_bytes()).await?;
        let (_, answer) = self.head().await?;
        answer.ok().map(|answer| answer.encoded)
    }

    /// Sends a body of zeros and waits for the answer to it.
    pub(crate) async fn put(&mut self, path: &str, headers: &str, length: u64) -> Outcome<Answer> {
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        self.send(request.as_bytes()).await?;
        let piece = vec![0; AT_ONCE];
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).map_or(AT_ONCE, |left| left.min(AT_ONCE));
            self.wire.write_all(&piece[..count]).await?;
            left -= count as u64;
        }
        self.wire.flush().await?;
        self.answer().await
    }

    async fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.wire.write_all(bytes).await?;
        Ok(self.wire.flush().await?)
    }

    async fn answer(&mut self) -> Outcome<Answer> {
        let (head, answer) = self.head().await?;
        self.buffer.advance(head);
        self.skip(answer.length.ok_or("an answer of unknown length")?).await?;
        Ok(answer)
    }

    /// The head of the next answer, and the length of it.
    async fn head(&mut self) -> Outcome<(usize, Answer)> {
        loop {
            if let Some(found) = parse(&self.buffer)? {
                return Ok(found);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err("a head without end".into());
            }
            self.read().await?;
        }
    }

    async fn skip(&mut self, length: u64) -> Outcome<()> {
        let mut left = length;
        loop {
            let count = usize::try_from(left)?.min(self.buffer.len());
            self.buffer.advance(count);
            left -= count as u64;
            if left == 0 {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Outcome<()> {
        self.buffer.reserve(AT_ONCE.min(4096.max(self.buffer.len())));
        match self.wire.read_buf(&mut self.buffer).await? {
            0 => Err("the proxy closed the connection".into()),
            _ => Ok(()),
        }
    }
}

fn parse(bytes: &[u8]) -> Outcome<Option<(usize, Answer)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else { return Ok(None) };
    let find = |name: &str| {
        let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    let length = match find("content-length") {
        Some(length) => Some(std::str::from_utf8(length)?.parse()?),
        None => None,
    };
    let encoded = find("content-encoding").is_some();
    Ok(Some((head, Answer { status: answer.code.unwrap_or_default(), length, encoded })))
}

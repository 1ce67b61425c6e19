//! WebSocket messages over any bytes: one frame each, no extensions (RFC 6455 section 5).

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::Outcome;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Longest message that is taken.
const MAX_MESSAGE: u64 = 1 << 20;

/// Longest head of a handshake.
const MAX_HEAD: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text = 1,
    Binary = 2,
    /// No WebSocket: a reserved opcode.
    Garbage = 3,
    Ping = 9,
    Pong = 10,
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) payload: BytesMut,
}

/// Who writes: a client masks, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Takes messages that the other side wrote.
pub(crate) struct Receiver<R> {
    from: R,
    buffer: BytesMut,
    peer: Side,
    /// How much a read may bring.
    pub(crate) at_once: usize,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    pub(crate) fn new(from: R, peer: Side) -> Self {
        Self { from, buffer: BytesMut::new(), peer, at_once: 512 }
    }

    /// The head of a request or an answer, through its empty line.
    pub(crate) async fn head(&mut self) -> Outcome<BytesMut> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return Ok(self.buffer.split_to(end + 4));
            }
            if self.buffer.len() > MAX_HEAD {
                return Err("a head without end".into());
            }
            self.read().await?;
        }
    }

    /// The next message. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Outcome<Message> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Outcome<()> {
        self.buffer.reserve(self.at_once);
        match self.from.read_buf(&mut self.buffer).await? {
            0 => Err("the other side closed the connection".into()),
            _ => Ok(()),
        }
    }

    fn parse(&mut self) -> Outcome<Option<Message>> {
        let mut rest = &self.buffer[..];
        if rest.len() < 2 {
            return Ok(None);
        }
        let (first, second) = (rest.get_u8(), rest.get_u8());
        let kind = match first {
            0x81 => Kind::Text,
            0x82 => Kind::Binary,
            0x83 => Kind::Garbage,
            0x89 => Kind::Ping,
            0x8a => Kind::Pong,
            _ => return Err(format!("an unexpected frame: {first:#x}").into()),
        };
        if (second & MASKED != 0) != (self.peer == Side::Client) {
            return Err("masked by the wrong side".into());
        }
        let length = match second & !MASKED {
            126 => rest.try_get_u16().map(u64::from),
            127 => rest.try_get_u64(),
            short => Ok(u64::from(short)),
        };
        let Ok(length) = length else { return Ok(None) };
        if length > MAX_MESSAGE {
            return Err(format!("a message of {length} bytes").into());
        }
        let mut key = [0; 4];
        if self.peer == Side::Client && rest.try_copy_to_slice(&mut key).is_err() {
            return Ok(None);
        }
        let length = usize::try_from(length)?;
        let header = self.buffer.len() - rest.len();
        if rest.len() < length {
            self.buffer.reserve(header + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(header);
        let mut payload = self.buffer.split_to(length);
        if self.peer == Side::Client {
            mask(&mut payload, key);
        }
        Ok(Some(Message { kind, payload }))
    }
}

/// Writes messages, each at once and whole.
pub(crate) struct Sender<W> {
    to: W,
    side: Side,
    frame: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    pub(crate) fn new(to: W, side: Side) -> Self {
        Self { to, side, frame: Vec::new() }
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.to.write_all(bytes).await?;
        self.to.flush().await?;
        Ok(())
    }

    pub(crate) async fn text(&mut self, text: &str) -> Outcome<()> {
        self.send(Kind::Text, text.as_bytes()).await
    }

    pub(crate) async fn binary(&mut self, payload: &[u8]) -> Outcome<()> {
        self.send(Kind::Binary, payload).await
    }

    /// After this nobody between the two ends follows frames.
    pub(crate) async fn garbage(&mut self) -> Outcome<()> {
        self.send(Kind::Garbage, b"").await
    }

    /// Answers a ping.
    pub(crate) async fn pong(&mut self, payload: &[u8]) -> Outcome<()> {
        self.send(Kind::Pong, payload).await
    }

    async fn send(&mut self, kind: Kind, payload: &[u8]) -> Outcome<()> {
        let masked = if self.side == Side::Client { MASKED } else { 0 };
        self.frame.clear();
        self.frame.push(FINAL | kind as u8);
        if let (Ok(short), true) = (u8::try_from(payload.len()), payload.len() < 126) {
            self.frame.push(masked | short);
        } else if let Ok(length) = u16::try_from(payload.len()) {
            self.frame.push(masked | 126);
            self.frame.extend(length.to_be_bytes());
        } else {
            self.frame.push(masked | 127);
            self.frame.extend(u64::try_from(payload.len())?.to_be_bytes());
        }
        if self.side == Side::Client {
            self.frame.extend(KEY);
        }
        let start = self.frame.len();
        self.frame.extend(payload);
        if self.side == Side::Client {
            mask(&mut self.frame[start..], KEY);
        }
        self.to.write_all(&self.frame).await?;
        self.to.flush().await?;
        Ok(())
    }
}

fn mask(bytes: &mut [u8], key: [u8; 4]) {
    for (byte, key) in bytes.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

//! Serves a screen by RFB 3.8 over WebSocket, without authentication and with Raw rectangles only;
//! assumes the gateway has decided who may look.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::StreamExt;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::Message as Packet;

use super::frame::{Area, Frame, HEIGHT, TILES, WIDTH};
use super::message::{Fault, Message, take};
use super::pixels::PixelFormat;
use super::reply::Reply;
use super::screen::Screen;
use super::websocket::{Gone, MESSAGE_LIMIT, Socket, accept, send};

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const SECURITY_NONE: u8 = 1;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(30);
/// A picture goes out in messages of about this size.
const CHUNK: usize = 64 * 1024;
/// One message and the incomplete rest of those before it.
const INBOX_LIMIT: usize = 2 * MESSAGE_LIMIT + CHUNK;

/// Why the conversation ended.
#[derive(Debug)]
enum End {
    Gone,
    Handshake(&'static str),
    Overflow,
    Fault(Fault),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => formatter.write_str("the peer is gone or does not read"),
            Self::Handshake(reason) => write!(formatter, "handshake: {reason}"),
            Self::Overflow => formatter.write_str("too many unread bytes"),
            Self::Fault(Fault::UnknownType(kind)) => {
                write!(formatter, "unknown message type {kind}")
            }
            Self::Fault(Fault::CutTextTooLong) => {
                formatter.write_str("the clipboard text is too long")
            }
            Self::Fault(Fault::PixelFormat) => {
                formatter.write_str("the pixel format cannot be served")
            }
        }
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Any path is the screen, as with websockify.
pub(super) async fn answer(screen: Arc<Screen>, request: Request<Incoming>) -> Reply {
    accept(request, move |socket| async move {
        let mut link = Link { socket, inbox: BytesMut::new() };
        let end = match timeout(HANDSHAKE_LIMIT, link.shake_hands(screen.user())).await {
            Ok(Ok(())) => Viewer::new(link, &screen).run(&screen).await,
            Ok(Err(end)) => Err(end),
            Err(_) => Err(End::Handshake("took too long")),
        };
        if let Err(reason) = end {
            tracing::debug!(%reason, user = screen.user(), "demo: viewer left");
        }
    })
}

/// The byte stream that WebSocket messages carry.
struct Link {
    socket: Socket,
    inbox: BytesMut,
}

impl Link {
    /// Waits for more bytes; safe to abandon, as nothing is kept outside the socket meanwhile.
    async fn receive(&mut self) -> Result<(), End> {
        let received = self.socket.next().await.ok_or(End::Gone)?;
        if let Packet::Binary(bytes) = received.map_err(|_| End::Gone)? {
            if self.inbox.len() + bytes.len() > INBOX_LIMIT {
                return Err(End::Overflow);
            }
            self.inbox.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn take(&mut self, length: usize) -> Result<BytesMut, End> {
        while self.inbox.len() < length {
            self.receive().await?;
        }
        Ok(self.inbox.split_to(length))
    }

    async fn send(&mut self, bytes: BytesMut) -> Result<(), End> {
        Ok(send(&mut self.socket, Packet::binary(bytes.freeze())).await?)
    }

    async fn shake_hands(&mut self, user: &str) -> Result<(), End> {
        self.send(BytesMut::from(&VERSION[..])).await?;
        if self.take(VERSION.len()).await? != VERSION[..] {
            return Err(End::Handshake("only RFB 3.8 is spoken"));
        }
        self.send(BytesMut::from(&[1, SECURITY_NONE][..])).await?;
        if self.take(1).await?[..] != [SECURITY_NONE] {
            return Err(End::Handshake("only security type None is offered"));
        }
        self.send(BytesMut::from(&[0; 4][..])).await?;
        self.take(1).await?; // whether to share: always
        let mut init = BytesMut::new();
        init.put_u16(wire(WIDTH));
        init.put_u16(wire(HEIGHT));
        PixelFormat::NATIVE.write(&mut init);
        let name = format!("{user}'s desktop");
        init.put_u32(u32::try_from(name.len()).unwrap_or(0));
        init.put_slice(name.as_bytes());
        self.send(init).await
    }
}

/// One connected viewer: what it asked for and what it has seen.
struct Viewer {
    link: Link,
    frames: watch::Receiver<Arc<Frame>>,
    format: PixelFormat,
    /// For each tile the number of the picture it was last sent from.
    seen: Vec<u64>,
    /// The open request; later ones are merged into it.
    wanted: Option<Area>,
    /// Only pictures with a higher number are sent: each at most once, and none older than the last key.
    floor: u64,
}

impl Viewer {
    fn new(link: Link, screen: &Screen) -> Self {
        Self {
            link,
            frames: screen.watch(),
            format: PixelFormat::NATIVE,
            seen: vec![0; TILES],
            wanted: None,
            floor: screen.change(|_| {}),
        }
    }

    async fn run(mut self, screen: &Screen) -> Result<(), End> {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(message) = take(&mut self.link.inbox).map_err(End::Fault)? {
                self.apply(message, screen);
            }
            self.update().await?;
            tokio::select! {
                received = self.link.receive() => received?,
                changed = self.frames.changed(), if self.wanted.is_some() => changed.map_err(|_| End::Gone)?,
                _ = heartbeat.tick() => send(&mut self.link.socket, Packet::Ping(Default::default())).await?,
            }
        }
    }

    fn apply(&mut self, message: Message, screen: &Screen) {
        match message {
            Message::Format(format) => self.format = format,
            Message::Encodings => {}
            Message::Update { incremental, area } => {
                if !incremental {
                    self.seen.fill(0);
                }
                // Two requests that differ are answered by what covers both.
                self.wanted =
                    Some(self.wanted.filter(|open| *open != area).map_or(area, |_| Area::ALL));
            }
            Message::Key { down: true, keysym } => {
                self.floor = screen.change(|model| model.press(keysym));
            }
            Message::Key { down: false, .. } => {}
            // These may come in faster than pictures, so pictures do not wait for them.
            Message::Pointer { buttons, x, y } => {
                screen.change(|model| model.point(x, y, buttons));
            }
            Message::CutText(text) => {
                screen.change(|model| model.paste(&text));
            }
        }
    }

    /// Answers the open request if there is something new to see.
    async fn update(&mut self) -> Result<(), End> {
        let Some(wanted) = self.wanted else {
            return Ok(());
        };
        let frame = Arc::clone(&self.frames.borrow_and_update());
        if frame.number <= self.floor {
            return Ok(());
        }
        let changes = frame.changes(wanted, &mut self.seen);
        if changes.is_empty() {
            return Ok(());
        }
        self.wanted = None;
        self.floor = frame.number;
        let mut outbox = BytesMut::with_capacity(2 * CHUNK);
        outbox.put_slice(&[0, 0]);
        outbox.put_u16(wire(changes.len()));
        for area in changes {
            for side in [area.x, area.y, area.width, area.height] {
                outbox.put_u16(wire(side));
            }
            outbox.put_i32(0); // Raw
            outbox.reserve(area.width * area.height * self.format.pixel_length());
            for row in frame.rows(area) {
                self.format.encode(row, &mut outbox);
            }
            if outbox.len() >= CHUNK {
                self.link.send(outbox.split()).await?;
            }
        }
        if outbox.is_empty() { Ok(()) } else { self.link.send(outbox).await }
    }
}

/// A length as RFB writes it; every length here is within the picture.
fn wire(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

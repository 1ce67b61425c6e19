//! One direction of a tunnel: what was read from one side is written to the other at once.
//!
//! The buffer that is read into is shared by all tunnels of a thread. Only what the writer does
//! not take is kept, and nothing more is read while something is kept: that is the backpressure.

use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::ends::End;
use super::frames::{self, HELD, OWN, Pings, Side, Tracker};
use super::random::SplitMix;
use crate::transport::COPY;

/// What is written at once, with the records of TLS around it, leaves in one burst of TCP: 64 KiB with
/// all headers. A little more would leave as a burst and a packet of its own for the rest, which costs
/// as much again.
const BURST: usize = 63 * 1024;

/// First size of a read, and the least.
const SMALL: usize = BURST / 4;

/// Largest size of a read, and so, but for [`OWN`] and [`HELD`], the most that is kept for a side
/// that stalls: by us or, encrypted, by TLS.
pub(super) const LARGE: usize = 3 * BURST;

/// Size of the buffer that is read into.
pub(super) const BUFFER: usize = HELD + LARGE;

/// After so many reads, or [`LARGE`] bytes, others on the thread get their turn.
const READS: usize = 16;

/// Largest size of a read now.
static MOST: AtomicUsize = AtomicUsize::new(LARGE);

/// Reads in small pieces from now on, or in large ones again: what a tunnel keeps for a side that
/// stalls is no more than one read.
pub(super) fn read_small(small: bool) {
    MOST.store(if small { SMALL } else { LARGE }, Relaxed);
}

/// Which of the two sides an I/O error came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Reader,
    Writer,
}

/// A frame of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Ping,
    /// The status code, and the end that is its reason.
    Close(u16, End),
}

/// A side of the tunnel, as both directions see it.
#[derive(Debug)]
pub(super) struct Peer<S> {
    pub(super) stream: S,
    /// As whom we speak to it.
    side: Side,
    pub(super) pings: Pings,
    /// Goes to it at the next frame boundary.
    pub(super) wanted: Option<Own>,
    /// When the latest ping that it answered was sent.
    pub(super) answered: Option<Instant>,
    /// Something was received from it.
    pub(super) spoke: bool,
    /// A data frame was received from it.
    pub(super) data: bool,
}

impl<S> Peer<S> {
    pub(super) fn new(stream: S, side: Side) -> Self {
        let pings = Pings::new(SplitMix::seeded().number() as u32);
        Self { stream, side, pings, wanted: None, answered: None, spoke: false, data: false }
    }

    /// Appends a frame to it.
    fn say(&mut self, own: Own, out: &mut Vec<u8>) {
        // Masks protect middleboxes from payload that a page may choose (RFC 6455 §10.3). Nobody
        // chooses ours, so the mask need not be secret.
        let mask = match self.side {
            Side::Client => Some((SplitMix::seeded().number() as u32).to_be_bytes()),
            Side::Server => None,
        };
        match own {
            Own::Ping => frames::ping(out, self.pings.send(Instant::now()), mask),
            Own::Close(code, end) => frames::close(out, code, &end.close_text(), mask),
        }
    }
}

/// What the writer did not take yet: at least a byte.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    start: usize,
    /// Where a frame of our own is.
    own: Range<u32>,
}

impl Kept {
    fn new(bytes: Vec<u8>, own: Range<u32>) -> Option<Box<Self>> {
        (!bytes.is_empty()).then(|| Box::new(Self { bytes, start: 0, own }))
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Drops `count` bytes that were taken; returns how many of them were not our own.
    fn advance(&mut self, count: usize) -> u64 {
        let (start, end) = (self.start, self.start + count);
        let own = end.min(self.own.end as usize).saturating_sub(start.max(self.own.start as usize));
        self.start = end;
        (count - own) as u64
    }
}

/// One direction of a tunnel.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) tracker: Tracker,
    /// In a box: a tunnel hardly ever has it.
    kept: Option<Box<Kept>>,
    /// Bytes delivered, without our own frames.
    pub(super) moved: u64,
    /// Size of the next read.
    size: u32,
    /// The start of a pong that may be ours.
    held: [u8; HELD],
    holds: u8,
    /// The reader has ended.
    pub(super) ended: bool,
    /// The writer was shut down.
    shut: bool,
    /// We have said the last word: what is still read is dropped.
    muted: bool,
    /// Something was written since the last flush.
    unflushed: bool,
}

impl Direction {
    /// A direction whose reader is `side`, and from which `early` was read before.
    pub(super) fn new(side: Side, early: Bytes) -> Self {
        let mut tracker = Tracker::new(side);
        let mut early = Vec::from(early);
        tracker.follow(&mut early, &mut Pings::new(0));
        Self {
            tracker,
            kept: Kept::new(early, 0..0),
            moved: 0,
            size: SMALL as u32,
            held: [0; HELD],
            holds: 0,
            ended: false,
            shut: false,
            muted: false,
            unflushed: false,
        }
    }

    /// Whether the writer is behind, so that nothing is read.
    pub(super) fn blocked(&self) -> bool {
        self.kept.is_some() || self.unflushed
    }

    /// Whether a ping to the writer makes sense.
    pub(super) fn pingable(&self) -> bool {
        !(self.tracker.lost() || self.tracker.closed() || self.muted || self.shut)
    }

    /// Whether everything that will ever be said to `to` has gone out.
    pub(super) fn said<W>(&self, to: &Peer<W>) -> bool {
        to.wanted.is_none() && !self.blocked()
    }

    /// Whether its writer was given up, or the last word was said to it.
    pub(super) fn muted(&self) -> bool {
        self.muted
    }

    /// Gives up a side, so that the other can still be told why.
    pub(super) fn give_up(&mut self, broken: Broken) {
        match broken {
            Broken::Reader => self.ended = true,
            Broken::Writer => {
                self.kept = None;
                self.muted = true;
                self.shut = true;
                self.unflushed = false;
            }
        }
    }

    /// Moves what can be moved now; ready when the reader's end was passed on.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Peer<R>,
        to: &mut Peer<W>,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut passed = 0;
        for _ in 0..READS {
            ready!(self.poll_deliver(cx, to))?;
            if self.ended {
                return self.poll_shut(cx, to);
            }
            // Nothing is read before all has gone, so TLS has room for the next chunk as a whole, and
            // the last word does not wait for a reader that never runs dry.
            ready!(self.poll_flush(cx, to))?;
            let chunk = ready!(self.poll_read(cx, from, buffer))?;
            passed += chunk.len();
            ready!(self.poll_pass(cx, from, to, chunk))?;
            if passed >= LARGE {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Delivers what was kept, and then a frame of our own if one may go now.
    fn poll_deliver<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Peer<W>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while let Some(kept) = &mut self.kept {
                let written = ready!(poll_write(cx, to, kept.rest()))?;
                self.moved += kept.advance(written);
                self.unflushed = true;
                self.kept.take_if(|kept| kept.rest().is_empty());
            }
            let Some(own) = to.wanted else { return Poll::Ready(Ok(())) };
            if self.tracker.open_boundary() && !self.muted && !self.shut {
                self.insert(own, to, &[], 0);
            } else if self.ended || !self.pingable() {
                to.wanted = None;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads once, behind what is held; returns what is now to be passed.
    fn poll_read<'b, R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Peer<R>,
        buffer: &'b mut [u8],
    ) -> Poll<Result<&'b mut [u8], Broken>> {
        // Also tunnels that have read large pieces so far read small ones from now on.
        let (start, size) = (usize::from(self.holds), (self.size as usize).min(MOST.load(Relaxed)));
        let mut space = ReadBuf::new(buffer.get_mut(start..start + size).unwrap_or_default());
        let Poll::Ready(read) = Pin::new(&mut from.stream).poll_read(cx, &mut space) else {
            return Poll::Pending;
        };
        let count = space.filled().len();
        match (read, count) {
            (Err(_), _) => return Poll::Ready(Err(Broken::Reader)),
            (Ok(()), 0) => {
                self.ended = true;
                // The pong will not be completed: it goes on as it is.
                from.pings.forget();
            }
            (Ok(()), _) => from.spoke = true,
        }
        // It follows what comes in one piece: a picture as large as the last one is read at once.
        if count >= size {
            self.size = (size * 4).min(MOST.load(Relaxed)) as u32;
        } else if count < size / 4 {
            self.size = (size / 2).max(SMALL) as u32;
        }
        self.holds = 0;
        let (held, _) = self.held.split_at(start);
        buffer.iter_mut().zip(held).for_each(|(space, held)| *space = *held);
        Poll::Ready(Ok(buffer.get_mut(..start + count).unwrap_or_default()))
    }

    /// Writes a chunk, as far as it goes; pending when some of it had to be kept.
    fn poll_pass<R, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Peer<R>,
        to: &mut Peer<W>,
        chunk: &mut [u8],
    ) -> Poll<Result<(), Broken>> {
        let pass = self.tracker.follow(chunk, &mut from.pings);
        from.answered = pass.answered.or(from.answered);
        from.data |= pass.data;
        let (mut rest, held) = chunk.split_at(pass.forward);
        self.holds = pass.held as u8;
        self.held.iter_mut().zip(held).for_each(|(space, held)| *space = *held);
        if self.muted {
            return Poll::Ready(Ok(()));
        }
        if let (Some(own), Some(at)) = (to.wanted, pass.boundary) {
            self.insert(own, to, rest, at);
            return Poll::Ready(Ok(()));
        }
        while !rest.is_empty() {
            let Poll::Ready(written) = poll_write(cx, to, rest) else {
                self.kept = Kept::new(copied(rest), 0..0);
                return Poll::Pending;
            };
            let written = written?;
            self.moved += written as u64;
            self.unflushed = true;
            rest = rest.get(written..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }

    /// Puts a frame of our own into a chunk, which is then delivered like one that was kept.
    fn insert<W>(&mut self, own: Own, to: &mut Peer<W>, chunk: &[u8], at: usize) {
        let (before, after) = chunk.split_at(at);
        let mut bytes = Vec::with_capacity(chunk.len() + OWN);
        bytes.extend(before);
        to.say(own, &mut bytes);
        to.wanted = None;
        let own_end = bytes.len() as u32;
        match own {
            Own::Ping => bytes.extend(after),
            // Nothing may follow a Close frame.
            Own::Close(..) => self.muted = true,
        }
        self.kept = Kept::new(bytes, at as u32..own_end);
    }

    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Peer<W>,
    ) -> Poll<Result<(), Broken>> {
        if self.unflushed {
            ready!(Pin::new(&mut to.stream).poll_flush(cx)).map_err(|_| Broken::Writer)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shut<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Peer<W>,
    ) -> Poll<Result<(), Broken>> {
        if !self.shut {
            ready!(Pin::new(&mut to.stream).poll_shutdown(cx)).map_err(|_| Broken::Writer)?;
            self.shut = true;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn copied(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len());
    bytes.chunks(COPY).for_each(|piece| copy.extend_from_slice(piece));
    copy
}

/// Writes once, at least one byte.
fn poll_write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut Peer<W>,
    bytes: &[u8],
) -> Poll<Result<usize, Broken>> {
    match ready!(Pin::new(&mut to.stream).poll_write(cx, bytes)) {
        Ok(0) | Err(_) => Poll::Ready(Err(Broken::Writer)),
        Ok(written) => Poll::Ready(Ok(written)),
    }
}

//! Follows the frames of one direction of a WebSocket stream (RFC 6455 §5.2), and builds our own.
//!
//! Only headers are looked at; payload is skipped and never copied. A stream that breaks a rule is
//! given up for good: it goes on as plain bytes, with nothing put in or taken out any more.

use tokio::time::Instant;

/// Largest header: two bytes, a 64-bit length and a mask.
const HEADER: usize = 14;

/// Largest payload of a control frame (RFC 6455 §5.5).
const CONTROL: usize = 125;

/// Size of our largest own frame: a masked control frame.
pub const OWN: usize = 6 + CONTROL;

/// Size of a ping's payload: a tag and a count.
const PING: usize = 8;

/// Most bytes that are held back: a masked pong of ours but for its last byte.
pub const HELD: usize = 6 + PING - 1;

/// Who sends the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Frames are masked (RFC 6455 §5.1).
    Client,
    /// Frames are not masked.
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Continuation,
    Data,
    Close,
    Ping,
    Pong,
}

/// A frame's header.
struct Header {
    fin: bool,
    kind: Kind,
    size: usize,
    payload: u64,
}

enum Parsed {
    Incomplete,
    Invalid,
    Header(Header),
}

/// Reads the header at the start of `bytes`. Reserved bits may be set: extensions use them.
fn parse(bytes: &[u8], side: Side) -> Parsed {
    let [first, second, rest @ ..] = bytes else { return Parsed::Incomplete };
    let kind = match first & 0x0f {
        0x0 => Kind::Continuation,
        0x1 | 0x2 => Kind::Data,
        0x8 => Kind::Close,
        0x9 => Kind::Ping,
        0xa => Kind::Pong,
        _ => return Parsed::Invalid,
    };
    let fin = first & 0x80 != 0;
    let masked = second & 0x80 != 0;
    let short = second & 0x7f;
    let control = matches!(kind, Kind::Close | Kind::Ping | Kind::Pong);
    if masked != (side == Side::Client) || control && (!fin || usize::from(short) > CONTROL) {
        return Parsed::Invalid;
    }
    let (payload, length) = match (short, rest) {
        (126, [high, low, ..]) => (u64::from(u16::from_be_bytes([*high, *low])), 2),
        (127, _) => match rest.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Parsed::Incomplete,
        },
        (126, _) => return Parsed::Incomplete,
        (short, _) => (u64::from(short), 0),
    };
    if payload >> 63 != 0 {
        return Parsed::Invalid;
    }
    let size = 2 + length + if masked { 4 } else { 0 };
    if bytes.len() < size {
        return Parsed::Incomplete;
    }
    Parsed::Header(Header { fin, kind, size, payload })
}

/// What to do with a chunk that was followed. Its bytes are now, in this order: those to forward,
/// those to hold back, and what is left of the ones that were taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// How many bytes to forward.
    pub forward: usize,
    /// How many bytes to put before the next chunk, at most [`HELD`].
    pub held: usize,
    /// Where among the bytes to forward the first frame boundary is. None after a Close frame, and
    /// in a stream that was given up: nothing may be put in.
    pub boundary: Option<usize>,
    /// When the latest of our pings that were answered here was sent.
    pub answered: Option<Instant>,
    /// A data frame began here, or nobody knows because the stream was given up.
    pub data: bool,
}

/// Follows one direction of a stream, chunk by chunk.
#[derive(Debug)]
pub struct Tracker {
    /// Bytes of the frame's payload that are still to come.
    payload: u64,
    data: u64,
    control: u64,
    /// A header that was cut by the end of a chunk.
    partial: [u8; HEADER],
    have: u8,
    side: Side,
    fragmented: bool,
    closed: bool,
    lost: bool,
}

impl Tracker {
    /// A tracker of the frames that `side` sends, before the first one.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self {
            payload: 0,
            data: 0,
            control: 0,
            partial: [0; HEADER],
            have: 0,
            side,
            fragmented: false,
            closed: false,
            lost: false,
        }
    }

    /// Whether a frame of our own may go next: the stream is between two frames, and no Close
    /// frame was begun.
    #[must_use]
    pub fn open_boundary(&self) -> bool {
        self.boundary() && !self.closed
    }

    /// Whether the stream is between two frames.
    #[must_use]
    pub fn boundary(&self) -> bool {
        !self.lost && self.payload == 0 && self.have == 0
    }

    /// Whether a Close frame was begun.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Whether the stream was given up.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// Data frames begun so far, each fragment of a message counted.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Control frames begun so far, without pongs that were taken out.
    #[must_use]
    pub fn control(&self) -> u64 {
        self.control
    }

    /// Follows the next chunk: what was held back, then what was read. Takes out pongs that answer
    /// one of `pings`; while none of them waits, every byte is forwarded as it is.
    pub fn follow(&mut self, chunk: &mut [u8], pings: &mut Pings) -> Pass {
        let before = self.data;
        let mut pass = Pass::default();
        let mut end = chunk.len();
        let mut at = 0;
        while !self.lost {
            let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(end - at);
            self.payload -= skipped as u64;
            at += skipped;
            if self.payload > 0 {
                break;
            }
            if pass.boundary.is_none() && self.open_boundary() {
                pass.boundary = Some(at);
            }
            let rest = chunk.get(at..end).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            if pings.waiting() && self.have == 0 {
                match self.answer(rest, pings) {
                    Answer::Unknown => {
                        pass.held = end - at;
                        break;
                    }
                    Answer::Ours { sent, size } => {
                        pass.answered = sent.or(pass.answered);
                        chunk.copy_within(at + size..end, at);
                        end -= size;
                        continue;
                    }
                    Answer::Other => {}
                }
            }
            at += self.header(rest);
        }
        if self.lost {
            pass.boundary = None;
        }
        pass.forward = end - pass.held;
        pass.data = self.lost || self.data != before;
        pass
    }

    /// Takes a header, or the part of it that is there; returns its size.
    fn header(&mut self, bytes: &[u8]) -> usize {
        if self.have == 0 {
            match parse(bytes, self.side) {
                Parsed::Header(header) => {
                    self.begin(&header);
                    return header.size;
                }
                Parsed::Invalid => {
                    self.lost = true;
                    return 0;
                }
                Parsed::Incomplete => {}
            }
        }
        let mut taken = 0;
        for byte in bytes {
            let have = usize::from(self.have);
            let Some(space) = self.partial.get_mut(have) else { break };
            *space = *byte;
            taken += 1;
            self.have += 1;
            // How long a header is turns out on the way, so each byte is a new try.
            match parse(self.partial.get(..=have).unwrap_or_default(), self.side) {
                Parsed::Header(header) => {
                    self.have = 0;
                    self.begin(&header);
                    break;
                }
                Parsed::Invalid => {
                    self.lost = true;
                    break;
                }
                Parsed::Incomplete => {}
            }
        }
        taken
    }

    fn begin(&mut self, header: &Header) {
        match header.kind {
            Kind::Continuation | Kind::Data => {
                // A message is one data frame and then continuations up to the final one.
                self.lost = self.fragmented != (header.kind == Kind::Continuation);
                self.fragmented = !header.fin;
                self.data += 1;
            }
            Kind::Close => {
                self.closed = true;
                self.control += 1;
            }
            Kind::Ping | Kind::Pong => self.control += 1,
        }
        self.payload = header.payload;
    }

    /// Tells whether the frame that begins with `bytes` is a pong to one of `pings`.
    fn answer(&self, bytes: &[u8], pings: &mut Pings) -> Answer {
        // A pong is known by its first byte, so no part of one is forwarded before it is complete.
        if bytes.first().is_none_or(|first| first & 0x0f != 0xa) {
            return Answer::Other;
        }
        let header = match parse(bytes, self.side) {
            Parsed::Header(header) => header,
            Parsed::Incomplete => return Answer::Unknown,
            Parsed::Invalid => return Answer::Other,
        };
        if header.payload != PING as u64 {
            return Answer::Other;
        }
        let (head, rest) = bytes.split_at(header.size);
        let Some(mut payload) = rest.first_chunk().copied() else { return Answer::Unknown };
        if self.side == Side::Client {
            apply(*head.last_chunk().unwrap_or(&[0; 4]), &mut payload);
        }
        match pings.answered(payload) {
            Some(sent) => Answer::Ours { sent, size: header.size + PING },
            None => Answer::Other,
        }
    }
}

enum Answer {
    /// More bytes are needed.
    Unknown,
    Ours {
        sent: Option<Instant>,
        size: usize,
    },
    Other,
}

/// Our pings to one peer. All may still be answered, the last two are timed.
#[derive(Debug)]
pub struct Pings {
    sent: [Option<Instant>; 2],
    /// Tells our pongs from those to the other side's own pings.
    tag: u32,
    count: u32,
    /// The latest one that was answered, with all before it.
    answered: u32,
}

impl Pings {
    /// No ping yet. Payloads will carry `tag`, which should differ from tunnel to tunnel.
    #[must_use]
    pub fn new(tag: u32) -> Self {
        Self { sent: [None; 2], tag, count: 0, answered: 0 }
    }

    /// Whether a pong may still come.
    #[must_use]
    pub fn waiting(&self) -> bool {
        self.count != self.answered
    }

    /// Notes a new ping; returns its payload.
    pub fn send(&mut self, now: Instant) -> [u8; PING] {
        let [_, last] = self.sent;
        self.sent = [last, Some(now)];
        self.count = self.count.wrapping_add(1);
        self.payload(self.count)
    }

    /// No answer is waited for any more.
    pub fn forget(&mut self) {
        self.sent = [None; 2];
        self.answered = self.count;
    }

    fn payload(&self, count: u32) -> [u8; PING] {
        ((u64::from(self.tag) << 32) | u64::from(count)).to_be_bytes()
    }

    /// Whether this pong answers a ping of ours, and when that was sent if it is one of the last two.
    /// It answers all before it as well (RFC 6455 §5.5.3). Who was stopped for a while may answer many.
    fn answered(&mut self, pong: [u8; PING]) -> Option<Option<Instant>> {
        let [tag @ .., _, _, _, _] = pong;
        let [_, _, _, _, number @ ..] = pong;
        let number = u32::from_be_bytes(number);
        let behind = self.count.wrapping_sub(number);
        if tag != self.tag.to_be_bytes() || behind >= self.count.wrapping_sub(self.answered) {
            return None;
        }
        self.answered = number;
        let [older, newer] = self.sent;
        match behind {
            0 => {
                self.sent = [None; 2];
                Some(newer)
            }
            1 => {
                self.sent = [None, newer];
                Some(older)
            }
            _ => Some(None),
        }
    }
}

/// Masks or unmasks a payload (RFC 6455 §5.3).
fn apply(mask: [u8; 4], payload: &mut [u8]) {
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Appends a Ping frame to `out`, masked if there is a mask.
pub fn ping(out: &mut Vec<u8>, payload: [u8; PING], mask: Option<[u8; 4]>) {
    control(out, 0x9, &payload, mask);
}

/// Appends a Close frame (RFC 6455 §5.5.1) to `out`, masked if there is a mask. A reason that does
/// not fit is cut between two characters.
pub fn close(out: &mut Vec<u8>, code: u16, reason: &str, mask: Option<[u8; 4]>) {
    let mut fits = reason.len().min(CONTROL - 2);
    while !reason.is_char_boundary(fits) {
        fits -= 1;
    }
    let reason = reason.get(..fits).unwrap_or_default();
    control(out, 0x8, &[&code.to_be_bytes(), reason.as_bytes()].concat(), mask);
}

/// Appends a control frame. Payloads are at most [`CONTROL`] bytes.
fn control(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.extend([0x80 | opcode, masked | payload.len() as u8]);
    out.extend(mask.iter().flatten());
    let start = out.len();
    out.extend(payload);
    if let (Some(mask), Some(payload)) = (mask, out.get_mut(start..)) {
        apply(mask, payload);
    }
}

#[cfg(test)]
mod tests;

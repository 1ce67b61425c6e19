//! The tracker of a WebSocket stream: the same however the stream is cut, as a second parser has it,
//! and of all bytes only the pongs to our own pings stay here.
//!
//! Input: a byte of choices, seven bytes of where to cut, then a stream (`raw`) or the makings of
//! one.
#![no_main]

use deskgate_fuzz::frames::{HELD, Pings, Side, Tracker};
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;

/// Longest stream.
const MOST: usize = 6000;
const TAG: u32 = 0x6465_736b;
const MASK: [u8; 4] = [0xa1, 0x5e, 0x00, 0xff];

fuzz_target!(|data: &[u8]| {
    let Some((head, input)) = data.split_first_chunk::<8>() else { return };
    let side = if head[0] & 1 == 0 { Side::Client } else { Side::Server };
    let pings = usize::from(head[0] >> 1 & 3);
    let mut stream = if head[0] & 8 == 0 { input.to_vec() } else { made(side, input) };
    // It is followed byte by byte, too.
    stream.truncate(MOST);
    let cuts: Vec<usize> = head[1..].iter().map(|cut| usize::from(*cut) + 1).collect();

    let want = read(side, &stream, pings);
    for cuts in [&[usize::MAX][..], &[1], &cuts] {
        let got = followed(side, &stream, pings, cuts);
        assert_eq!(got, want, "cut at {cuts:?}");
    }
    if pings == 0 {
        boundaries(side, &stream, &cuts);
    }
});

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// What goes on to the other side, with what is held back at the end.
    out: Vec<u8>,
    answered: usize,
    data: u64,
    control: u64,
    closed: bool,
    lost: bool,
    between: bool,
}

/// The tracker as a relay uses it.
fn followed(side: Side, stream: &[u8], sent: usize, cuts: &[usize]) -> Outcome {
    let (mut tracker, mut pings) = (Tracker::new(side), Pings::new(TAG));
    let start = Instant::now();
    for _ in 0..sent {
        pings.send(start);
    }
    let (mut out, mut held, mut answered) = (Vec::new(), Vec::new(), 0);
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        rest = after;
        let waiting = pings.waiting();
        let mut chunk = [held.as_slice(), piece].concat();
        let pass = tracker.follow(&mut chunk, &mut pings);
        assert!(pass.held <= HELD && pass.forward + pass.held <= chunk.len());
        assert!(waiting || pass.forward == chunk.len(), "nothing may be kept");
        assert!(pass.boundary.is_none_or(|at| at <= pass.forward));
        answered += usize::from(waiting && pass.answered.is_some());
        out.extend(&chunk[..pass.forward]);
        held = chunk[pass.forward..pass.forward + pass.held].to_vec();
    }
    let between = tracker.boundary() && held.is_empty();
    assert_eq!(tracker.open_boundary(), tracker.boundary() && !tracker.closed());
    out.extend(held);
    // A chunk may hold the answers to two pings, and tells of one.
    let answered = answered.min(1);
    let (data, control) = (tracker.data(), tracker.control());
    Outcome {
        out,
        answered,
        data,
        control,
        closed: tracker.closed(),
        lost: tracker.lost(),
        between,
    }
}

/// A header as the second parser reads it.
enum Head {
    Cut,
    Broken,
    Whole { size: usize, payload: u64 },
}

/// The second parser: one look at one header, by the text of RFC 6455.
fn head(side: Side, bytes: &[u8]) -> Head {
    let (Some(first), Some(second)) = (bytes.first(), bytes.get(1)) else { return Head::Cut };
    let (opcode, short) = (first & 15, second & 127);
    let known = [0, 1, 2, 8, 9, 10].contains(&opcode);
    let whole = first & 128 != 0 || opcode < 8;
    let masked = second & 128 != 0;
    if !known || !whole || opcode >= 8 && short > 125 || masked != (side == Side::Client) {
        return Head::Broken;
    }
    let extra = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(length) = bytes.get(2..2 + extra) else { return Head::Cut };
    let payload = match extra {
        0 => u64::from(short),
        _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    if payload > i64::MAX as u64 {
        return Head::Broken;
    }
    let size = 2 + extra + if masked { 4 } else { 0 };
    if bytes.len() < size { Head::Cut } else { Head::Whole { size, payload } }
}

/// What should come of a stream, looked at as a whole.
fn read(side: Side, stream: &[u8], sent: usize) -> Outcome {
    let pong = |count: usize| (u64::from(TAG) << 32 | count as u64).to_be_bytes();
    let mut waiting: Vec<_> = (1..=sent).map(pong).collect();
    let mut outcome = Outcome {
        out: Vec::new(),
        answered: 0,
        data: 0,
        control: 0,
        closed: false,
        lost: false,
        between: true,
    };
    let (mut at, mut fragmented) = (0, false);
    while at < stream.len() {
        let rest = &stream[at..];
        let (size, payload) = match head(side, rest) {
            Head::Whole { size, payload } => (size, payload),
            broken => {
                outcome.lost = matches!(broken, Head::Broken);
                outcome.between = false;
                outcome.out.extend(rest);
                break;
            }
        };
        let end = (size as u64).saturating_add(payload);
        let whole = end <= rest.len() as u64;
        let frame = &rest[..usize::try_from(end).unwrap_or(usize::MAX).min(rest.len())];
        let opcode = rest[0] & 15;
        if opcode == 10 && payload == 8 && !waiting.is_empty() {
            let mut said = frame[size..].to_vec();
            if side == Side::Client {
                let mask = &frame[size - 4..size];
                said.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            }
            if !whole {
                // Nobody knows yet.
                outcome.between = false;
                outcome.out.extend(frame);
                break;
            }
            if let Some(found) = waiting.iter().position(|pong| said == pong) {
                // The last two are timed. It answers all before it as well.
                outcome.answered |= usize::from(found + 2 >= waiting.len());
                waiting.drain(..=found);
                at += frame.len();
                continue;
            }
        }
        if opcode >= 8 {
            outcome.control += 1;
            outcome.closed |= opcode == 8;
        } else {
            outcome.data += 1;
            outcome.lost = fragmented != (opcode == 0);
            fragmented = rest[0] & 128 == 0;
        }
        if outcome.lost {
            outcome.between = false;
            outcome.out.extend(rest);
            break;
        }
        outcome.out.extend(frame);
        at += frame.len();
        outcome.between = whole;
    }
    outcome
}

/// Where own frames may be put in: before any Close frame, at the first place of each piece.
fn boundaries(side: Side, stream: &[u8], cuts: &[usize]) {
    let (mut places, mut at) = (vec![0], 0);
    while let Head::Whole { size, payload } = head(side, &stream[at..]) {
        let end = (at as u64 + size as u64).saturating_add(payload);
        if stream[at] & 15 == 8 || end > stream.len() as u64 {
            break;
        }
        at = end as usize;
        places.push(at);
    }
    let (mut tracker, mut pings) = (Tracker::new(side), Pings::new(TAG));
    let (mut from, mut cuts) = (0, cuts.iter().cycle());
    while from < stream.len() {
        let to = (from + cuts.next().unwrap()).min(stream.len());
        let pass = tracker.follow(&mut stream[from..to].to_vec(), &mut pings);
        let place = places.iter().find(|place| (from..=to).contains(place)).map(|at| at - from);
        let want = if tracker.lost() { None } else { place };
        assert_eq!(pass.boundary, want, "{from}..{to} of {places:?}");
        from = to;
    }
}

/// A stream of whole frames: a byte of kind, a byte of length, each with a payload of its own.
fn made(side: Side, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for pair in input.chunks_exact(2) {
        if out.len() > MOST {
            break;
        }
        let [kind, length] = [pair[0], pair[1]];
        let first = match kind % 8 {
            0 => 0x82,
            1 => 0x02,
            2 => 0x00,
            3 => 0x80,
            4 => 0x89,
            5 => 0x88,
            _ => 0x8a,
        };
        let payload = match kind % 8 {
            // An answer to one of our pings, or nearly.
            6 => (u64::from(TAG) << 32 | u64::from(length % 4)).to_be_bytes().to_vec(),
            7 => vec![length; 8],
            4 | 5 => vec![length; usize::from(length & 63)],
            _ => vec![length; usize::from(length) * if kind & 128 == 0 { 1 } else { 9 }],
        };
        frame(&mut out, side, first, &payload);
    }
    out
}

fn frame(out: &mut Vec<u8>, side: Side, first: u8, payload: &[u8]) {
    let bit = if side == Side::Client { 128 } else { 0 };
    out.push(first);
    match payload.len() {
        short @ ..126 => out.push(bit | short as u8),
        long => {
            out.push(bit | 126);
            out.extend((long as u16).to_be_bytes());
        }
    }
    if side == Side::Client {
        out.extend(MASK);
        out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        out.extend(payload);
    }
}

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::time::Duration;

const TAG: u32 = 0x6465_736b;

/// A frame as the tests write and read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
}

fn frame(first: u8, payload: &[u8]) -> Frame {
    Frame { first, payload: payload.to_vec() }
}

impl Frame {
    fn bytes(&self, side: Side) -> Vec<u8> {
        let masked = if side == Side::Client { 0x80 } else { 0 };
        let mut out = vec![self.first];
        match self.payload.len() {
            short @ ..126 => out.push(masked | short as u8),
            medium @ ..65536 => {
                out.push(masked | 126);
                out.extend((medium as u16).to_be_bytes());
            }
            long => {
                out.push(masked | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        let mask = if side == Side::Client { [0xa1, 0x5e, 0x00, 0xff] } else { [0; 4] };
        if side == Side::Client {
            out.extend(mask);
        }
        out.extend(self.payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
        out
    }
}

/// The other parser: takes a whole stream apart at once, and panics if its end cuts a frame.
fn read_all(mut bytes: &[u8]) -> Vec<Frame> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken
    }
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (first, second) = (take(&mut bytes, 1)[0], take(&mut bytes, 1)[0]);
        let length = match second & 0x7f {
            126 => take(&mut bytes, 2),
            127 => take(&mut bytes, 8),
            _ => &[second & 0x7f],
        };
        let length = length.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
        let mask = if second & 0x80 == 0 { &[0; 4] } else { take(&mut bytes, 4) };
        let payload = take(&mut bytes, length);
        let payload = payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]).collect();
        frames.push(Frame { first, payload });
    }
    frames
}

/// What is said in a test.
#[derive(Clone, Debug)]
enum Item {
    /// A message in fragments, each of which may be followed by a control frame.
    Message(Vec<(Frame, Option<Frame>)>),
    /// A pong to a ping of ours.
    Answer,
}

fn control_frame() -> impl Strategy<Value = Frame> {
    let near_miss = Just(Pings::new(TAG).payload(u32::MAX).to_vec());
    let payload = prop_oneof![vec(any::<u8>(), 0..=125), near_miss, vec(any::<u8>(), 8)];
    (select(vec![0x89, 0x8a]), payload).prop_map(|(first, payload)| Frame { first, payload })
}

fn item() -> impl Strategy<Value = Item> {
    let size = select(vec![0, 1, 125, 126, 127, 300, 4096, 65535, 65536, 65537]);
    let small = 0..64_usize;
    let size = prop_oneof![4 => small, 1 => size];
    let fragment = (size, any::<u8>(), proptest::option::weighted(0.3, control_frame()));
    let message = (vec(fragment, 1..4), select(vec![0x1, 0x2, 0x41, 0x42]));
    let message = message.prop_map(|(fragments, opcode)| {
        let last = fragments.len() - 1;
        let frames = fragments.into_iter().enumerate().map(|(n, (size, fill, control))| {
            let first = if n == 0 { opcode } else { 0 } | if n == last { 0x80 } else { 0 };
            (Frame { first, payload: vec![fill; size] }, control)
        });
        Item::Message(frames.collect())
    });
    prop_oneof![3 => message, 1 => Just(Item::Answer)]
}

/// A tracker with what a relay does around it.
struct Relay {
    side: Side,
    tracker: Tracker,
    pings: Pings,
    held: Vec<u8>,
    out: Vec<u8>,
    answers: usize,
}

impl Relay {
    fn new(side: Side) -> Self {
        let (tracker, pings) = (Tracker::new(side), Pings::new(TAG));
        Self { side, tracker, pings, held: Vec::new(), out: Vec::new(), answers: 0 }
    }

    /// Passes a chunk on; puts `own` in if that is possible.
    fn pass(&mut self, chunk: &[u8], own: Option<&Frame>) -> bool {
        let mut chunk = [&self.held, chunk].concat();
        let pass = self.tracker.follow(&mut chunk, &mut self.pings);
        self.answers += usize::from(pass.answered.is_some());
        let (forward, rest) = chunk.split_at(pass.forward);
        self.held = rest[..pass.held].to_vec();
        assert!(self.held.len() <= HELD);
        match (own, pass.boundary) {
            (Some(own), Some(at)) => {
                self.out.extend(&forward[..at]);
                self.out.extend(own.bytes(self.side));
                self.out.extend(&forward[at..]);
                true
            }
            _ => {
                self.out.extend(forward);
                false
            }
        }
    }

    fn finish(&mut self) {
        self.pings.forget();
        self.pass(&[], None);
        assert!(self.held.is_empty());
    }
}

fn pass_all(side: Side, bytes: &[u8]) -> Relay {
    let mut relay = Relay::new(side);
    relay.pass(bytes, None);
    assert_eq!(relay.out, bytes);
    relay
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What arrives is what was sent, less the answers to us, plus our frames between two others.
    #[test]
    fn streams_survive_any_cut(
        items in vec(item(), 1..12),
        client in any::<bool>(),
        cuts in vec((any::<Index>(), any::<bool>()), 0..40),
        fine in vec(1..9_usize, 0..60),
    ) {
        let side = if client { Side::Client } else { Side::Server };
        let mut source = Vec::new();
        let mut expected = Vec::new();
        let mut answers = Vec::new();
        for item in &items {
            match item {
                Item::Message(frames) => {
                    for (part, control) in frames {
                        for frame in std::iter::once(part).chain(control) {
                            source.extend(frame.bytes(side));
                            expected.push(frame.clone());
                        }
                    }
                }
                Item::Answer => {
                    let count = answers.len() as u32 + 1;
                    answers.push(source.len());
                    source.extend(frame(0x8a, &Pings::new(TAG).payload(count)).bytes(side));
                }
            }
        }
        // Cuts anywhere, and many of a few bytes each around the first of them.
        let mut at: Vec<(usize, bool)> =
            cuts.iter().map(|(at, own)| (at.index(source.len() + 1), *own)).collect();
        let mut place = at.first().map_or(0, |cut| cut.0);
        for step in fine {
            place = (place + step).min(source.len());
            at.push((place, false));
        }
        at.push((source.len(), false));
        // A ping is sent before its answer, and no more than two wait.
        at.extend(answers.iter().map(|answer| (*answer, true)));
        at.sort_unstable();

        let own = frame(0x89, b"our own frame");
        let mut relay = Relay::new(side);
        let (mut start, mut sent, mut inserted) = (0, 0, 0);
        for (end, insert) in at {
            while sent < answers.len() && answers[sent] < end.max(start + 1) {
                relay.pings.send(Instant::now());
                sent += 1;
            }
            inserted += usize::from(relay.pass(&source[start..end], insert.then_some(&own)));
            start = end;
        }
        relay.finish();
        prop_assert!(!relay.tracker.lost() && relay.tracker.boundary());
        prop_assert_eq!(relay.answers, answers.len());
        let delivered = read_all(&relay.out);
        prop_assert_eq!(delivered.iter().filter(|frame| **frame == own).count(), inserted);
        let delivered: Vec<_> = delivered.into_iter().filter(|frame| *frame != own).collect();
        prop_assert_eq!(relay.tracker.data() + relay.tracker.control(), expected.len() as u64);
        prop_assert!(delivered == expected);
    }

    #[test]
    fn anything_else_passes_byte_for_byte(
        chunks in vec(vec(prop_oneof![any::<u8>(), select(vec![0x8a, 0x88, 8])], 0..40), 0..20),
        client in any::<bool>(),
        pings in 0..3_u8,
    ) {
        let mut relay = Relay::new(if client { Side::Client } else { Side::Server });
        for _ in 0..pings {
            relay.pings.send(Instant::now());
        }
        for chunk in &chunks {
            relay.pass(chunk, None);
        }
        relay.finish();
        prop_assert_eq!(relay.out, chunks.concat());
    }

    /// Once lost, always lost: nothing is put in or taken out again.
    #[test]
    fn a_lost_stream_is_left_alone(tail in vec(any::<u8>(), 0..200)) {
        let mut relay = Relay::new(Side::Client);
        relay.pass(&[0xff], None);
        relay.pass(&[0xff], None);
        prop_assert!(relay.tracker.lost());
        relay.pings.send(Instant::now());
        let own = frame(0x89, b"no");
        prop_assert!(!relay.pass(&tail, Some(&own)));
        let pong = frame(0x8a, &Pings::new(TAG).payload(1)).bytes(Side::Client);
        prop_assert!(!relay.pass(&pong, Some(&own)));
        prop_assert_eq!(relay.out, [&[0xff, 0xff], &tail[..], &pong].concat());
    }
}

#[test]
fn each_broken_rule_gives_the_stream_up() {
    let masked = Side::Client;
    let plain = Side::Server;
    for (side, bytes, rule) in [
        (masked, &[0x82, 0x01, 0x00][..], "a client's frame without a mask"),
        (plain, &[0x82, 0x81, 0, 0, 0, 0, 0], "a server's frame with a mask"),
        (plain, &[0x83, 0x00], "a reserved data frame"),
        (plain, &[0x8b, 0x00], "a reserved control frame"),
        (plain, &[0x09, 0x00], "a control frame in fragments"),
        (plain, &[0x89, 126, 0, 126], "a long control frame"),
        (plain, &[0x80, 0x00], "a continuation of nothing"),
        (plain, &[0x01, 0x00, 0x82, 0x00], "a message inside of another"),
        (plain, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "a length beyond 63 bits"),
    ] {
        let relay = pass_all(side, bytes);
        assert!(relay.tracker.lost() && !relay.tracker.boundary(), "{rule}");
        let mut relay = Relay::new(side);
        bytes.iter().for_each(|byte| assert!(!relay.pass(&[*byte], None)));
        assert!(relay.tracker.lost() && relay.out == bytes, "{rule}, byte by byte");
    }
}

#[test]
fn extensions_and_the_longest_length_are_fine() {
    assert!(!pass_all(Side::Server, &[0xf2, 0x00]).tracker.lost());
    let longest = pass_all(Side::Server, &[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0]);
    assert!(!longest.tracker.lost() && !longest.tracker.boundary());
}

#[test]
fn nothing_is_put_in_after_a_close_frame() {
    let mut relay = Relay::new(Side::Server);
    let own = frame(0x89, b"");
    assert!(relay.pass(&[0x88, 0x00], Some(&own)), "before it is fine");
    assert!(relay.tracker.closed() && relay.tracker.boundary() && !relay.tracker.open_boundary());
    assert!(!relay.pass(&[0x82, 0x00], Some(&own)));
    assert_eq!(relay.out, [0x89, 0, 0x88, 0, 0x82, 0]);
}

#[test]
fn a_boundary_is_the_first_one() {
    let mut tracker = Tracker::new(Side::Server);
    let pings = &mut Pings::new(TAG);
    assert_eq!(tracker.follow(&mut [], pings).boundary, Some(0));
    assert_eq!(tracker.follow(&mut [0x82, 3, 1], pings).boundary, Some(0));
    assert_eq!(tracker.follow(&mut [2], pings).boundary, None);
    assert_eq!(tracker.follow(&mut [3, 0x82, 0, 0x82], pings).boundary, Some(1));
    assert_eq!(tracker.follow(&mut [0], pings).boundary, Some(1));
    assert_eq!(tracker.data(), 3);
}

#[test]
fn nothing_is_held_while_no_ping_waits() {
    let mut tracker = Tracker::new(Side::Server);
    let pass = tracker.follow(&mut [0x8a], &mut Pings::new(TAG));
    assert_eq!((pass.forward, pass.held), (1, 0));
}

#[test]
fn a_pong_answers_all_pings_before_it() {
    let now = Instant::now();
    let mut pings = Pings::new(TAG);
    let payloads = [0, 1, 2].map(|n| pings.send(now + Duration::from_secs(n)));
    assert_eq!(pings.answered(payloads[0]), Some(None), "ours, and too old to be timed");
    assert_eq!(pings.answered(payloads[1]), Some(Some(now + Duration::from_secs(1))));
    assert_eq!(pings.answered(payloads[1]), None, "only once");
    assert!(pings.waiting());
    let fourth = pings.send(now + Duration::from_secs(3));
    assert_eq!(pings.answered(fourth), Some(Some(now + Duration::from_secs(3))));
    assert!(!pings.waiting());
    assert_eq!(pings.answered(payloads[2]), None, "answered by the one after it");
}

/// A peer that was stopped for minutes answers all that it was asked meanwhile.
#[test]
fn no_pong_to_any_of_many_pings_goes_on_to_the_other_side() {
    let (mut tracker, mut pings) = (Tracker::new(Side::Server), Pings::new(TAG));
    let now = Instant::now();
    let payloads = [0, 1, 2, 3, 4].map(|n| pings.send(now + Duration::from_secs(n)));
    let mut chunk: Vec<u8> =
        payloads.iter().flat_map(|payload| frame(0x8a, payload).bytes(Side::Server)).collect();
    let pass = tracker.follow(&mut chunk, &mut pings);
    assert_eq!((pass.forward, pass.held), (0, 0));
    assert_eq!(pass.answered, Some(now + Duration::from_secs(4)));
    assert!(!pings.waiting());
}

#[test]
fn own_frames_are_those_of_the_rfc() {
    let mut out = Vec::new();
    ping(&mut out, *b"deskgate", None);
    assert_eq!(out, b"\x89\x08deskgate");
    out.clear();
    ping(&mut out, [0; 8], Some([1, 2, 3, 4]));
    assert_eq!(out, [0x89, 0x88, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
    out.clear();
    close(&mut out, 1001, "bye", None);
    assert_eq!(out, b"\x88\x05\x03\xe9bye");
    out.clear();
    close(&mut out, 1001, "bye", Some([9; 4]));
    assert_eq!(read_all(&out), [frame(0x88, b"\x03\xe9bye")]);
}

#[test]
fn a_long_reason_is_cut_between_two_characters() {
    let mut out = Vec::new();
    close(&mut out, 4401, &"ä".repeat(100), Some([7; 4]));
    assert!(out.len() <= OWN);
    let [close] = &read_all(&out)[..] else { panic!("one frame") };
    let text = std::str::from_utf8(&close.payload[2..]).unwrap();
    assert_eq!(text, "ä".repeat(61));
}

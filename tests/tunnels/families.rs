//! Cases in the families of the Autobahn test suite: what a peer may do right or wrong.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::rig::{BINARY, CLOSE, PING, PONG, TEXT};
use crate::support::noise;

const MORE: u8 = 0;

/// Bits of a frame's first byte.
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// Compression as it is offered or agreed on.
pub(super) const DEFLATE: &str = "permessage-deflate";
const NO_CONTEXT: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A frame before it has a mask.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// FIN, the reserved bits and the opcode.
    pub(super) first: u8,
    pub(super) payload: Vec<u8>,
}

/// What is done next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Say(Vec<Raw>),
    /// Wait for one more frame of the other side.
    Hear,
}

/// What one side says on a connection of its own.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// What is offered or agreed on.
    pub(super) extension: Option<&'static str>,
    pub(super) steps: Vec<Step>,
    /// Bytes written at once.
    pub(super) piece: usize,
    /// The other side has nothing to complain about.
    pub(super) good: bool,
}

impl Case {
    fn new(name: impl Into<String>, good: bool, frames: Vec<Raw>) -> Self {
        let (name, steps) = (name.into(), vec![Step::Say(frames)]);
        Self { name, extension: None, steps, piece: usize::MAX, good }
    }

    fn in_pieces(mut self, piece: usize) -> Self {
        self.name = format!("{}, {piece} bytes at once", self.name);
        self.piece = piece;
        self
    }

    fn with(mut self, extension: &'static str) -> Self {
        self.extension = Some(extension);
        self
    }

    fn then(mut self, frames: Vec<Raw>) -> Self {
        self.steps.extend([Step::Hear, Step::Say(frames)]);
        self
    }
}

fn raw(first: u8, payload: impl AsRef<[u8]>) -> Raw {
    Raw { first, payload: payload.as_ref().to_vec() }
}

fn whole(code: u8, payload: impl AsRef<[u8]>) -> Raw {
    raw(FIN | code, payload)
}

/// A message in fragments of this size.
fn cut(code: u8, payload: &[u8], size: usize) -> Vec<Raw> {
    let mut frames: Vec<_> = payload.chunks(size).map(|piece| raw(MORE, piece)).collect();
    if let Some(first) = frames.first_mut() {
        first.first = code;
    }
    if let Some(last) = frames.last_mut() {
        last.first |= FIN;
    }
    frames
}

fn bye(code: u16, reason: impl AsRef<[u8]>) -> Raw {
    whole(CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
}

fn letters(size: usize) -> Vec<u8> {
    noise(size).iter().map(|byte| b'a' + byte % 26).collect()
}

/// Every case.
pub(super) fn all() -> Vec<Case> {
    let families = [framing, pings, reserved, opcodes, fragments, utf8, closing, limits, deflate];
    families.iter().flat_map(|family| family()).collect()
}

/// Family 1.
fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        for (code, payload) in [(TEXT, letters(size)), (BINARY, noise(size))] {
            let case =
                Case::new(format!("1: {code}, {size} bytes"), true, vec![whole(code, payload)]);
            cases.push(case.clone());
            cases.push(case.in_pieces(if size > 1000 { 997 } else { 1 }));
        }
    }
    cases
}

/// Family 2.
fn pings() -> Vec<Case> {
    let ten: Vec<_> = (0..10_u8).map(|n| whole(PING, [n; 10])).collect();
    vec![
        Case::new("2: an empty ping", true, vec![whole(PING, "")]),
        Case::new("2: a ping", true, vec![whole(PING, "hello")]),
        Case::new("2: a binary ping", true, vec![whole(PING, [0, 0xff, 0xfe, 0xfd, 0])]),
        // As long as deskgate's own.
        Case::new("2: a ping of 8 bytes", true, vec![whole(PING, [7; 8])]),
        Case::new("2: a pong of 8 bytes", true, vec![whole(PONG, [7; 8])]).in_pieces(1),
        Case::new("2: the longest ping", true, vec![whole(PING, [0xfe; 125])]),
        Case::new("2: the longest ping", true, vec![whole(PING, [0xfe; 125])]).in_pieces(1),
        Case::new("2: too long a ping", false, vec![whole(PING, [0xfe; 126])]),
        Case::new("2: a pong", true, vec![whole(PONG, "")]),
        Case::new("2: a pong, then a ping", true, vec![whole(PONG, "x"), whole(PING, "y")]),
        Case::new("2: ten pings", true, ten.clone()),
        Case::new("2: ten pings", true, ten).in_pieces(1),
    ]
}

/// Family 3.
fn reserved() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..8_u8 {
        for code in [TEXT, BINARY, PING, CLOSE] {
            let bad = whole(code | bits << 4, "small");
            let name = format!("3: bits {bits} of {code}");
            cases.push(Case::new(&name, false, vec![bad.clone()]));
            let after = format!("{name} after a message");
            cases.push(Case::new(after, false, vec![whole(TEXT, "first")]).then(vec![bad]));
        }
    }
    cases
}

/// Family 4.
fn opcodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for code in (3..8).chain(11..16) {
        let name = format!("4: opcode {code}");
        cases.push(Case::new(&name, false, vec![whole(code, "")]));
        cases.push(Case::new(&name, false, vec![whole(code, "payload")]).in_pieces(1));
        let first = Case::new(format!("{name} after a message"), false, vec![whole(TEXT, "first")]);
        cases.push(first.then(vec![whole(code, "payload")]));
    }
    cases
}

/// Family 5.
fn fragments() -> Vec<Case> {
    let parts = |between: &[Raw]| {
        [&[raw(TEXT, "one ")], between, &[raw(MORE, "two ")], between, &[whole(MORE, "three")]]
            .concat()
    };
    let mut cases = vec![
        Case::new("5: a ping in two", false, vec![raw(PING, "a"), whole(MORE, "b")]),
        Case::new("5: a pong in two", false, vec![raw(PONG, "a"), whole(MORE, "b")]),
        Case::new("5: a text in three", true, parts(&[])),
        Case::new("5: a text in three, pings between", true, parts(&[whole(PING, "here")])),
        Case::new("5: a text in three, pongs between", true, parts(&[whole(PONG, [3; 8])])),
        Case::new("5: more of nothing", false, vec![whole(MORE, "continued")]),
        Case::new("5: more of nothing, unfinished", false, vec![raw(MORE, "continued")]),
        Case::new("5: a text in a text", false, vec![raw(TEXT, "one"), whole(TEXT, "two")]),
        Case::new("5: a binary in a text", false, vec![raw(TEXT, "one"), whole(BINARY, "two")]),
        Case::new("5: more after the end", false, cut(TEXT, b"a message", 5))
            .then(vec![whole(MORE, "still more")]),
    ];
    let empty = vec![raw(TEXT, ""), raw(MORE, ""), whole(MORE, "")];
    cases.push(Case::new("5: three times nothing", true, empty));
    for case in cases.clone() {
        cases.push(case.in_pieces(1));
    }
    cases
}

/// Family 6.
fn utf8() -> Vec<Case> {
    let good = [
        "κόσμε",
        "\u{0}",
        "\u{7f}",
        "\u{80}",
        "\u{7ff}",
        "\u{800}",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
        "\u{fffe}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "grüße \u{1f5a5}",
    ];
    let bad: [&[u8]; 18] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xbf\x80\xbf",
        b"\xc0 \xdf ",
        b"\xe0 \xef ",
        b"\xf0 \xf7 ",
        b"\xc0",
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xfe\xfe\xff\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xed\xbf\xbf",
    ];
    let texts = good.iter().map(|text| (text.as_bytes(), true));
    let texts = texts.chain(bad.iter().map(|text| (*text, false)));
    let mut cases = Vec::new();
    for (text, good) in texts {
        let name = format!("6: {}", text.escape_ascii());
        cases.push(Case::new(&name, good, vec![whole(TEXT, text)]));
        cases.push(Case::new(&name, good, vec![whole(TEXT, text)]).in_pieces(1));
        cases.push(Case::new(format!("{name}, cut"), good, cut(TEXT, text, 1)));
    }
    cases
}

/// Family 7.
fn closing() -> Vec<Case> {
    let mut cases = vec![
        Case::new("7: goodbye after a message", true, vec![whole(TEXT, "hello")]),
        Case::new("7: goodbye without a code", true, vec![whole(CLOSE, "")]),
        Case::new("7: goodbye twice", true, vec![bye(1000, ""), bye(1000, "")]),
        Case::new("7: a ping after goodbye", true, vec![bye(1000, ""), whole(PING, "there?")]),
        Case::new("7: a message after goodbye", true, vec![bye(1000, ""), whole(TEXT, "still")]),
        Case::new("7: goodbye inside a message", true, vec![raw(TEXT, "begun"), bye(1000, "")]),
        Case::new("7: half a code", false, vec![whole(CLOSE, [3])]),
        Case::new("7: the longest reason", true, vec![bye(1000, [b'*'; 123])]),
        Case::new("7: too long a reason", false, vec![bye(1000, [b'*'; 124])]),
        Case::new("7: a reason that is not text", false, vec![bye(1000, b"\xce\xba\xe1\xbd")]),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4401, 4999]
    {
        cases.push(Case::new(format!("7: {code}"), true, vec![bye(code, "why")]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(Case::new(format!("7: {code}"), false, vec![bye(code, "why")]));
    }
    for case in cases.clone() {
        cases.push(case.in_pieces(1));
    }
    cases
}

/// Families 9 and 10.
fn limits() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [1 << 16, 1 << 18, 1 << 20, 4 << 20] {
        for (code, payload) in [(TEXT, letters(size)), (BINARY, noise(size))] {
            cases.push(Case::new(format!("9: {code}, {size}"), true, vec![whole(code, payload)]));
        }
    }
    let (text, bytes) = (letters(1 << 20), noise(1 << 20));
    for size in [256, 1024, 4096, 1 << 14, 1 << 16, 1 << 18] {
        for (code, payload) in [(TEXT, &text), (BINARY, &bytes)] {
            let name = format!("9: {code} in fragments of {size}");
            cases.push(Case::new(name, true, cut(code, payload, size)));
            let name = format!("10: {code}");
            cases.push(Case::new(name, true, vec![whole(code, payload)]).in_pieces(size));
        }
    }
    cases
}

/// Families 12 and 13.
fn deflate() -> Vec<Case> {
    let mut cases = Vec::new();
    for extension in [DEFLATE, NO_CONTEXT] {
        for size in [0, 16, 64, 256, 1024, 4096, 16_384, 65_536, 131_072] {
            for code in [TEXT, BINARY] {
                let payload = if code == TEXT { letters(size) } else { noise(size) };
                let mut packer = Packer::new(extension == DEFLATE);
                let mut case = Case::new("", true, vec![packer.message(code, &payload)]);
                for _ in 0..9 {
                    case = case.then(vec![packer.message(code, &payload)]);
                }
                case.name = format!("12: ten times {code}, {size} bytes, {extension}");
                cases.push(case.with(extension));
                let message = Packer::new(true).message(code, &payload);
                let mut frames = cut(code | RSV1, &message.payload, 1 + size / 5);
                frames.insert(1, whole(PING, "between"));
                let name = format!("13: {code}, {size} bytes, cut, {extension}");
                cases.push(Case::new(name, true, frames).with(extension));
            }
        }
        let packed = |first: u8| raw(first, &Packer::new(true).message(TEXT, b"hello").payload);
        let bad = [
            ("not deflated", vec![raw(FIN | RSV1 | BINARY, [0xff; 40])]),
            ("the bit on a ping", vec![packed(FIN | RSV1 | PING)]),
            ("the bit on a second fragment", vec![raw(TEXT, "a"), packed(FIN | RSV1 | MORE)]),
            ("another bit, too", vec![packed(FIN | RSV1 | 0x20 | TEXT)]),
        ];
        for (name, frames) in bad {
            let name = format!("13: {name}, {extension}");
            cases.push(Case::new(name, false, frames).with(extension));
        }
        let plain = vec![whole(TEXT, "not compressed at all")];
        let name = format!("13: a message that is not compressed, {extension}");
        cases.push(Case::new(name, true, plain).with(extension));
    }
    cases
}

/// Compresses messages (RFC 7692 section 7.2.1).
struct Packer {
    state: Compress,
    /// What was said before may be referred to.
    context: bool,
}

impl Packer {
    fn new(context: bool) -> Self {
        Self { state: Compress::new(Compression::default(), false), context }
    }

    fn message(&mut self, code: u8, payload: &[u8]) -> Raw {
        const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
        if payload.is_empty() {
            // Section 7.2.3.6.
            return whole(RSV1 | code, [0]);
        }
        let mut out = Vec::with_capacity(payload.len() + 1024);
        if !self.context {
            self.state.reset();
        }
        let status = self.state.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
        assert_eq!(status, Status::Ok);
        assert!(out.ends_with(&TAIL), "{out:?}");
        out.truncate(out.len() - TAIL.len());
        Raw { first: FIN | RSV1 | code, payload: out }
    }
}

//! Plays rows of bytes and compares what the client and the upstream got of them.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::recorder::{Message, Recorder, State};
use crate::support::{Client, Gateway, eventually};

use Want::{Cut, Passed, PassedAndClosed, Refused};

/// What is glued to every row.
pub(super) const SECOND: &str = "GET /API/second HTTP/1.1\r\nHost: desk.example\r\n\r\n";

/// What must become of a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    /// This status, and an end of the connection. The upstream sees nothing.
    Refused(u16),
    /// The same with 400, for what is seen only when the body is on its way: the upstream gets no whole
    /// message, and what it has of one is cut off.
    Cut,
    /// One request with this body, then the second one as a request of its own.
    Passed(&'static str),
    /// One request with this body, then an end of the connection.
    PassedAndClosed(&'static str),
}

pub(super) type Row<'a> = (&'a str, Vec<u8>, Want);

pub(super) fn row<'a>(name: &'a str, bytes: impl AsRef<[u8]>, want: Want) -> Row<'a> {
    (name, bytes.as_ref().to_vec(), want)
}

/// A POST with these header lines and what follows them.
pub(super) fn post(headers: &str, body: &str) -> String {
    format!("POST /API/first HTTP/1.1\r\nHost: desk.example\r\n{headers}\r\n{body}")
}

/// A chunked POST of these bytes.
pub(super) fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// A GET with these header lines.
pub(super) fn get(headers: &str) -> String {
    format!("GET /API/first HTTP/1.1\r\nHost: desk.example\r\n{headers}\r\n")
}

pub(super) struct Rig {
    pub(super) gateway: Gateway,
    pub(super) recorder: Recorder,
    played: AtomicUsize,
}

impl Rig {
    pub(super) fn start() -> Self {
        let recorder = Recorder::start();
        let (address, port) = (recorder.address().ip(), recorder.address().port());
        let upstream = |name| format!("[upstreams.{name}]\nhost = \"{address}\"\nport = {port}\n");
        let gateway = Gateway::start(&["pyos", "website"].map(upstream).concat());
        Self { gateway, recorder, played: AtomicUsize::new(0) }
    }

    /// Sends a row, at once or byte for byte, and says what was wrong with what the client got.
    fn send(&self, all: &[u8], want: Want, drip: bool) -> Result<(), String> {
        let mut client = Client::connect(self.gateway.address());
        // An answer may come, and the connection end, before everything was sent.
        for piece in all.chunks(if drip { 1 } else { all.len() }) {
            if client.stream().write_all(piece).is_err() {
                break;
            }
        }
        let method = all.split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method);
        let first = client.try_response(&method).map_err(|error| error.to_string())?;
        let status = match want {
            Refused(status) => status,
            Cut => 400,
            Passed(_) | PassedAndClosed(_) => 200,
        };
        if first.status != status {
            return Err(format!("{first:?}"));
        }
        if let Passed(_) = want {
            return match client.try_response("GET") {
                Ok(second) if second.text().starts_with("/API/second") => Ok(()),
                Ok(second) => Err(format!("second {second:?}")),
                Err(error) => Err(format!("second: {error}")),
            };
        }
        let mut rest = Vec::new();
        match client.from.read_to_end(&mut rest) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err("no end".to_owned()),
            // A reset is an end, too.
            _ if rest.is_empty() => Ok(()),
            _ => Err(format!("after {status}: {}", String::from_utf8_lossy(&rest))),
        }
    }

    /// Plays all rows; afterwards the upstream has what they wanted and nothing else.
    pub(super) fn play_all(&self, rows: &[Row<'_>]) {
        let mut played = Vec::new();
        for (name, bytes, want) in rows {
            for drip in [false, true] {
                let number = self.played.fetch_add(1, Ordering::SeqCst);
                let all = numbered(&[bytes, SECOND.as_bytes()].concat(), number);
                let sent = self.send(&all, *want, drip);
                let how = if drip { "byte for byte" } else { "at once" };
                played.push((format!("{name:?}, {how}"), number, *want, sent));
            }
        }
        let all = eventually("no message is under way", || {
            let all = self.recorder.messages();
            all.iter().all(|message| message.state != State::Begun).then_some(all)
        });
        let strange = all.iter().find(|message| {
            matches!(message.state, State::Ambiguous(_)) || message.line().contains("smuggled")
        });
        assert!(strange.is_none(), "{strange:#?}");
        let mut wrong = Vec::new();
        for (name, number, want, sent) in played {
            if let Err(what) = sent.and_then(|()| judge(&all, number, want)) {
                wrong.push(format!("{name}: not {want:?} but {what}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), 2 * rows.len());
    }
}

/// Makes the targets of a row its own.
fn numbered(bytes: &[u8], number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) =
        ["/API/first", "/API/second"].iter().filter_map(|name| find(rest, name)).min()
    {
        let (before, after) = rest.split_at(at);
        out.extend(before);
        out.extend(format!("-{number}-").bytes());
        rest = after;
    }
    out.extend(rest);
    out
}

/// The end of the first such text in these bytes.
fn find(bytes: &[u8], text: &str) -> Option<usize> {
    let mut windows = bytes.windows(text.len());
    windows.position(|window| window == text.as_bytes()).map(|at| at + text.len())
}

/// Compares what reached the upstream of a row with what should have.
fn judge(all: &[Message], number: usize, want: Want) -> Result<(), String> {
    let of = |name: &str| -> Vec<_> {
        let mark = format!(" /API/{name}-{number}- HTTP/1.1");
        all.iter().filter(|message| message.line().ends_with(&mark)).collect()
    };
    let (firsts, seconds) = (of("first"), of("second"));
    let states: Vec<_> = firsts.iter().map(|message| &message.state).collect();
    let good = match want {
        Refused(_) => firsts.is_empty() && seconds.is_empty(),
        Cut => firsts.len() <= 1 && !states.contains(&&State::Whole) && seconds.is_empty(),
        Passed(body) | PassedAndClosed(body) => {
            let followed = seconds.len() == usize::from(matches!(want, Passed(_)));
            let whole = |message: &&&Message| {
                message.state == State::Whole && message.body == body.as_bytes()
            };
            firsts.len() == 1 && firsts.iter().filter(whole).count() == 1 && followed
        }
    };
    let bodies: Vec<_> = firsts.iter().map(|first| String::from_utf8_lossy(&first.body)).collect();
    let seconds = seconds.len();
    if good { Ok(()) } else { Err(format!("the upstream got {states:?} {bodies:?} and {seconds}")) }
}

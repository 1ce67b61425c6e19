//! What the tests of tunnels share: frames by hand, pods that obey, processes with a report.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::support::{Client, Gateway, SOON, Site, eventually, pod_listeners};

/// The head of a 101 made by hand, an answer to [`Site::upgrade`].
pub(super) const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// Any mask will do.
pub(super) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a machine that does other things may be late by. No test asks how fast something is.
pub(super) const LATE: Duration = SOON;

/// Whether tests run that take minutes of real time, or thousands more of everything.
pub(super) fn slow() -> bool {
    std::env::var_os("DESKGATE_SLOW").is_some_and(|value| value == "1")
}

/// Says that a test did not run, and why.
#[expect(clippy::print_stdout, reason = "a test that silently proves nothing is worse than none")]
pub(super) fn skipped(why: &str) {
    println!("skipped: {why}");
}

/// The row of the screen with more keys.
pub(super) fn screen(keys: &str) -> String {
    format!("[[route]]\nname = \"websockify\"\n{keys}\n")
}

/// A frame as it came, its payload without mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) last: bool,
    pub(super) code: u8,
    pub(super) masked: bool,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Code and reason of a Close frame.
    pub(super) fn close(&self) -> (u16, String) {
        assert_eq!(self.code, CLOSE, "{self:?}");
        let (code, reason) = self.payload.split_first_chunk().expect("a close without a code");
        (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).unwrap())
    }
}

fn unmask(mask: [u8; 4], payload: &mut [u8]) {
    if mask == [0; 4] {
        return;
    }
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// A whole frame, masked if there is a mask.
pub(super) fn frame(last: bool, code: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![code | if last { 0x80 } else { 0 }];
    match payload.len() {
        length @ 0..126 => out.push(bit | length as u8),
        length @ 126..0x1_0000 => {
            out.push(bit | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(bit | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(mask.iter().flatten());
    let start = out.len();
    out.extend(payload);
    if let Some(mask) = mask {
        unmask(mask, &mut out[start..]);
    }
    out
}

/// A client's frame.
pub(super) fn masked(code: u8, payload: &[u8]) -> Vec<u8> {
    frame(true, code, payload, Some(MASK))
}

/// A pod's frame.
pub(super) fn plain(code: u8, payload: &[u8]) -> Vec<u8> {
    frame(true, code, payload, None)
}

/// The next frame; none at the end of the stream, also of one that is reset.
pub(super) fn read_frame(from: &mut impl Read) -> Option<Frame> {
    match try_frame(from) {
        Ok(frame) => Some(frame),
        Err(error) => match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => None,
            _ => panic!("no frame: {error}"),
        },
    }
}

fn try_frame(from: &mut impl Read) -> io::Result<Frame> {
    let (first, masked, payload) = try_raw(from)?;
    Ok(Frame { last: first & 0x80 != 0, code: first & 0x0f, masked, payload })
}

/// A frame's first byte, whether it had a mask, and its payload without.
pub(super) fn try_raw(from: &mut impl Read) -> io::Result<(u8, bool, Vec<u8>)> {
    let mut head = [0; 2];
    from.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            from.read_exact(&mut length)?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            from.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        length => u64::from(length),
    };
    let masked = head[1] & 0x80 != 0;
    let mut mask = [0; 4];
    if masked {
        from.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    from.read_exact(&mut payload)?;
    unmask(mask, &mut payload);
    Ok((head[0], masked, payload))
}

/// Makes the drop of a connection's last handle send an RST instead of a FIN.
pub(super) fn reset_at_drop(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A pod's end of a tunnel that the test holds.
pub(super) struct Held {
    pub(super) stream: BufReader<TcpStream>,
}

impl Held {
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(super) fn frame(&mut self) -> Option<Frame> {
        read_frame(&mut self.stream)
    }

    /// Waits for the other side's end. One that is reset has ended, too.
    pub(super) fn wait_for_end(&mut self) {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("no end: {error}"),
            }
        }
    }

    /// Half of it.
    pub(super) fn finish(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Ends it with an RST.
    pub(super) fn reset(self) {
        reset_at_drop(self.stream.get_ref());
    }
}

/// A pod by hand: it accepts upgrades and gives the test the only handle of each connection, so that
/// the test can end one in every way there is.
pub(super) struct Pod {
    held: Receiver<Held>,
}

impl Pod {
    pub(super) fn on(listener: TcpListener) -> Self {
        let (send, held) = channel();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if accept(stream, &send).is_none() {
                    return;
                }
            }
        });
        Self { held }
    }

    /// The next tunnel's end.
    pub(super) fn next(&self) -> Held {
        self.held.recv_timeout(SOON).expect("no upgrade came to the pod")
    }
}

/// None if the test is over.
fn accept(stream: TcpStream, send: &Sender<Held>) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(SOON));
    let _ = stream.set_write_timeout(Some(SOON));
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return Some(()); // A look whether the port is open.
        }
    }
    let _ = stream.get_mut().write_all(ACCEPT.as_bytes());
    send.send(Held { stream }).ok()
}

/// A site whose pods give every tunnel's end to the test, without handles of their own.
pub(super) struct Rig {
    pub(super) gateway: Gateway,
    pub(super) pod: Pod,
    ended: Cell<usize>,
}

impl Rig {
    pub(super) fn start(toml: &str) -> Self {
        let ([first, _second], port) = pod_listeners();
        let gateway = Gateway::start(&with_port(toml, port));
        Self { gateway, pod: Pod::on(first), ended: Cell::new(0) }
    }

    /// A tunnel: both its ends.
    pub(super) fn open(&self) -> (Client, Held) {
        let mut client = Client::connect(self.gateway.address());
        client.send(Site::upgrade(&Site::screen()));
        let answer = client.head().unwrap();
        assert_eq!(answer.status, 101, "{answer:?}");
        (client, self.pod.next())
    }

    /// Opens one and ends it, so that what a first tunnel takes for good is taken; returns the
    /// number of descriptors.
    pub(super) fn warm(&self) -> usize {
        let before = self.gateway.descriptors();
        drop(self.open());
        self.end();
        self.settled(before);
        before
    }

    /// Waits for the next tunnel's end; why it ended.
    pub(super) fn end(&self) -> String {
        let number = self.ended.get();
        self.ended.set(number + 1);
        eventually("a tunnel has ended", || {
            let line = self.gateway.access("/websockify").into_iter().nth(number)?;
            Some(line["reason"].as_str().unwrap().to_owned())
        })
    }

    /// Waits until there are no more descriptors than before.
    pub(super) fn settled(&self, descriptors: usize) {
        eventually("the descriptors are back", || {
            (self.gateway.descriptors() <= descriptors).then_some(())
        });
    }
}

/// Adds the port of the pods' screens to a configuration.
pub(super) fn with_port(toml: &str, port: u16) -> String {
    format!("{toml}\n[desktop.ports]\nvnc = {port}\n")
}

/// Raises the limit on descriptors of a process, to all that it is allowed: others may need more.
pub(super) fn allow_descriptors(pid: u32, count: usize) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut words = line.split_whitespace().skip(3).map(|word| word.parse().unwrap_or(usize::MAX));
    let (soft, hard) = (words.next().unwrap(), words.next().unwrap());
    if soft < count {
        assert!(hard >= count, "{count} descriptors are needed: raise the hard limit of {hard}");
        let limit = format!("--nofile={hard}:{hard}");
        let pid = pid.to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(done.success());
    }
}

pub(super) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tunnels").join(name)
}

pub(super) fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    assert!(path.exists(), "{} is missing: run scripts/setup test", path.display());
    path
}

/// A program that says one line of JSON after the other, and ends when its input does.
pub(super) struct Program {
    child: Child,
    name: String,
    lines: Mutex<Receiver<String>>,
    said: NamedTempFile,
}

impl Program {
    pub(super) fn start(name: &str, command: &mut Command) -> Self {
        let said = NamedTempFile::new().unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said.reopen().unwrap());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}: run scripts/setup test", command.get_program()));
        let from = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            from.lines()
                .map_while(Result::ok)
                .take_while(|line| send.send(line.clone()).is_ok())
                .count()
        });
        Self { child, name: name.to_owned(), lines: Mutex::new(lines), said }
    }

    /// The next line.
    pub(super) fn line(&self, within: Duration) -> String {
        self.line_or(within, String::new)
    }

    fn line_or(&self, within: Duration, others: impl Fn() -> String) -> String {
        self.lines.lock().unwrap().recv_timeout(within).unwrap_or_else(|error| {
            let said = std::fs::read_to_string(self.said.path()).unwrap_or_default();
            panic!("{}: {error}: no line; it said:\n{said}\n{}", self.name, others())
        })
    }

    /// The next line as JSON.
    pub(super) fn report(&self, within: Duration) -> Value {
        self.report_or(within, String::new)
    }

    /// The same; when none comes, what others say is told, too.
    pub(super) fn report_or(&self, within: Duration, others: impl Fn() -> String) -> Value {
        let line = self.line_or(within, others);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name))
    }

    /// Ends it without a word.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

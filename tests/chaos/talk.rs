//! Tunnels that talk, and are accounted for to the byte.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::Crc;

use super::rig::{patience, timed};
use crate::support::{Client, Site, noise};

/// What became of a talk.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Longest time between two messages that came back.
    pub(super) gap: Duration,
    /// Code and reason of the Close frame that ended it from the other side; none at a bare end.
    pub(super) end: Option<(u16, String)>,
}

/// A tunnel on which numbered messages of all sizes go to the pod, at most so many under way.
const UNDER_WAY: u64 = 32;
const PAUSE: Duration = Duration::from_millis(4);

pub(super) struct Talk {
    stop: Arc<AtomicBool>,
    quiet: Arc<AtomicBool>,
    returned: Arc<AtomicU64>,
    writer: JoinHandle<u64>,
    reader: JoinHandle<Account>,
}

impl Talk {
    pub(super) fn start(address: SocketAddr, token: &str, name: &'static str) -> Self {
        let mut client = Client::connect(address);
        client.send(Site::upgrade(&format!("/websockify?{token}")));
        let answer = client.head().unwrap();
        assert_eq!(answer.status, 101, "{answer:?}");
        // A pod may be away for long.
        client.stream().set_read_timeout(Some(patience())).unwrap();
        client.stream().set_write_timeout(Some(patience())).unwrap();
        let to = Arc::new(Mutex::new(client.stream().try_clone().unwrap()));
        let (stop, quiet) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let returned = Arc::new(AtomicU64::new(0));
        let (out, count) = (Arc::clone(&to), Arc::clone(&returned));
        let (over, pauses) = (Arc::clone(&stop), Arc::clone(&quiet));
        let writer = thread::spawn(move || write(&out, &over, &pauses, &count));
        let count = Arc::clone(&returned);
        let reader = thread::spawn(move || read(client.from, &to, &count, name));
        Self { stop, quiet, returned, writer, reader }
    }

    /// Whether it says nothing more for the time being.
    pub(super) fn quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::SeqCst);
    }

    /// Waits until so many messages more have come back.
    pub(super) fn more(&self, count: u64) {
        let (before, begun) = (self.returned(), Instant::now());
        while self.returned() < before + count {
            assert!(begun.elapsed() < patience(), "the talk does not go on");
            assert!(!self.reader.is_finished(), "the talk has ended");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn returned(&self) -> u64 {
        self.returned.load(Ordering::SeqCst)
    }

    /// Says goodbye: every message must have come back, each as it was.
    pub(super) fn finish(self) -> Account {
        self.more(10);
        self.stop.store(true, Ordering::SeqCst);
        let (sent, account) = (self.writer.join().unwrap(), self.reader.join().unwrap());
        assert_eq!(account.messages, sent, "{account:?}");
        assert_eq!(account.end, Some((1000, String::new())), "{account:?}");
        account
    }

    /// Waits for its end by the other side. How it was told, and how long that took.
    pub(super) fn ended(self) -> (Account, Duration) {
        let Self { stop, quiet, writer, reader, .. } = self;
        let (account, took) = timed(|| reader.join().unwrap());
        // Without a goodbye, which would count as the client's end.
        quiet.store(true, Ordering::SeqCst);
        stop.store(true, Ordering::SeqCst);
        writer.join().unwrap();
        (account, took)
    }
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum()
}

/// A client's frame of at most 64 KiB. The mask changes nothing, which is allowed.
fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | code];
    match u16::try_from(payload.len()).unwrap() {
        short @ ..126 => out.push(0x80 | short.to_le_bytes()[0]),
        long => {
            out.push(0x80 | 126);
            out.extend(long.to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

/// The bytes of a message: its size and content follow from its number.
fn payload(number: u64, source: &[u8]) -> &[u8] {
    let size = usize::try_from(number * 7919 % 6000).unwrap();
    let at = usize::try_from(number * 31 % 1000).unwrap();
    &source[at..at + size]
}

fn write(
    to: &Mutex<TcpStream>,
    stop: &AtomicBool,
    quiet: &AtomicBool,
    returned: &AtomicU64,
) -> u64 {
    let source = noise(8000);
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let under_way = number - returned.load(Ordering::SeqCst);
        if under_way < UNDER_WAY && !quiet.load(Ordering::SeqCst) {
            let data = payload(number, &source);
            let message = [&number.to_be_bytes(), &crc(&[data]).to_be_bytes()[..], data].concat();
            if to.lock().unwrap().write_all(&frame(2, &message)).is_err() {
                return number;
            }
            number += 1;
        }
        thread::sleep(PAUSE);
    }
    if !quiet.load(Ordering::SeqCst) {
        drop(to.lock().unwrap().write_all(&frame(8, &1000_u16.to_be_bytes())));
    }
    number
}

fn read(
    mut from: BufReader<TcpStream>,
    to: &Mutex<TcpStream>,
    returned: &AtomicU64,
    name: &str,
) -> Account {
    let source = noise(8000);
    let prefix = [name.as_bytes(), b"\0"].concat();
    let mut account = Account { messages: 0, bytes: 0, gap: Duration::ZERO, end: None };
    let mut last = Instant::now();
    while let Some((code, message)) = next_frame(&mut from) {
        match code {
            2 => {
                let want = payload(account.messages, &source);
                let check = crc(&[&prefix, want]).to_be_bytes();
                let number = account.messages.to_be_bytes();
                let want = [&number, &check[..], &prefix, want].concat();
                assert!(message == want, "message {} of {name} came otherwise", account.messages);
                account.messages += 1;
                account.bytes += message.len() as u64;
                account.gap = account.gap.max(last.elapsed());
                last = Instant::now();
                returned.fetch_add(1, Ordering::SeqCst);
            }
            8 => {
                let (code, reason) = message.split_first_chunk().expect("a code");
                let reason = String::from_utf8(reason.to_vec()).unwrap();
                account.end = Some((u16::from_be_bytes(*code), reason));
            }
            // It may be gone already.
            9 => drop(to.lock().unwrap().write_all(&frame(10, &message))),
            other => panic!("a frame of type {other}"),
        }
    }
    account
}

/// The next frame; none at the end of the connection, however it came.
fn next_frame(from: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut exactly = |size: usize| {
        let mut bytes = vec![0; size];
        match from.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => None,
                _ => panic!("no frame: {error}"),
            },
        }
    };
    let head = exactly(2)?;
    let size = match head[1] {
        126 => usize::from(u16::from_be_bytes(exactly(2)?.try_into().unwrap())),
        127 => panic!("no such frame was sent"),
        short => usize::from(short),
    };
    Some((head[0] & 15, exactly(size)?))
}

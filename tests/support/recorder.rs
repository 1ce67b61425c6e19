//! An upstream that keeps every byte, and answers only requests that leave no doubt where they end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::SOON;

/// What a message at the upstream became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Some of it is there.
    Begun,
    /// It is whole, and was answered.
    Whole,
    /// The connection ended in it.
    Cut,
    /// Two servers could read it in two ways.
    Ambiguous(String),
}

/// A request as its bytes came.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    /// The body without framing, of a whole message.
    pub(crate) body: Vec<u8>,
    pub(crate) state: State,
}

impl Message {
    /// The head, without its empty line.
    pub(crate) fn head(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
    }

    /// Method, target and version.
    pub(crate) fn line(&self) -> String {
        self.head().lines().next().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        super::client::header(&self.head(), name)
    }
}

type Messages = Arc<Mutex<Vec<Message>>>;

/// The upstream; it listens until it is dropped.
pub(crate) struct Recorder {
    address: SocketAddr,
    messages: Messages,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (messages, streams) = (Messages::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (all, open, over) = (Arc::clone(&messages), Arc::clone(&streams), Arc::clone(&stop));
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                open.lock().unwrap().extend(stream.try_clone());
                let all = Arc::clone(&all);
                thread::spawn(move || record(stream, &all));
            }
        });
        Self { address, messages, streams, stop, acceptor: Some(acceptor) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every message so far, in the order in which they began.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect_timeout(&self.address, SOON));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for stream in self.streams.lock().unwrap().iter() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// Cuts what one connection sends into messages.
fn record(mut stream: TcpStream, all: &Messages) {
    let (mut open, mut read): (Option<usize>, Vec<u8>) = (None, Vec::new());
    let mut piece = vec![0; 64 * 1024];
    loop {
        while !read.is_empty() {
            let index = *open.get_or_insert_with(|| {
                let mut all = all.lock().unwrap();
                all.push(Message { bytes: Vec::new(), body: Vec::new(), state: State::Begun });
                all.len() - 1
            });
            let found = whole(&read);
            let mut all = all.lock().unwrap();
            let message = &mut all[index];
            match found {
                Ok(Some((length, body))) => {
                    let rest = read.split_off(length);
                    message.bytes = std::mem::replace(&mut read, rest);
                    (message.body, message.state) = (body, State::Whole);
                    open = None;
                    let target = message.line().split(' ').nth(1).unwrap_or_default().to_owned();
                    let length = target.len();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                    let bodiless = message.line().starts_with("HEAD ");
                    let body = if bodiless { "" } else { &target };
                    drop(stream.write_all(format!("{answer}{body}").as_bytes()));
                }
                Ok(None) => {
                    message.bytes.clone_from(&read);
                    break;
                }
                Err(why) => {
                    message.bytes.clone_from(&read);
                    message.state = State::Ambiguous(why);
                    break;
                }
            }
        }
        match stream.read(&mut piece) {
            Ok(count @ 1..) => read.extend(&piece[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    if let Some(index) = open {
        let mut all = all.lock().unwrap();
        if all[index].state == State::Begun {
            all[index].state = State::Cut;
        }
    }
    drop(stream.shutdown(Shutdown::Both));
}

/// Length and body of the message at the start of these bytes, by the letter of RFC 9112; nothing if
/// it is not all there yet, an error where it allows a server to read on in another way.
fn whole(read: &[u8]) -> Result<Option<(usize, Vec<u8>)>, String> {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&read[..end]).map_err(|_| "a head that is no text")?;
    let mut lines = head.split("\r\n");
    let first: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    if first.len() != 3 || first[2] != "HTTP/1.1" || !first[1].starts_with('/') {
        return Err(format!("a request line {first:?}"));
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("a line {line:?}"))?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) || value.contains(['\r', '\n', '\0']) {
            return Err(format!("a line {line:?}"));
        }
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if length.is_some() || chunked => return Err("two framings".into()),
            "content-length" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                length = Some(value.parse().map_err(|_| format!("a length of {value:?}"))?);
            }
            "transfer-encoding" if length.is_some() || chunked => return Err("two framings".into()),
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => chunked = true,
            "content-length" | "transfer-encoding" => return Err(format!("a framing {value:?}")),
            "host" => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 {
        return Err(format!("{hosts} hosts"));
    }
    let body = &read[end + 4..];
    if chunked {
        return Ok(unchunked(body)?.map(|(taken, body)| (end + 4 + taken, body)));
    }
    let length = length.unwrap_or(0);
    Ok((body.len() >= length).then(|| (end + 4 + length, body[..length].to_vec())))
}

/// The same of a chunked body. Of us nobody expects extensions or trailers.
fn unchunked(read: &[u8]) -> Result<Option<(usize, Vec<u8>)>, String> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let rest = &read[at..];
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let digits = String::from_utf8_lossy(&rest[..line]).into_owned();
        let size = usize::from_str_radix(&digits, 16).map_err(|_| format!("a size {digits:?}"))?;
        let end = line + 2 + size;
        match rest.get(end..end + 2) {
            None => return Ok(None),
            Some(b"\r\n") => body.extend(&rest[line + 2..end]),
            Some(other) => return Err(format!("a chunk that ends with {other:?}")),
        }
        at += end + 2;
        if size == 0 {
            return Ok(Some((at, body)));
        }
    }
}

//! Upstreams that keep what they saw and answer as told.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::client::{header, read_chunk, read_head};
use super::{SOON, eventually};

/// A request as an upstream saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The head as it came, with the empty line.
    pub(crate) head: String,
    /// The body without framing, as far as the handler read it.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// Method and target.
    pub(crate) fn line(&self) -> &str {
        let line = self.head.lines().next().unwrap_or_default();
        line.rsplit_once(' ').unwrap_or_default().0
    }

    pub(crate) fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }
}

/// One request under way at an upstream.
pub(crate) struct Exchange {
    pub(crate) from: BufReader<TcpStream>,
    pub(crate) head: String,
    index: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
    chunked: bool,
    left: usize,
    ended: bool,
}

impl Exchange {
    pub(crate) fn stream(&self) -> &TcpStream {
        self.from.get_ref()
    }

    pub(crate) fn target(&self) -> String {
        self.head.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Writes bytes; that nobody takes them is for the test to notice.
    pub(crate) fn write(&self, bytes: impl AsRef<[u8]>) {
        drop(self.stream().write_all(bytes.as_ref()));
    }

    /// Answers with a whole response.
    pub(crate) fn answer(&self, status: &str, headers: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.write([head.as_bytes(), body].concat());
    }

    /// The next piece of the body; nothing at its end.
    pub(crate) fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let piece = if self.chunked {
            read_chunk(&mut self.from)?
        } else if self.left == 0 {
            None
        } else {
            let mut piece = vec![0; self.left.min(64 * 1024)];
            let read = self.from.read(&mut piece)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            piece.truncate(read);
            self.left -= read;
            Some(piece)
        };
        match &piece {
            Some(piece) => self.seen.lock().unwrap()[self.index].body.extend(piece),
            None => self.ended = true,
        }
        Ok(piece)
    }

    /// Reads the body to its end.
    pub(crate) fn body(&mut self) -> io::Result<Vec<u8>> {
        while self.piece()?.is_some() {}
        Ok(self.seen.lock().unwrap()[self.index].body.clone())
    }

    pub(crate) fn close(&self) {
        drop(self.stream().shutdown(Shutdown::Both));
    }
}

type Handler = dyn Fn(&mut Exchange) + Send + Sync;

/// An upstream that listens until it is dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepted: Arc<AtomicUsize>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Origin {
    /// Listens on a free port of 127.0.0.1; each request goes to the handler, and what it leaves
    /// of the body is read.
    pub(crate) fn start(handler: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), handler)
    }

    pub(crate) fn on(
        listener: TcpListener,
        handler: impl Fn(&mut Exchange) + Send + Sync + 'static,
    ) -> Self {
        let handler: Arc<Handler> = Arc::new(handler);
        let mut origin = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            accepted: Arc::default(),
            streams: Arc::default(),
            stop: Arc::default(),
            acceptor: None,
        };
        let (seen, accepted) = (Arc::clone(&origin.seen), Arc::clone(&origin.accepted));
        let (streams, stop) = (Arc::clone(&origin.streams), Arc::clone(&origin.stop));
        origin.acceptor = Some(thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                accepted.fetch_add(1, Ordering::SeqCst);
                drop(stream.set_nodelay(true));
                {
                    let mut streams = streams.lock().unwrap();
                    // Of tests with thousands of connections only the open ones are kept.
                    if streams.len() >= 256 {
                        streams.retain(|stream: &TcpStream| stream.peer_addr().is_ok());
                    }
                    streams.extend(stream.try_clone());
                }
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                thread::spawn(move || serve(stream, &seen, &handler));
            }
        }));
        origin
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The only request so far.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.into_iter().next().unwrap()
    }

    /// The request seen last.
    pub(crate) fn last(&self) -> Seen {
        eventually("a request at the upstream", || self.seen().pop())
    }

    /// How many connections were made.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
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

fn serve(stream: TcpStream, seen: &Arc<Mutex<Vec<Seen>>>, handler: &Arc<Handler>) {
    let end = stream.try_clone().unwrap();
    answer_all(BufReader::new(stream), seen, handler);
    // The other handle, kept for the end of the test, would hold the connection open.
    drop(end.shutdown(Shutdown::Both));
}

fn answer_all(
    mut from: BufReader<TcpStream>,
    seen: &Arc<Mutex<Vec<Seen>>>,
    handler: &Arc<Handler>,
) {
    while let Ok(Some(head)) = read_head(&mut from) {
        let index = {
            let mut seen = seen.lock().unwrap();
            seen.push(Seen { head: head.clone(), body: Vec::new() });
            seen.len() - 1
        };
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let chunked = header(&head, "transfer-encoding").is_some();
        let mut exchange = Exchange {
            from,
            head,
            index,
            seen: Arc::clone(seen),
            chunked,
            left: length.unwrap_or(0),
            ended: false,
        };
        handler(&mut exchange);
        if exchange.body().is_err() {
            return;
        }
        from = exchange.from;
    }
}

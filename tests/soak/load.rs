//! Who is there on such a day: users with tunnels, pages, uploads; and pods and pyos, who answer.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::wire::{Stream, answer, frame, head, read_frame, response, sum, wrong};
use crate::support::{PODS, SOON, Site, noise, pod_listeners, tokens};

/// Time between two messages of a tunnel, at least; twice that at most.
const PAUSE: Duration = Duration::from_secs(4);

/// Time between the arrivals of two tunnels that stay.
const ARRIVAL: Duration = Duration::from_millis(10);

/// Size of an upload.
const UPLOAD: usize = 300_000;

/// Where pods and pyos listen.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) pod: u16,
    pub(super) service: u16,
}

/// What was done, as its doers saw it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) tunnels: u64,
    pub(super) messages: u64,
    pub(super) requests: u64,
    pub(super) uploads: u64,
    /// Bytes of tunnels, heads not counted.
    pub(super) sent: u64,
    pub(super) received: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Tunnels that stay.
    settled: AtomicU64,
    tunnels: AtomicU64,
    messages: AtomicU64,
    requests: AtomicU64,
    uploads: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn count(what: &AtomicU64, by: usize) {
        what.fetch_add(by as u64, Ordering::SeqCst);
    }

    fn note(&self, who: &str, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.failures.lock().unwrap().push(format!("{who}: {error}"));
        }
    }
}

pub(super) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    pub(super) ports: Ports,
    users: Mutex<JoinSet<()>>,
}

/// Static files of three sizes.
pub(super) fn write_files(folder: &Path) {
    for size in [500, 20_000, 200_000] {
        std::fs::write(folder.join(format!("{size}.bin")), noise(size)).unwrap();
    }
}

impl Load {
    /// Pods and pyos.
    pub(super) fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let ([first, second], pod) = pod_listeners();
        let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = Ports { pod, service: service.local_addr().unwrap().port() };
        for (listener, name) in [(first, "a"), (second, "b"), (service, "pyos")] {
            listener.set_nonblocking(true).unwrap();
            runtime.spawn(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    // That the other side is gone is for its own part of the test to notice.
                    tokio::spawn(answer(BufReader::with_capacity(1024, stream), name));
                }
            });
        }
        Self { runtime, shared: Arc::default(), ports, users: Mutex::default() }
    }

    /// Users come.
    pub(super) fn begin(&self, edge: SocketAddr, tunnels: usize) {
        let mut users = self.users.lock().unwrap();
        let user = |number: usize| User { number, edge, shared: Arc::clone(&self.shared) };
        let handle = self.runtime.handle();
        (0..tunnels).for_each(|number| drop(users.spawn_on(user(number).talk(), handle)));
        for number in 0..8 {
            users.spawn_on(user(number).come_and_go(), handle);
            users.spawn_on(user(number).browse(), handle);
        }
        (0..2).for_each(|number| drop(users.spawn_on(user(number).upload(), handle)));
    }

    /// Waits until all tunnels that stay are open.
    pub(super) fn settle(&self, tunnels: usize) {
        let (begun, within) = (Instant::now(), ARRIVAL * tunnels as u32 + SOON * 2);
        while self.shared.settled.load(Ordering::SeqCst) < tunnels as u64 {
            self.check();
            assert!(begun.elapsed() < within, "not all have come");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether everybody is still content.
    pub(super) fn check(&self) {
        let failures = std::mem::take(&mut *self.shared.failures.lock().unwrap());
        assert!(failures.is_empty(), "{} failures: {:?}", failures.len(), failures.first());
    }

    /// Everybody goes.
    pub(super) fn end(&self) -> Done {
        self.shared.stop.store(true, Ordering::SeqCst);
        let users = std::mem::take(&mut *self.users.lock().unwrap());
        self.runtime
            .block_on(async { timeout(SOON * 3, users.join_all()).await.expect("they go") });
        self.check();
        let of = |what: &AtomicU64| what.load(Ordering::SeqCst);
        let shared = &self.shared;
        Done {
            tunnels: of(&shared.tunnels),
            messages: of(&shared.messages),
            requests: of(&shared.requests),
            uploads: of(&shared.uploads),
            sent: of(&shared.sent),
            received: of(&shared.received),
        }
    }
}

struct User {
    number: usize,
    edge: SocketAddr,
    shared: Arc<Shared>,
}

impl User {
    fn name(&self) -> &'static str {
        ["a", "b"][self.number % 2]
    }

    fn token(&self) -> String {
        let minter = tokens::minter(tokens::keys());
        minter.mint(PODS[self.number % 2], tokens::now(), 24 * 3600).unwrap()
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect(self.edge).await?;
        stream.set_nodelay(true)?;
        Ok(BufReader::with_capacity(1024, stream))
    }

    async fn open(&self, token: &str) -> io::Result<Stream> {
        let mut stream = self.connect().await?;
        let request = Site::upgrade(&format!("/websockify?{token}"));
        stream.write_all(request.as_bytes()).await?;
        let head = head(&mut stream).await?;
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(wrong(head));
        }
        Shared::count(&self.shared.tunnels, 1);
        Ok(stream)
    }

    /// One message there and back, as it was and from the right pod.
    async fn say(&self, stream: &mut Stream, count: usize) -> io::Result<()> {
        let size = 20 + (self.number * 131 + count * 977) % 3000;
        let mut message = vec![(count % 251) as u8; size];
        message[..8].copy_from_slice(&((self.number << 32 | count) as u64).to_be_bytes());
        let out = frame(2, &message, true);
        stream.write_all(&out).await?;
        Shared::count(&self.shared.sent, out.len());
        let (code, came) = timeout(SOON * 2, read_frame(stream)).await??;
        Shared::count(&self.shared.received, frame(code, &came, false).len());
        let want = [self.name().as_bytes(), &message].concat();
        if (code, &came) != (2, &want) {
            return Err(wrong(format!("message {count} of {} came otherwise", self.number)));
        }
        Shared::count(&self.shared.messages, 1);
        Ok(())
    }

    async fn goodbye(&self, mut stream: Stream) -> io::Result<()> {
        let out = frame(8, &1000_u16.to_be_bytes(), true);
        stream.write_all(&out).await?;
        Shared::count(&self.shared.sent, out.len());
        let (code, came) = timeout(SOON * 2, read_frame(&mut stream)).await??;
        Shared::count(&self.shared.received, frame(code, &came, false).len());
        match (code, stream.read(&mut [0]).await?) {
            (8, 0) => Ok(()),
            other => Err(wrong(format!("no goodbye: {other:?}"))),
        }
    }

    async fn talk(self) {
        let outcome = async {
            // They come one after the other.
            sleep(ARRIVAL * self.number as u32).await;
            let mut stream = self.open(&self.token()).await?;
            Shared::count(&self.shared.settled, 1);
            let mut count = 0;
            while !self.shared.is_over() {
                self.say(&mut stream, count).await?;
                count += 1;
                // Not all at once.
                sleep(PAUSE + PAUSE * (self.number * 7919 % 1000) as u32 / 1000).await;
            }
            self.goodbye(stream).await
        };
        self.shared.note("a tunnel", outcome.await);
    }

    async fn come_and_go(self) {
        let outcome = async {
            let token = self.token();
            while !self.shared.is_over() {
                let mut stream = self.open(&token).await?;
                for count in 0..3 {
                    self.say(&mut stream, count).await?;
                }
                self.goodbye(stream).await?;
                sleep(Duration::from_millis(400)).await;
            }
            Ok(())
        };
        self.shared.note("a tunnel that comes and goes", outcome.await);
    }

    /// pyos, a pod and files over a connection that is kept; now and then a bad token.
    async fn browse(self) {
        let outcome = async {
            let mut stream = self.connect().await?;
            let token = self.token();
            let good = format!("ABCAuthorization: {token}\r\n");
            let mut round = self.number;
            // The same bytes are at the front of all files.
            let file = noise(200_000);
            while !self.shared.is_over() {
                let (target, fields, want) = match round % 6 {
                    0 => ("/API/x", "", Some(&b"pyos"[..])),
                    1 => ("/filer/list", good.as_str(), Some(self.name().as_bytes())),
                    2 => ("/static/500.bin", "", Some(&file[..500])),
                    3 => ("/static/20000.bin", "", Some(&file[..20_000])),
                    4 => ("/filer", "ABCAuthorization: a.b.c\r\n", None),
                    _ => ("/static/200000.bin", "", Some(&file[..])),
                };
                let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
                stream.write_all(head.as_bytes()).await?;
                let (status, body, kept) = timeout(SOON * 2, response(&mut stream)).await??;
                match want {
                    Some(want) if status == 200 && body == want => {}
                    None if status == 401 => {}
                    _ => return Err(wrong(format!("{target}: {status}, {} bytes", body.len()))),
                }
                Shared::count(&self.shared.requests, 1);
                if !kept {
                    stream = self.connect().await?;
                }
                round += 1;
                sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        self.shared.note("a page", outcome.await);
    }

    async fn upload(self) {
        let outcome = async {
            let (token, body) = (self.token(), noise(UPLOAD));
            while !self.shared.is_over() {
                let mut stream = self.connect().await?;
                let head = format!(
                    "POST /filer/up HTTP/1.1\r\nHost: x\r\nABCAuthorization: {token}\r\n\
                     Content-Length: {UPLOAD}\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&body).await?;
                let (status, said, _) = timeout(SOON * 2, response(&mut stream)).await??;
                if (status, said) != (200, sum(&body).into_bytes()) {
                    return Err(wrong(format!("another upload came: {status}")));
                }
                Shared::count(&self.shared.uploads, 1);
                sleep(Duration::from_millis(500)).await;
            }
            Ok(())
        };
        self.shared.note("an upload", outcome.await);
    }
}

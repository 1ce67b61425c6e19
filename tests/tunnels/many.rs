use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deskgate::auth::mint::{KeySet, Minter};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::rig::{
    ACCEPT, BINARY, CLOSE, LATE, MASK, PING, PONG, allow_descriptors, masked, plain, screen, slow,
    with_port,
};
use crate::support::{
    Client, Gateway, PODS, Response, Site, eventually, free_port, noise, pod_listeners, raw, tokens,
};

pub(super) type Stream = BufReader<TcpStream>;

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn head(stream: &mut Stream) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The next frame of at most 64 KiB: code and payload.
pub(super) async fn frame(stream: &mut Stream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let length = match head[1] & 0x7f {
        126 => usize::from(stream.read_u16().await?),
        127 => panic!("no such frame was sent"),
        length => usize::from(length),
    };
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((head[0] & 0x0f, payload))
}

/// Upgrades with this token.
pub(super) async fn upgrade(address: SocketAddr, token: &str) -> io::Result<(Stream, String)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(512, stream);
    let request = Site::upgrade(&format!("/websockify?{token}"));
    stream.write_all(request.as_bytes()).await?;
    let answer = head(&mut stream).await?;
    Ok((stream, answer))
}

/// Pods that send every message back, until one says how they are to end.
pub(super) fn pods(runtime: &Runtime, listener: std::net::TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = runtime.block_on(async { TcpListener::from_std(listener) }).unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(pod(BufReader::with_capacity(512, stream)));
        }
    });
}

/// That the client is gone is for the client's side of the test to notice.
async fn pod(mut stream: Stream) -> io::Result<()> {
    head(&mut stream).await?;
    stream.write_all(ACCEPT.as_bytes()).await?;
    loop {
        let (code, payload) = frame(&mut stream).await?;
        let answer = match (code, payload.as_slice()) {
            (BINARY, b"close") => return Ok(()),
            (BINARY, b"reset") => {
                reset_at_drop(&stream);
                return Ok(());
            }
            (CLOSE, _) => return stream.write_all(&plain(CLOSE, &payload)).await,
            (PING, _) => plain(PONG, &payload),
            _ => plain(code, &payload),
        };
        stream.write_all(&answer).await?;
    }
}

fn reset_at_drop(stream: &Stream) {
    socket2::SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Opens a tunnel, says something, ends it in one of five ways.
async fn come_and_go(address: SocketAddr, token: &str, how: usize) -> io::Result<()> {
    let (mut stream, answer) = upgrade(address, token).await?;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream.write_all(&masked(BINARY, b"here")).await?;
    assert_eq!(frame(&mut stream).await?, (BINARY, b"here".to_vec()));
    match how % 5 {
        0 => {}
        1 => reset_at_drop(&stream),
        2 => {
            stream.write_all(&masked(CLOSE, &1000_u16.to_be_bytes())).await?;
            assert_eq!(frame(&mut stream).await?.0, CLOSE);
            assert_eq!(stream.read(&mut [0]).await?, 0);
        }
        pod => {
            let word: &[u8] = if pod == 3 { b"close" } else { b"reset" };
            stream.write_all(&masked(BINARY, word)).await?;
            assert_eq!(stream.read(&mut [0]).await?, 0);
        }
    }
    Ok(())
}

/// So many, 32 at a time.
fn come_and_go_many(runtime: &Runtime, address: SocketAddr, count: usize) {
    let token: Arc<str> = tokens::valid(PODS[0]).into();
    let next = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..32 {
            let (token, next) = (Arc::clone(&token), Arc::clone(&next));
            clients.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        return;
                    }
                    come_and_go(address, &token, number).await.unwrap();
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
    });
}

#[test]
fn nothing_is_left_of_10_000_tunnels_however_they_ended() {
    const COUNT: usize = 10_000;
    const BEFORE: usize = 1000;
    let runtime = runtime();
    let ([listener, _], port) = pod_listeners();
    pods(&runtime, listener);
    let mut gateway = Gateway::start(&with_port("[server]\ndrain = \"60s\"\n", port));
    let before = gateway.descriptors();
    come_and_go_many(&runtime, gateway.address(), BEFORE);
    let settled = || (gateway.descriptors() <= before).then_some(());
    eventually("the descriptors are back", settled);
    let memory = gateway.rss();
    come_and_go_many(&runtime, gateway.address(), COUNT - BEFORE);
    eventually("the descriptors are back", settled);
    // What waited in its log, or is not given back yet, is no growth.
    eventually("it has grown by less than 4 MiB", || {
        (gateway.rss().saturating_sub(memory) < 4096).then_some(())
    });
    // Nothing under way and no tunnel listed: otherwise it would wait for a minute.
    gateway.signal("TERM");
    let (status, took) = gateway.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    assert!(took < LATE, "{took:?}");
    let lines = gateway.access("/websockify");
    assert_eq!(lines.len(), COUNT);
    let ended = |reason: &str| lines.iter().filter(|line| line["reason"] == reason).count();
    // Whose Close frame it was counts, not who ended the connection after it.
    for (reason, fifths) in
        [("client_close", 2), ("client_lost", 1), ("pod_close", 1), ("pod_lost", 1)]
    {
        assert_eq!(ended(reason), COUNT / 5 * fifths, "{reason}");
    }
}

/// Talks now and then until told to stop, twice at least; how many messages came back.
async fn talk(mut stream: Stream, number: usize, stop: Arc<AtomicBool>) -> io::Result<usize> {
    let payload = noise(200 + number % 700);
    let mut count = 0;
    while count < 2 || !stop.load(Ordering::SeqCst) {
        let mut message = payload.clone();
        message[..8].copy_from_slice(&((number << 20 | count) as u64).to_be_bytes());
        stream.write_all(&super::rig::frame(true, BINARY, &message, Some(MASK))).await?;
        let came = loop {
            match frame(&mut stream).await? {
                (PING, payload) => stream.write_all(&masked(PONG, &payload)).await?,
                (code, payload) => break (code, payload),
            }
        };
        assert!(came == (BINARY, message), "tunnel {number}: another message: {came:?}");
        count += 1;
        // Not all at once.
        tokio::time::sleep(Duration::from_millis(600 + (number * 7919 % 800) as u64)).await;
    }
    stream.write_all(&masked(CLOSE, &1000_u16.to_be_bytes())).await?;
    loop {
        match frame(&mut stream).await? {
            (PING, _) => {}
            (code, payload) => {
                assert_eq!((code, payload), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
                return Ok(count);
            }
        }
    }
}

/// The run's keys with another signing key.
fn other_signing_keys() -> KeySet {
    let fresh = KeySet::generate(1024).unwrap();
    let run = tokens::keys();
    KeySet {
        payload_private: run.payload_private.clone(),
        payload_public: run.payload_public.clone(),
        user_signing_private: run.user_signing_private.clone(),
        user_signing_public: run.user_signing_public.clone(),
        ..fresh
    }
}

/// Replaces a file as a whole.
fn replace(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Most headers of a request in the first configuration: one more in each.
const HEADERS: usize = 100;

/// A gateway whose files are replaced under its feet.
struct Restless {
    gateway: Gateway,
    dir: TempDir,
    port: u16,
    /// The operators' interface.
    admin: SocketAddr,
    /// Public signing keys, and who signs for them.
    keys: [(String, Minter); 2],
}

impl Restless {
    fn start(port: u16) -> Self {
        let keys = [tokens::keys(), &other_signing_keys()]
            .map(|keys| (keys.signing_public.clone(), tokens::minter(keys)));
        let dir = TempDir::new().unwrap();
        replace(&dir.path().join("signing.pem"), &keys[0].0);
        replace(&dir.path().join("payload.pem"), &tokens::keys().payload_private);
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let gateway = Gateway::start(&Self::config(&dir, port, admin, 0));
        Self { gateway, dir, port, admin, keys }
    }

    /// Another one each round, which operators can tell by [`Self::round`].
    fn config(dir: &TempDir, port: u16, admin: SocketAddr, round: usize) -> String {
        let path = |name: &str| dir.path().join(name);
        let (signing, payload) = (path("signing.pem"), path("payload.pem"));
        let (level, read) = (["info", "debug"][round % 2], 60 + round);
        let headers = HEADERS + round;
        let text = format!(
            "[auth]\nsigning_keys = [{signing:?}]\npayload_keys = [{payload:?}]\n\
             [listen]\nmax_headers = {headers}\n\
             [admin]\nlisten = [\"{admin}\"]\n[log]\nlevel = \"{level}\"\n{}timeouts = {{ read = \"{read}s\" }}\n",
            screen("tunnel = { ping = \"5s\" }")
        );
        with_port(&text, port)
    }

    fn token(&self, key: usize) -> String {
        self.keys[key].1.mint(PODS[0], tokens::now(), tokens::TTL).unwrap()
    }

    /// Takes this key and maybe the other one into use, with the configuration of the round.
    fn reload(&self, round: usize, key: usize, both: bool) {
        let other = if both { self.keys[1 - key].0.as_str() } else { "" };
        let text = format!("{}{other}", self.keys[key].0);
        replace(&self.dir.path().join("signing.pem"), &text);
        self.gateway.reconfigure(&Self::config(&self.dir, self.port, self.admin, round));
        self.gateway.signal("HUP");
        // Files that change may be loaded before the signal comes, and one after the other.
        eventually("the reload", || (self.round() == round).then_some(()));
    }

    /// The round whose configuration is in use, with the keys that were there before it.
    fn round(&self) -> usize {
        let settings = self.ask("/admin/config").json();
        let mut settings = settings["settings"].as_array().unwrap().iter();
        let headers = settings.find(|setting| setting["key"] == "listen.max_headers").unwrap();
        headers["value"].as_str().unwrap().parse::<usize>().unwrap() - HEADERS
    }

    /// What operators get.
    fn ask(&self, target: &str) -> Response {
        let admin = self.admin;
        let head = format!("GET {target} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        raw(admin, head).unwrap()
    }
}

#[test]
fn thousands_of_tunnels_never_notice_that_everything_is_reloaded_20_times() {
    const ROUNDS: usize = 20;
    let count = if slow() { 5000 } else { 2000 };
    let room = count * 2 + 2000;
    allow_descriptors(std::process::id(), room);
    let runtime = runtime();
    let ([listener, _], port) = pod_listeners();
    pods(&runtime, listener);
    let edge = Restless::start(port);
    allow_descriptors(edge.gateway.pid(), room);
    let address = edge.gateway.address();
    let stop = Arc::new(AtomicBool::new(false));
    let mut talks = JoinSet::new();
    let mut open = |token: &str, number: usize| {
        let (stream, answer) = runtime.block_on(upgrade(address, token)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        talks.spawn_on(talk(stream, number, Arc::clone(&stop)), runtime.handle());
    };
    let token = edge.token(0);
    (0..count).for_each(|number| open(&token, number));
    for round in 1..=ROUNDS {
        // First the new key beside the old one, then alone; then back again.
        let (new, both) = (round.div_ceil(2) % 2, round % 2 == 1);
        edge.reload(round, new, both);
        open(&edge.token(new), count + round);
        let mut client = Client::connect(address);
        client.send(Site::upgrade(&format!("/websockify?{}", edge.token(1 - new))));
        let want = if both { 101 } else { 401 };
        assert_eq!(client.head().unwrap().status, want, "round {round}");
    }
    let metrics = edge.ask("/metrics").text();
    assert!(metrics.contains("\ndeskgate_tunnels_dropped_by_reload_total 0\n"), "{metrics}");
    // A moment to talk on in the last state, and then everybody says goodbye by himself.
    std::thread::sleep(Duration::from_secs(2));
    assert!(talks.try_join_next().is_none(), "a tunnel ended");
    stop.store(true, Ordering::SeqCst);
    let ended = runtime.block_on(talks.join_all());
    assert_eq!(ended.len(), count + ROUNDS);
    assert!(ended.into_iter().all(|messages| messages.expect("a tunnel broke off") > 1));
    let closed = || edge.gateway.output().matches("\"tunnel closed\"").count();
    eventually("every end is logged", || (closed() >= count + ROUNDS).then_some(()));
    assert!(!edge.gateway.output().contains("configuration refused"));
    for line in edge.gateway.access("/websockify").iter().filter(|line| line["status"] == 101) {
        assert_eq!(line["reason"], "client_close", "{line}");
    }
}

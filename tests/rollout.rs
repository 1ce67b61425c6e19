use std::collections::BTreeMap;
use std::mem::replace;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::support::{Gateway, PODS, SOON, Site, echo, eventually, tokens};

/// Lingers for much longer than the load balancer needs to learn of the end; all is over in [`SOON`].
const UPDATE: &str = "[server]\nlinger = \"6s\"\ndrain = \"4s\"\n";
const TUNNELS: usize = 200;
/// Requests on connections of their own: 120 a second, as long as so few are under way.
const PACE: Duration = Duration::from_micros(8333);
const UNDER_WAY: usize = 60;
/// Requests that are answered at least.
const ANSWERED: usize = 500;
/// Clients that keep their connection, and the time between two requests of one: 80 a second.
const KEEPING: usize = 4;
const PAUSE: Duration = Duration::from_millis(50);
/// How much later than the process the load balancer learns of its end.
const LATE: Duration = Duration::from_millis(500);

/// Stands for kube-proxy: a new connection goes to the next instance that is ready, and stays there.
#[derive(Clone, Default)]
struct Balancer {
    ready: Arc<Mutex<Vec<SocketAddr>>>,
    next: Arc<AtomicUsize>,
}

impl Balancer {
    fn add(&self, instance: &Gateway) {
        self.ready.lock().unwrap().push(instance.address());
    }

    fn remove(&self, instance: &Gateway) {
        self.ready.lock().unwrap().retain(|ready| *ready != instance.address());
    }

    fn choose(&self) -> SocketAddr {
        let ready = self.ready.lock().unwrap();
        ready[self.next.fetch_add(1, Ordering::SeqCst) % ready.len()]
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((mut client, _)) = listener.accept().await {
            let instance = self.choose();
            tokio::spawn(async move {
                // What goes wrong here the client sees: its connection ends.
                if let Ok(mut instance) = TcpStream::connect(instance).await {
                    drop(instance.set_nodelay(true));
                    drop(client.set_nodelay(true));
                    drop(copy_bidirectional(&mut client, &mut instance).await);
                }
            });
        }
    }
}

/// What users do, and what they saw.
struct Load {
    balancer: SocketAddr,
    served: AtomicUsize,
    open: AtomicUsize,
    /// How tunnels ended, and how often.
    ends: Mutex<BTreeMap<String, usize>>,
    failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Load {
    fn through(balancer: SocketAddr) -> Self {
        Self {
            balancer,
            served: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            ends: Mutex::default(),
            failures: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn note(&self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.failures.lock().unwrap().push(why);
        } else {
            self.served.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.balancer).await.map_err(said)?;
        stream.set_nodelay(true).map_err(said)?;
        Ok(stream)
    }

    /// Each request on a connection of its own.
    async fn come_and_go(self: Arc<Self>) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = JoinSet::new();
        while !self.is_over() {
            pace.tick().await;
            if under_way.len() >= UNDER_WAY {
                drop(under_way.join_next().await);
            }
            let load = Arc::clone(&self);
            under_way.spawn(async move {
                let asked = async {
                    let mut stream = load.connect().await?;
                    ask(&mut stream, "close").await?;
                    Ok::<_, String>(())
                };
                load.note(timeout(SOON, asked).await.unwrap_or_else(|late| Err(said(late))));
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    /// One request after the other on a connection that is kept for as long as the server does.
    async fn keep(self: Arc<Self>) {
        let mut pace = interval(PAUSE);
        let mut kept: Option<TcpStream> = None;
        while !self.is_over() {
            pace.tick().await;
            let asked = async {
                let mut stream = match kept.take() {
                    Some(stream) => stream,
                    None => self.connect().await?,
                };
                if ask(&mut stream, "keep-alive").await? {
                    kept = Some(stream);
                }
                Ok::<_, String>(())
            };
            self.note(timeout(SOON, asked).await.unwrap_or_else(|late| Err(said(late))));
        }
    }

    /// A desktop's screen, opened again whenever it was closed.
    async fn watch(self: Arc<Self>, target: String) {
        loop {
            let opened = async {
                let stream = self.connect().await?;
                client_async(format!("ws://desk.example{target}"), stream).await.map_err(said)
            };
            let opened = timeout(SOON, opened).await.unwrap_or_else(|late| Err(said(late)));
            let mut socket = match opened {
                Ok((socket, _)) => socket,
                Err(why) => return self.note(Err(format!("no tunnel: {why}"))),
            };
            self.open.fetch_add(1, Ordering::SeqCst);
            let end = self.use_it(&mut socket).await;
            let Some(end) = end else { return };
            self.open.fetch_sub(1, Ordering::SeqCst);
            *self.ends.lock().unwrap().entry(end).or_default() += 1;
        }
    }

    /// Talks to the pod until the tunnel ends, and tells how; nothing if it still works at the end.
    async fn use_it(&self, socket: &mut WebSocketStream<TcpStream>) -> Option<String> {
        let mut beat = interval(Duration::from_secs(1));
        let mut is_last = false;
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    is_last = self.is_over();
                    let word = if is_last { "last" } else { "beat" };
                    // If that fails, what is read next tells why.
                    drop(socket.send(Message::text(word)).await);
                }
                message = socket.next() => match message {
                    Some(Ok(Message::Close(Some(frame)))) => {
                        // Answers it, and waits for the end of the connection.
                        drop(timeout(SOON, async { while socket.next().await.is_some() {} }).await);
                        return Some(format!("{} {}", u16::from(frame.code), frame.reason));
                    }
                    Some(Ok(Message::Text(text))) if is_last && text.as_str() == "last" => return None,
                    Some(Ok(_)) => {}
                    other => return Some(format!("{other:?}")),
                }
            }
        }
    }
}

fn said(error: impl ToString) -> String {
    error.to_string()
}

/// One request that pyos answers; whether the connection may be used for another.
async fn ask(stream: &mut TcpStream, connection: &str) -> Result<bool, String> {
    let request = format!("GET /API/load HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await.map_err(said)?;
        let text = String::from_utf8_lossy(&answer);
        if text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nanswered") {
            return Ok(!text.to_lowercase().contains("connection: close"));
        }
        if read == 0 {
            return Err(format!("not a whole answer: {text:?}"));
        }
    }
}

/// Ends an instance that another one has been started for, as Kubernetes does.
fn end(balancer: &Balancer, mut old: Gateway) {
    old.signal("TERM");
    thread::sleep(LATE);
    balancer.remove(&old);
    let (status, _) = old.wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", old.output());
    assert!(old.wait_for_line("\"drained\"").contains("\"left\":0"), "{}", old.output());
    old.wait_for_line("\"stopped\"");
    let tunnels = old.access("/websockify");
    assert!(tunnels.len() >= TUNNELS / 2, "{}", tunnels.len());
    for line in tunnels {
        assert_eq!(line["status"], 101, "{line}");
        assert_eq!(line["reason"], "drain", "{line}");
    }
}

#[test]
fn a_rolling_update_fails_no_request_and_tells_every_tunnel() {
    let mut site = Site::configured_serving(UPDATE, |exchange| match exchange.header("upgrade") {
        Some(_) => echo(exchange),
        None => exchange.answer("200 OK", "", "answered"),
    });
    let mut second = site.gateway.sibling();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let load = Arc::new(Load::through(listener.local_addr().unwrap()));
    let balancer = Balancer::default();
    balancer.add(&site.gateway);
    balancer.add(&second);
    runtime.spawn(balancer.clone().serve(listener));

    let mut users = JoinSet::new();
    for number in 0..TUNNELS {
        let target = format!("/websockify?{}", tokens::valid(PODS[number % PODS.len()]));
        users.spawn_on(Arc::clone(&load).watch(target), runtime.handle());
    }
    let all_open = || (load.open.load(Ordering::SeqCst) == TUNNELS).then_some(());
    eventually("all tunnels are open", all_open);
    users.spawn_on(Arc::clone(&load).come_and_go(), runtime.handle());
    for _ in 0..KEEPING {
        users.spawn_on(Arc::clone(&load).keep(), runtime.handle());
    }
    let served = |count| (load.served.load(Ordering::SeqCst) > count).then_some(());
    eventually("requests flow", || served(100));

    for instance in [&mut site.gateway, &mut second] {
        let new = instance.sibling();
        balancer.add(&new);
        end(&balancer, replace(instance, new));
        eventually("all tunnels are open again", all_open);
    }
    eventually("many requests are answered", || served(ANSWERED));
    load.stop.store(true, Ordering::SeqCst);
    runtime.block_on(async {
        while let Some(ended) = users.join_next().await {
            ended.unwrap();
        }
    });

    let failures = load.failures.lock().unwrap();
    assert!(failures.is_empty(), "{} failures, {:?}", failures.len(), failures.first());
    let ends = load.ends.lock().unwrap();
    let drained = ends.get("1012 {\"reason\":\"drain\"}").copied().unwrap_or_default();
    assert_eq!(ends.len(), 1, "{ends:?}");
    // Each was on an old instance at least once, and a few came to the second before its turn.
    assert!((TUNNELS..=2 * TUNNELS).contains(&drained), "{drained}");
    assert_eq!(load.open.load(Ordering::SeqCst), TUNNELS);
}

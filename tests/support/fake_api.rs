//! A Kubernetes API server that knows only EndpointSlices, and can fail on purpose.
//!
//! Its answers are made from recorded ones. It runs on a thread of its own, so that plain and async
//! tests can use it, and ends when it is dropped.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

use super::{SOON, free_port};

const LIST: &str = include_str!("../fixtures/kubernetes/list.json");
const EXPIRED: &str = include_str!("../fixtures/kubernetes/watch-410-expired.txt");
const FORBIDDEN: &str = include_str!("../fixtures/kubernetes/forbidden-403.json");
const UNAUTHORIZED: &str = include_str!("../fixtures/kubernetes/unauthorized-401.json");

/// The endpoint controller's limit.
const PER_SLICE: usize = 100;

/// An endpoint, as the table keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) hostname: Option<String>,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    /// When its container began to run, which its pod tells; without this there is no pod to ask.
    pub(crate) started: Option<SystemTime>,
}

impl Endpoint {
    /// A ready pod whose name is `pod-` and its uid.
    pub(crate) fn ready(uid: &str, address: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            name: format!("pod-{uid}"),
            address: address.parse().unwrap(),
            hostname: None,
            ready: true,
            terminating: false,
            started: None,
        }
    }

    /// The same, whose container has run for so long.
    pub(crate) fn running_for(self, time: Duration) -> Self {
        Self { started: Some(SystemTime::now() - time), ..self }
    }

    pub(crate) fn not_ready(uid: &str, address: &str) -> Self {
        Self { ready: false, ..Self::ready(uid, address) }
    }

    pub(crate) fn terminating(uid: &str, address: &str) -> Self {
        Self { ready: false, terminating: true, ..Self::ready(uid, address) }
    }

    fn json(&self) -> Value {
        let mut endpoint = json!({
            "addresses": [self.address],
            "conditions": {
                "ready": self.ready,
                "serving": self.ready || self.terminating,
                "terminating": self.terminating,
            },
            "targetRef": {
                "kind": "Pod",
                "namespace": "abcdesktop",
                "name": self.name,
                "uid": self.uid,
            },
            "nodeName": "n1",
            "zone": "z1",
        });
        if let Some(hostname) = &self.hostname {
            endpoint["hostname"] = json!(hostname);
        }
        endpoint
    }
}

/// What goes wrong, until told otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Connections are closed without an answer, watches in the middle.
    Drop,
    /// Requests are taken and never answered.
    Hang,
    /// Watches say nothing more, and do not end.
    Stall,
    /// Every request gets this status.
    Status(u16),
    /// Watches get this status, lists are answered.
    WatchStatus(u16),
    /// Watches get a line with an error of this code.
    WatchError(u16),
    /// Watches send a line that is no JSON.
    Garbage,
    /// Watches break off within a line.
    HalfLine,
    /// Watches end after one bookmark.
    Brief,
    /// A body arrives a few bytes at a time.
    Split,
    /// Every event is sent twice.
    Duplicate,
    /// Every answer takes this long.
    Slow(Duration),
}

struct State {
    version: u64,
    slices: BTreeMap<String, Vec<Endpoint>>,
    /// Endpoints of other services.
    others: BTreeMap<String, Vec<Endpoint>>,
    /// Every change: version, type, slice.
    log: Vec<(u64, &'static str, Value)>,
    /// A watch from before this version has expired.
    oldest: u64,
    fault: Fault,
    page: usize,
    bookmarks: Duration,
    token: Option<String>,
    requests: Vec<String>,
}

impl State {
    fn now(&self) -> (Fault, u64) {
        (self.fault, self.version)
    }
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The running server.
pub(crate) struct FakeApi {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeApi {
    pub(crate) fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], free_port())), None)
    }

    /// Listens at this address, with TLS if there is a configuration.
    pub(crate) fn start_at(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                version: 1_000,
                slices: BTreeMap::new(),
                others: BTreeMap::new(),
                log: Vec::new(),
                oldest: 0,
                fault: Fault::None,
                page: usize::MAX,
                bookmarks: Duration::from_secs(60),
                token: None,
                requests: Vec::new(),
            }),
            changed: watch::Sender::new(()),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let (send, receive) = std::sync::mpsc::channel();
        let server = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = bind(address).await;
                send.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = accept(listener, server, tls.map(TlsAcceptor::from)) => {}
                    _ = stopped => {}
                }
            });
        });
        let address = receive.recv().unwrap();
        Self { shared, address, stop: Some(stop), thread: Some(thread) }
    }

    /// Adds an endpoint, or changes the one of the same uid.
    pub(crate) fn set(&self, endpoint: Endpoint) {
        let mut state = self.shared.state();
        let known = state
            .slices
            .iter()
            .find(|(_, endpoints)| endpoints.iter().any(|known| known.uid == endpoint.uid));
        let room = state.slices.iter().find(|(_, endpoints)| endpoints.len() < PER_SLICE);
        let name = known.or(room).map(|(name, _)| name.clone());
        let (kind, name) = match name {
            Some(name) => ("MODIFIED", name),
            None => ("ADDED", format!("desktop-{:05}", state.slices.len())),
        };
        let endpoints = state.slices.entry(name.clone()).or_default();
        match endpoints.iter_mut().find(|known| known.uid == endpoint.uid) {
            Some(known) => *known = endpoint,
            None => endpoints.push(endpoint),
        }
        self.commit(state, kind, &name);
    }

    /// Another service with these endpoints. It can be listed; a watch of it says nothing.
    pub(crate) fn service(&self, name: &str, endpoints: Vec<Endpoint>) {
        self.shared.state().others.insert(name.to_owned(), endpoints);
    }

    /// Removes the endpoint of this uid.
    pub(crate) fn remove(&self, uid: &str) {
        let mut state = self.shared.state();
        let holds = |endpoints: &Vec<Endpoint>| endpoints.iter().any(|known| known.uid == uid);
        let found = state.slices.iter().find(|(_, endpoints)| holds(endpoints));
        let name = found.map(|(name, _)| name.clone()).unwrap();
        state.slices.get_mut(&name).unwrap().retain(|known| known.uid != uid);
        self.commit(state, "MODIFIED", &name);
    }

    /// Deletes a whole slice.
    pub(crate) fn remove_slice(&self, name: &str) {
        self.commit(self.shared.state(), "DELETED", name);
    }

    fn commit(&self, mut state: MutexGuard<'_, State>, kind: &'static str, name: &str) {
        state.version += 1;
        let version = state.version;
        let slice = slice_json(name, version, &state.slices[name]);
        if kind == "DELETED" {
            state.slices.remove(name);
        }
        state.log.push((version, kind, slice));
        drop(state);
        let _ = self.shared.changed.send(());
    }

    /// Fails in this way from now on, in open watches too.
    pub(crate) fn fail(&self, fault: Fault) {
        self.shared.state().fault = fault;
        let _ = self.shared.changed.send(());
    }

    /// Forgets all changes up to now, as a compaction does.
    pub(crate) fn compact(&self) {
        let mut state = self.shared.state();
        // So that even a watch from the newest change is from before.
        state.version += 1;
        state.oldest = state.version;
        state.log.clear();
    }

    /// Slices on a page.
    pub(crate) fn page(&self, slices: usize) {
        self.shared.state().page = slices;
    }

    /// Time between bookmarks.
    pub(crate) fn bookmarks(&self, every: Duration) {
        self.shared.state().bookmarks = every;
    }

    /// The only credential taken from now on.
    pub(crate) fn token(&self, token: &str) {
        self.shared.state().token = Some(token.to_owned());
    }

    /// Paths and queries of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// How many watches were asked for so far.
    pub(crate) fn watches(&self) -> usize {
        self.requests().iter().filter(|request| request.contains("watch=true")).count()
    }

    /// How many lists were asked for so far.
    pub(crate) fn lists(&self) -> usize {
        let is_list =
            |request: &&String| !request.contains("watch=true") && !request.contains("/api/v1/");
        self.requests().iter().filter(is_list).count()
    }

    /// How often pods were asked for so far.
    pub(crate) fn asked(&self) -> usize {
        self.requests().iter().filter(|request| request.contains("/pods/")).count()
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn slice_json(name: &str, version: u64, endpoints: &[Endpoint]) -> Value {
    let mut list: Value = serde_json::from_str(LIST).unwrap();
    let mut slice = list["items"][0].take();
    slice["kind"] = json!("EndpointSlice");
    slice["apiVersion"] = json!("discovery.k8s.io/v1");
    slice["metadata"]["name"] = json!(name);
    slice["metadata"]["resourceVersion"] = json!(version.to_string());
    slice["endpoints"] = match endpoints {
        [] => Value::Null,
        _ => endpoints.iter().map(Endpoint::json).collect(),
    };
    slice
}

fn bookmark_json(version: u64) -> Value {
    json!({"type": "BOOKMARK", "object": {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": version.to_string()},
        "addressType": "",
        "endpoints": null,
        "ports": null,
    }})
}

fn error_json(code: u16) -> Value {
    let recorded = EXPIRED.lines().find(|line| line.starts_with('{')).unwrap();
    let mut line: Value = serde_json::from_str(recorded).unwrap();
    line["object"]["code"] = json!(code);
    line
}

fn status_json(code: u16) -> Value {
    let recorded = if code == 401 { UNAUTHORIZED } else { FORBIDDEN };
    let mut status: Value = serde_json::from_str(recorded).unwrap();
    status["code"] = json!(code);
    status
}

/// What another thread starts at this moment may have a copy of an earlier server's socket until it runs.
async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + SOON;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = stream.set_nodelay(true);
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    if shared.state().fault == Fault::Drop {
        return;
    }
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, Infallible> {
    let target = request.uri().to_string();
    let watches = target.contains("watch=true");
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let (fault, expected) = {
        let mut state = shared.state();
        state.requests.push(target.clone());
        (state.fault, state.token.as_ref().map(|token| format!("Bearer {token}")))
    };
    match fault {
        Fault::Hang => std::future::pending().await,
        Fault::Status(code) => return Ok(refusal(code)),
        Fault::WatchStatus(code) if watches => return Ok(refusal(code)),
        Fault::Slow(time) => sleep(time).await,
        _ => {}
    }
    if expected.is_some() && expected.as_deref() != given {
        return Ok(refusal(401));
    }
    if let Some((_, name)) = target.split_once("/api/v1/namespaces/abcdesktop/pods/") {
        let pod = pod_json(&shared.state(), name);
        let Some(pod) = pod else { return Ok(refusal(404)) };
        let body = Full::from(pod.to_string());
        return Ok(response(200, body.map_err(|never| match never {}).boxed()));
    }
    let query = |key: &str| {
        let pairs = target.split_once('?').unwrap().1.split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == key).map(|pair| pair.1)
    };
    let selector = query("labelSelector").unwrap();
    let service = selector.strip_prefix("kubernetes.io%2Fservice-name%3D").unwrap();
    if service != "desktop" {
        let body = Full::from(other_json(&shared.state(), service).to_string());
        return Ok(response(200, body.map_err(|never| match never {}).boxed()));
    }
    let (sender, receiver) = mpsc::channel(64);
    if watches {
        let from = query("resourceVersion").unwrap().parse().unwrap();
        let time = Duration::from_secs(query("timeoutSeconds").unwrap().parse().unwrap());
        tokio::spawn(stream(sender, shared, from, time));
    } else {
        let list = list_json(&shared.state(), query("continue"));
        let pieces = pieces(list.to_string().into_bytes(), fault);
        if fault != Fault::Split {
            let body = Full::from(pieces.concat()).map_err(|never| match never {}).boxed();
            return Ok(response(200, body));
        }
        tokio::spawn(async move {
            for piece in pieces {
                let _ = sender.send(Ok(piece)).await;
            }
        });
    }
    Ok(response(200, Channel(receiver).boxed()))
}

fn response(code: u16, body: BoxBody<Bytes, io::Error>) -> Answer {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .header("date", httpdate::fmt_http_date(SystemTime::now()))
        .body(body)
        .unwrap()
}

fn refusal(code: u16) -> Answer {
    let body = Full::from(status_json(code).to_string());
    response(code, body.map_err(|never| match never {}).boxed())
}

fn list_json(state: &State, from: Option<&str>) -> Value {
    let from: usize = from.map_or(0, |token| token.parse().unwrap());
    let slices = state.slices.iter().skip(from).take(state.page).map(|(name, endpoints)| {
        let mut slice = slice_json(name, state.version, endpoints);
        // The items of a list do not say what they are.
        slice.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
        slice
    });
    let mut list = json!({
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": state.version.to_string()},
        "items": slices.collect::<Vec<_>>(),
    });
    let next = from.saturating_add(state.page);
    if next < state.slices.len() {
        list["metadata"]["continue"] = json!(next.to_string());
    }
    list
}

/// A pod that runs.
fn pod_json(state: &State, name: &str) -> Option<Value> {
    let pod = state.slices.values().flatten().find(|endpoint| endpoint.name == name)?;
    let started = humantime::format_rfc3339_seconds(pod.started?).to_string();
    Some(json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "abcdesktop",
            "uid": pod.uid,
            "creationTimestamp": started,
        },
        "status": {
            "phase": "Running",
            "podIP": pod.address,
            "podIPs": [{"ip": pod.address}],
            "containerStatuses": [
                {"name": "sound", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                {"name": "graphical", "restartCount": 0, "state": {"running": {"startedAt": started}}},
            ],
        },
    }))
}

/// The list of another service: one slice, or none.
fn other_json(state: &State, service: &str) -> Value {
    let endpoints = state.others.get(service);
    let slice = |endpoints: &Vec<Endpoint>| slice_json(service, state.version, endpoints);
    json!({
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": state.version.to_string()},
        "items": endpoints.map(slice).into_iter().collect::<Vec<_>>(),
    })
}

fn pieces(bytes: Vec<u8>, fault: Fault) -> Vec<Bytes> {
    match fault {
        Fault::Split => bytes.chunks(7).map(Bytes::copy_from_slice).collect(),
        _ => vec![bytes.into()],
    }
}

/// A watch: what was missed, then what happens, to its time's end.
async fn stream(
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
    shared: Arc<Shared>,
    mut from: u64,
    time: Duration,
) {
    let mut changes = shared.changed.subscribe();
    let end = Instant::now() + time;
    // The real one sends its last bookmark shortly before the end.
    let mut last = Some(end - time.min(Duration::from_secs(1)) / 2);
    let mut bookmark = Instant::now() + shared.state().bookmarks;
    if from < shared.state().oldest {
        let _ = send(&sender, &error_json(410), Fault::None).await;
        return;
    }
    loop {
        let (fault, version) = shared.state().now();
        let silent = matches!(fault, Fault::Stall | Fault::Hang);
        if !silent {
            if let Some(piece) = last_piece(fault, version) {
                let _ = sender.send(piece).await;
                return;
            }
            let Some(to) = news(&sender, &shared, from).await else { return };
            from = to;
        }
        tokio::select! {
            // A watch that was held up tells all it knows before it ends.
            biased;
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep_until(bookmark.min(last.unwrap_or(bookmark))), if !silent => {
                if last.is_some_and(|last| Instant::now() >= last) {
                    last = None;
                } else {
                    bookmark = Instant::now() + shared.state().bookmarks;
                }
                // A version that does not exist yet: nothing, not even a bookmark.
                if from <= version {
                    let _ = send(&sender, &bookmark_json(from), fault).await;
                }
            }
            () = sleep_until(end), if !silent => return,
            () = sender.closed() => return,
        }
    }
}

/// What a watch that fails sends at its end.
fn last_piece(fault: Fault, version: u64) -> Option<Result<Bytes, io::Error>> {
    let half = bookmark_json(version).to_string();
    match fault {
        Fault::Drop => Some(Err(io::ErrorKind::ConnectionReset.into())),
        Fault::Garbage => Some(Ok("{\"type\": nonsense\n".into())),
        Fault::Brief => Some(Ok(format!("{}\n", bookmark_json(version)).into())),
        Fault::HalfLine => Some(Ok(half[..half.len() / 2].to_owned().into())),
        Fault::WatchError(code) => Some(Ok(format!("{}\n", error_json(code)).into())),
        _ => None,
    }
}

/// Sends what happened after `from`; returns up to where, unless nobody reads.
async fn news(
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
    shared: &Shared,
    mut from: u64,
) -> Option<u64> {
    let (fault, news) = {
        let state = shared.state();
        let news = state.log.iter().filter(|change| change.0 > from).cloned();
        (state.fault, news.collect::<Vec<_>>())
    };
    for (version, kind, slice) in news {
        let line = json!({"type": kind, "object": slice});
        for _ in 0..if fault == Fault::Duplicate { 2 } else { 1 } {
            send(sender, &line, fault).await.ok()?;
        }
        from = version;
    }
    Some(from)
}

async fn send(
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
    line: &Value,
    fault: Fault,
) -> Result<(), ()> {
    if let Fault::Slow(time) = fault {
        sleep(time).await;
    }
    for piece in pieces(format!("{line}\n").into_bytes(), fault) {
        sender.send(Ok(piece)).await.map_err(|_| ())?;
        if fault == Fault::Split {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

struct Channel(mpsc::Receiver<Result<Bytes, io::Error>>);

impl Body for Channel {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|data| data.map(|data| data.map(Frame::data)))
    }
}

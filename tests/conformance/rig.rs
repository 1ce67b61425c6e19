//! One gateway of a profile with every service there is, each at a port of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::rows::Answer;
use super::tokens::FQDN;
use crate::support::name_server::NameServer;
use crate::support::{Exchange, Gateway, Origin, PODS, Seen, eventually, pod_listeners, websocket};

/// The services of a pod by their names in `[desktop.ports]`, with abcdesktop's ports, and `user`,
/// a service that the user started.
pub(super) const SERVICES: [(&str, u16); 13] = [
    ("vnc", 6081),
    ("terminals", 29781),
    ("printerfiler", 29782),
    ("filer", 29783),
    ("broadcast", 29784),
    ("snapshot", 29785),
    ("spawner", 29786),
    ("signalling", 29787),
    ("sound", 29788),
    ("microphone", 29789),
    ("gamepad", 29790),
    ("pulseaudio", 4714),
    ("user", 8080),
];

/// The fixed services, with abcdesktop's ports.
pub(super) const UPSTREAMS: [(&str, u16); 4] =
    [("pyos", 8000), ("website", 80), ("speedtest", 80), ("console", 80)];

/// What the upstreams saw, and what they are to answer.
#[derive(Default)]
struct Stage {
    seen: Mutex<Vec<(String, Seen)>>,
    answer: Mutex<Answer>,
    /// Requests that are being answered.
    answering: AtomicUsize,
}

/// A request that is being answered.
struct Answering<'a>(&'a AtomicUsize);

impl<'a> Answering<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) struct Rig {
    gateway: Gateway,
    pub(super) ports: BTreeMap<String, u16>,
    stage: Arc<Stage>,
    _origins: Vec<Origin>,
    _names: NameServer,
    _root: TempDir,
}

impl Rig {
    pub(super) fn start(profile: &str) -> Self {
        let stage = Arc::<Stage>::default();
        let mut origins = Vec::new();
        let mut ports = BTreeMap::new();
        let mut serve = |name: String, listener: TcpListener| {
            let stage = Arc::clone(&stage);
            origins.push(Origin::on(listener, move |exchange| answer(&name, &stage, exchange)));
        };
        for (service, _) in SERVICES {
            let ([first, second], port) = pod_listeners();
            ports.insert(service.to_owned(), port);
            serve(format!("pod-a:{service}"), first);
            serve(format!("pod-b:{service}"), second);
        }
        for (upstream, _) in UPSTREAMS {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            ports.insert(upstream.to_owned(), listener.local_addr().unwrap().port());
            serve(upstream.to_owned(), listener);
        }
        let root = TempDir::new().unwrap();
        let files = site(root.path());
        // It knows no name.
        let names = NameServer::start();
        let gateway = Gateway::start(&config(profile, &ports, &files, names.address));
        Self { gateway, ports, stage, _origins: origins, _names: names, _root: root }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Sets the stage for the next request. An upstream that ends a connection after its answer may
    /// not have ended it yet when the client has that.
    pub(super) fn prepare(&self, answer: Answer) {
        let busy = || self.stage.answering.load(Ordering::SeqCst) > 0;
        eventually("all is answered", || (!busy()).then_some(()));
        *self.stage.answer.lock().unwrap() = answer;
        self.stage.seen.lock().unwrap().clear();
    }

    /// The requests that upstreams saw since, each with the upstream's name.
    pub(super) fn seen(&self) -> Vec<(String, Seen)> {
        self.stage.seen.lock().unwrap().clone()
    }
}

/// Writes down what came and answers as the stage says.
fn answer(name: &str, stage: &Stage, exchange: &mut Exchange) {
    let _answering = Answering::begin(&stage.answering);
    let seen = Seen { head: exchange.head.clone(), body: Vec::new() };
    stage.seen.lock().unwrap().push((name.to_owned(), seen));
    let plan = stage.answer.lock().unwrap().clone();
    if !plan.early && exchange.body().is_err() {
        return;
    }
    let headers: String = plan.headers.iter().map(|line| format!("{line}\r\n")).collect();
    if plan.close {
        exchange.close();
    } else if let Some(raw) = &plan.raw {
        exchange.write(raw);
        exchange.close();
    } else if plan.status.is_none() && exchange.header("upgrade").is_some() {
        drop(websocket(exchange, &headers));
    } else {
        let body = match &plan.body {
            Some(body) => body.clone(),
            None if plan.body_bytes > 0 => "x".repeat(plan.body_bytes),
            None if exchange.head.starts_with("HEAD ") => String::new(),
            None => name.to_owned(),
        };
        exchange.answer(plan.status.as_deref().unwrap_or("200 OK"), &headers, body);
    }
}

fn config(profile: &str, ports: &BTreeMap<String, u16>, files: &Path, names: SocketAddr) -> String {
    let files_of =
        |route: &str| format!("[[route]]\nname = \"{route}\"\nbackend = {{ files = {files:?} }}\n");
    let desktop = SERVICES.iter().filter(|(name, _)| *name != "user");
    let desktop: String = desktop.map(|(name, _)| format!("{name} = {}\n", ports[*name])).collect();
    let upstreams = UPSTREAMS.map(|(name, _)| {
        format!("[upstreams.{name}]\nhost = \"{name}\"\nport = {}\n", ports[name])
    });
    let hosts = UPSTREAMS.map(|(name, _)| format!("{name} = [\"127.0.0.1\"]\n"));
    let rows = match profile {
        "abcdesktop-3" => [files_of("website"), files_of("mimetypes")].concat(),
        _ => files_of("well-known"),
    };
    format!(
        "profile = {profile:?}\n\
         [server]\nnode_name = \"node-1\"\n\
         [desktop]\ncidrs = [\"127.0.0.0/8\", \"::1/128\"]\n\
         [desktop.ports]\n{desktop}{upstreams}\
         [dns]\nservers = [\"{names}\"]\ntimeout = \"5s\"\n\
         [dns.hosts]\n{hosts}{FQDN:?} = [\"{pod}\"]\n{rows}",
        upstreams = upstreams.concat(),
        hosts = hosts.concat(),
        pod = PODS[0],
    )
}

/// A folder with what rows ask for; what must not be reached lies beside it.
fn site(dir: &Path) -> std::path::PathBuf {
    let root = dir.join("site");
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("index.html", "<title>the client</title>");
    write("statusfoo.html", "not the status");
    write("big.js", &"a".repeat(4096));
    write("dir/index.html", "in the folder");
    write("dir/.hidden", "hidden");
    write(".git/config", "hidden");
    write(".well-known/acme-challenge/proof", "proof of control");
    write("mimetypes/application-octet-stream.svg", "octet-stream");
    write("mimetypes/text-plain.svg", "text-plain");
    for name in [
        "font.woff2",
        "font.woff",
        "font.ttf",
        "font.otf",
        "app.mjs",
        "tone.oga",
        "app.wasm",
        "app.map",
        "a.css",
        "a.svg",
        "a.png",
        "a.json",
        "a.unknown",
    ] {
        write(name, "content");
    }
    fs::write(dir.join("secret"), "secret").unwrap();
    symlink(dir.join("secret"), root.join("link-out")).unwrap();
    root
}

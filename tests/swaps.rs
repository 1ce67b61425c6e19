//! A hundred reloads under load: no request fails, no tunnel ends.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use deskgate::auth::mint::KeySet;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::support::{PODS, Response, Site, eventually, free_port, raw, tokens};
use crate::tls::{Issued, ask};

const TUNNELS: usize = 500;
const SWAPS: usize = 100;

/// Requests that are answered between one swap and the next, and how many are asked for in a second.
const BETWEEN: u64 = 100;
const RATE: u32 = 500;

/// Clients with a connection of their own.
const CLIENTS: u32 = 5;

/// Life of their token, in seconds: longer than the test on any machine.
const LIFE: u64 = 3600;

/// Between two messages, or two handshakes, of one thread: others want to run, too.
const PAUSE: Duration = Duration::from_millis(1);

/// What the load has done so far.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    answered: AtomicU64,
    handshakes: AtomicU64,
    messages: AtomicU64,
}

fn text(keys: &KeySet, wanted: &str) -> String {
    let mut files = keys.files().into_iter();
    files.find(|(name, _)| *name == wanted).map(|(_, text)| text.to_string()).unwrap()
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Asks over one connection, `RATE / CLIENTS` times a second; every answer must be right.
fn requests(site: &Site, load: &Load) {
    let mut client = site.client();
    let token = tokens::minter(tokens::keys()).mint(PODS[0], tokens::now(), LIFE).unwrap();
    let bearer = format!("ABCAuthorization: Bearer {token}\r\n");
    let pause = Duration::from_secs(1) * CLIENTS / RATE;
    let mut next = Instant::now();
    for (number, target) in
        ["/filer/a", "/API/b", "/page", "/healthz"].into_iter().cycle().enumerate()
    {
        if load.over.load(Ordering::Relaxed) {
            return;
        }
        let request = format!("GET {target} HTTP/1.1\r\nHost: desk.example\r\n{bearer}\r\n");
        let answer = client.ask(&request);
        assert_eq!(answer.status, 200, "request {number}: {answer:?}");
        if answer.header("connection").is_some_and(|said| said == "close") {
            client = site.client();
        }
        load.answered.fetch_add(1, Ordering::Relaxed);
        next += pause;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Shakes hands and asks once per connection.
fn handshakes(issued: &Issued, port: u16, load: &Load) {
    while !load.over.load(Ordering::Relaxed) {
        let answer = ask(&mut issued.connect(port), "/API/tls");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        load.handshakes.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// Sends a message through a tunnel; it must come back. After a long silence a ping comes first.
fn carries(socket: &mut WebSocket<TcpStream>, message: &str) {
    socket.send(message.into()).unwrap();
    let back = loop {
        match socket.read().unwrap() {
            Message::Ping(_) => {}
            other => break other,
        }
    };
    assert_eq!(back.into_text().unwrap().as_str(), message);
}

/// Sends a message through each tunnel in turn; every one must come back.
fn messages(tunnels: &mut [WebSocket<TcpStream>], load: &Load) {
    let all = tunnels.len();
    for number in 0.. {
        if load.over.load(Ordering::Relaxed) {
            return;
        }
        carries(&mut tunnels[number % all], &format!("message {number}"));
        load.messages.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

fn operator(admin: SocketAddr, method: &str, target: &str) -> Response {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    raw(admin, head).unwrap()
}

/// Changes keys, certificates and configuration in turn, and has each change taken into use.
fn swap(site: &Site, issued: &Issued, admin: SocketAddr, load: &Load) {
    let (first, other) = (tokens::keys(), KeySet::generate(2048).unwrap());
    let signing = [text(first, KeySet::SIGNING_PUBLIC), text(&other, KeySet::SIGNING_PUBLIC)];
    let file = issued.path("signing.pem");
    for number in 0..SWAPS {
        match number % 4 {
            0 => replace(&file, &signing.concat()),
            1 => issued.issue("tls"),
            2 => replace(&file, &signing[0]),
            _ => site.gateway.reconfigure_with(|text| {
                let kept = text.split("\n[[route]]\nname = \"swap").next().unwrap_or_default();
                format!(
                    "{kept}\n[[route]]\nname = \"swap{number}\"\nmatch = {{ exact = \"/swap\" }}\n\
                     backend = {{ text = \"{number}\" }}\n"
                )
            }),
        }
        let answer = operator(admin, "POST", "/admin/reload");
        assert_eq!(answer.status, 200, "swap {number}: {answer:?}");
        let until = load.answered.load(Ordering::Relaxed) + BETWEEN;
        eventually("requests are answered", || {
            (load.answered.load(Ordering::Relaxed) >= until).then_some(())
        });
    }
    assert_eq!(site.get("/swap", "").text(), (SWAPS - 1).to_string());
}

#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever looks")]
fn a_hundred_reloads_under_load_fail_no_request_and_end_no_tunnel() {
    let issued = Issued::new();
    let (port, admin) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    replace(&issued.path("signing.pem"), &text(tokens::keys(), KeySet::SIGNING_PUBLIC));
    replace(&issued.path("payload.pem"), &text(tokens::keys(), KeySet::PAYLOAD_PRIVATE));
    let more = format!(
        "[admin]\nlisten = [\"{admin}\"]\n[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n",
        issued.path("signing.pem"),
        issued.path("payload.pem")
    );
    let site = issued.site(port, &more);
    // With one token: to open the seals of so many may take longer than a silent tunnel lives.
    let screen = Site::screen();
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| site.websocket(&screen)).collect();
    let load = Load::default();
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| requests(&site, &load));
        }
        scope.spawn(|| handshakes(&issued, port, &load));
        let (first, second) = tunnels.split_at_mut(TUNNELS / 2);
        scope.spawn(|| messages(first, &load));
        scope.spawn(|| messages(second, &load));
        let swaps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            swap(&site, &issued, admin, &load);
        }));
        load.over.store(true, Ordering::Relaxed);
        if let Err(panic) = swaps {
            std::panic::resume_unwind(panic);
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{SWAPS} swaps in {seconds:.1} s: {} requests, {} handshakes, {} messages in {TUNNELS} tunnels",
        of(&load.answered),
        of(&load.handshakes),
        of(&load.messages)
    );
    assert!(of(&load.answered) >= SWAPS as u64 * BETWEEN && of(&load.handshakes) > 0);
    // Every tunnel is there, and carries.
    for (number, socket) in tunnels.iter_mut().enumerate() {
        carries(socket, &format!("the last of {number}"));
    }
    nothing_was_lost(&operator(admin, "GET", "/metrics").text());
}

/// Whether the counters say the same.
fn nothing_was_lost(figures: &str) {
    for line in [
        format!("deskgate_tunnels_open{{route=\"websockify\"}} {TUNNELS}"),
        "deskgate_tunnels_dropped_by_reload_total 0".to_owned(),
        "deskgate_config_reloads_total{outcome=\"refused\"} 0".to_owned(),
        "deskgate_config_last_reload_successful 1".to_owned(),
    ] {
        assert!(figures.contains(&line), "no {line}");
    }
    let taken = figures.lines().find_map(|line| {
        line.strip_prefix("deskgate_config_reloads_total{outcome=\"taken\"} ")?
            .parse::<usize>()
            .ok()
    });
    assert!(taken >= Some(SWAPS), "{taken:?}");
    let failed = |line: &&str| {
        (line.starts_with("deskgate_requests_failed_total")
            || line.starts_with("deskgate_tunnels_closed_total")
            || line.contains("class=\"4xx\"")
            || line.contains("class=\"5xx\""))
            && !line.ends_with(" 0")
    };
    assert_eq!(figures.lines().filter(failed).collect::<Vec<_>>(), Vec::<&str>::new());
}

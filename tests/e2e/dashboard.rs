//! The operators' dashboard in a real browser, fed by real traffic.
//!
//! With `DESKGATE_SLOW=1` the traffic lasts five minutes instead of seconds: the pictures of the README.

use super::rig::{self, Script};
use super::screenshot;
use crate::support::fake_api::{Endpoint, FakeApi};
use crate::support::{PODS, Response, Site, echo, eventually, free_port, raw, tokens};
use crate::tls::Issued;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::WebSocket;

const TUNNELS: usize = 9;
const TOKEN: &str = "a-token-of-the-operators";

fn traffic_lasts() -> Duration {
    let slow = std::env::var_os("DESKGATE_SLOW").is_some_and(|value| value == "1");
    Duration::from_secs(if slow { 300 } else { 12 })
}

/// A gateway with desktops that are watched, HTTPS, and an admin interface with a token.
struct Stage {
    site: Site,
    admin: SocketAddr,
    _api: FakeApi,
    _issued: Issued,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn start() -> Self {
        let (api, issued) = (FakeApi::start(), Issued::new());
        let folder = tempfile::TempDir::new().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (certificate, key) = (issued.path("tls.crt"), issued.path("tls.key"));
        let text = format!(
            "[listen]\nhttps = [\"127.0.0.1:{}\"]\n\
             [tls]\ncertificates = [{{ certificate = {certificate:?}, key = {key:?} }}]\n\
             [admin]\nlisten = [\"{admin}\"]\ntoken = {token:?}\n\
             [server]\nnode_name = \"node-1\"\n\
             [discovery]\nmode = \"kubernetes\"\napi_host = \"{}\"\napi_port = {}\nauthority = \"\"\n\
             wait = \"200ms\"\n\
             [upstreams.gone]\nhost = \"127.0.0.1\"\nport = {}\n\
             [[route]]\nname = \"websockify\"\ntunnel = {{ ping = \"5s\" }}\n\
             [[route]]\nname = \"gone\"\nmatch = {{ prefix = \"/gone\" }}\n\
             backend = {{ upstream = \"gone\" }}\n",
            free_port(),
            api.address.ip(),
            api.address.port(),
            free_port(),
        );
        let site = Site::configured_serving(&text, |exchange| match exchange.header("upgrade") {
            Some(_) => echo(exchange),
            None => exchange.answer("200 OK", "", "page ".repeat(50)),
        });
        eventually("a watch", || (api.watches() > 0).then_some(()));
        api.set(Endpoint::ready("anna", PODS[0]));
        api.set(Endpoint::ready("bruno", PODS[1]));
        api.set(Endpoint::not_ready("clara", "127.0.0.4"));
        api.set(Endpoint::ready("david", "127.0.0.5"));
        api.set(Endpoint::terminating("emma", "127.0.0.6"));
        Self { site, admin, _api: api, _issued: issued, _folder: folder }
    }

    fn ask(&self, method: &str, target: &str) -> Response {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        raw(self.admin, head).unwrap()
    }

    fn overview(&self) -> Value {
        self.ask("GET", "/admin/overview").json()
    }

    /// A tunnel of a user of his own to one of the pods.
    fn tunnel(&self, number: u64) -> WebSocket<TcpStream> {
        let pod = PODS[usize::try_from(number).unwrap() % 2];
        let token = eventually("a token that is certain", || {
            let minter = tokens::minter(tokens::keys());
            let token = minter.mint(pod, tokens::now(), tokens::TTL + number).unwrap();
            let bearer = format!("ABCAuthorization: {token}\r\n");
            (self.site.get("/filer", &bearer).status == 200).then_some(token)
        });
        self.site.websocket(&format!("/websockify?{token}"))
    }
}

/// Asks for this and that, some of it in vain.
fn requests(site: &Site, over: &AtomicBool) {
    let bearer = Site::bearer();
    let expired = format!("ABCAuthorization: {}\r\n", tokens::expired(PODS[0]));
    let foreign = format!("ABCAuthorization: {}\r\n", tokens::foreign(PODS[0]));
    for round in 0_u64.. {
        let wave = 8 + round % 40 / 3;
        for number in 0..wave {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let (target, headers) = match (number % 8, round % 4) {
                (0 | 1, _) => ("/API/user", ""),
                (2 | 3, _) => ("/app/index.html", ""),
                (4, 0) => ("/gone", ""),
                (4, 1) => ("/filer/x", expired.as_str()),
                (4, 2) => ("/filer/x", foreign.as_str()),
                (4, _) => ("/filer/x", ""),
                (5, _) => ("/speedtest/empty", ""),
                _ => ("/filer/home", bearer.as_str()),
            };
            site.get(target, headers);
        }
        thread::sleep(Duration::from_millis(150));
    }
}

/// Types now and then, and gets pictures back.
fn desktop(socket: &mut WebSocket<TcpStream>, number: usize, over: &AtomicBool) {
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let size = 200 + (round * 997 + number * 4001) % (9000 * (number + 1));
        if number % 4 != 3 || round % 40 == 0 {
            socket.send(vec![7; size].into()).unwrap();
            socket.read().unwrap();
        } else {
            // A silent one: its pings are answered all the same.
            socket.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let _ = socket.read();
            let _ = socket.flush();
            socket.get_ref().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        thread::sleep(Duration::from_millis(60 + 25 * number as u64));
    }
}

fn page(stage: &Stage) -> Script {
    let pictures = ["light", "dark"].map(|scheme| screenshot(&format!("dashboard-{scheme}.png")));
    let look = |scheme: &str, width: u32, height: u32| json!({"do": "look", "scheme": scheme, "width": width, "height": height});
    let rows = "document.querySelectorAll('#tunnels tbody tr').length";
    Script::on(format!("http://{}/", stage.admin))
        .step(look("light", 1440, 1010))
        .wait("!document.getElementById('gate').hidden")
        .press("#token")
        .type_text(TOKEN)
        .key("Enter")
        .wait("document.getElementById('gate').hidden")
        .wait(&format!("{rows} === {TUNNELS}"))
        // Rates and sparklines come of several answers.
        .wait("document.querySelectorAll('#tunnels svg.spark path').length > 0")
        .wait("[...document.querySelectorAll('#tunnels td')].some(c => /KiB\\/s|B\\/s/.test(c.innerText))")
        .step(json!({"do": "wait", "until": "(window.since ??= Date.now()) + 9000 < Date.now()"}))
        .text("tiles", "#tiles")
        .text("legend", "#legend")
        .text("desktops", "#desktops")
        .text("auth", "#auth")
        .text("keys", "#keys")
        .text("reloads", "#reloads")
        .value("paths", "document.querySelectorAll('#requests path').length")
        .screenshot(&pictures[0])
        .step(look("dark", 1440, 1010))
        .screenshot(&pictures[1])
        // An operator closes a tunnel.
        .press("#tunnels tbody tr:first-child button")
        .press("#sure-yes")
        .wait(&format!("{rows} === {}", TUNNELS - 1))
        .step(look("light", 480, 900))
        .screenshot(&screenshot("dashboard-narrow.png"))
}

#[test]
fn the_dashboard_shows_what_happens_and_closes_a_tunnel() {
    let stage = Stage::start();
    let mut tunnels: Vec<_> = (0..TUNNELS as u64).map(|number| stage.tunnel(number)).collect();
    stage.site.gateway.reconfigure_with(|text| format!("{text}\n# The same again.\n"));
    assert_eq!(stage.ask("POST", "/admin/reload").status, 200);
    stage.site.gateway.reconfigure_with(|text| text.replace("wait = \"200ms\"", "wait = \"soon\""));
    assert_ne!(stage.ask("POST", "/admin/reload").status, 200);
    let over = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        scope.spawn(|| requests(&stage.site, &over));
        for (number, socket) in tunnels.iter_mut().enumerate() {
            let over = &over;
            scope.spawn(move || {
                // The one that the operator closes ends here.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    desktop(socket, number, over);
                }));
            });
        }
        let end = Instant::now() + traffic_lasts();
        eventually_within(end + Duration::from_secs(60), || Instant::now() >= end);
        let report = rig::browse(&page(&stage));
        over.store(true, Ordering::Relaxed);
        report
    });
    let report = report.assert_done();
    let shown = |name: &str| report.text(name).to_owned();
    for (name, wanted) in [
        ("legend", &["pyos", "website", "filer"][..]),
        ("desktops", &["pod-anna", "pod-bruno", "pod-clara", "ready"]),
        ("auth", &["expired", "missing", "bad signature"]),
        ("keys", &["desk.example"]),
        ("reloads", &["wait"]),
    ] {
        for text in wanted {
            assert!(shown(name).contains(text), "no {text} in {name}: {}", shown(name));
        }
    }
    assert!(report.values["paths"].as_u64() > Some(0), "{:?}", report.values);
    // The first question, without a token, is answered 401.
    let is_error = |line: &&String| line.contains("rror") && !line.contains("401");
    let errors: Vec<_> = report.console.iter().filter(is_error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(stage.overview()["tunnels_open"], TUNNELS as u64 - 1);
}

fn eventually_within(deadline: Instant, is_so: impl Fn() -> bool) {
    while !is_so() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(50));
    }
}

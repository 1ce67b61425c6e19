//! `deskgate demo` as a newcomer meets it: a page, two users, live desktops.

use super::rig::{self, BrowserReport, Colour, Script};
use super::screenshot;
use crate::support::free_port;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The square at (10, 10) of each demo desktop.
const ADA: Colour = [0x1d, 0x5f, 0x8a];
const BOB: Colour = [0x8a, 0x4b, 0x1d];

/// A point inside that square.
const SQUARE: rig::Point = (30, 30);

/// A running demo, ended by its process id.
struct Demo {
    process: Child,
    address: String,
}

impl Demo {
    fn start() -> Self {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let novnc =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/node_modules/@novnc/novnc");
        let mut process = Command::new(crate::support::binary())
            .args(["demo", "--listen", &address, "--token-life", "30s", "--novnc"])
            .arg(novnc)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // The demo must never wait for somebody to read its log.
        std::thread::spawn(move || while lines.next().is_some() {});
        rig::eventually("the demo answers", Duration::from_secs(20), || {
            std::net::TcpStream::connect(&address).ok()
        });
        Self { process, address }
    }

    fn page(&self, user: &str, colour: Colour) -> Script {
        Script::on(format!("http://{}/", self.address))
            .canvas("#screen canvas")
            .press(&format!("#user-{user}"))
            .wait("window.deskgate.state === 'connected'")
            .step(serde_json::json!({
                "do": "wait_pixels", "points": [SQUARE], "colours": [colour],
            }))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn without_complaints(report: &BrowserReport) {
    let errors: Vec<_> = report.console.iter().filter(|line| line.contains("rror")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn a_newcomer_chooses_a_user_types_and_sees_the_desktop_answer() {
    let demo = Demo::start();
    let picture = screenshot("desktop.png");
    let region = "(() => { const c = document.querySelector('#screen canvas'); \
        return Array.from(c.getContext('2d').getImageData(34, 150, 260, 20).data).join() })()";
    let script = demo
        .page("ada", ADA)
        .value("before", &format!("window.before = {region}"))
        .click((420, 300))
        .type_text("Hello from the browser")
        .wait(&format!("{region} !== window.before"))
        .press("#call-spawner")
        .wait("document.querySelector('#answer').innerText.includes('spawner')")
        .text("answer", "#answer")
        .text("state", "#state")
        .value("life", "Number(document.querySelector('#life').value)")
        .value("url", "location.href")
        .value("after", region)
        .screenshot(&picture);
    let report = rig::browse(&script).assert_done();
    assert_eq!(report.text("state"), "connected");
    assert!(report.text("answer").contains("ada"), "{}", report.text("answer"));
    assert_ne!(report.text("before"), report.text("after"), "what was typed is in the picture");
    assert!(report.values["life"].as_f64().unwrap() > 0.0);
    assert_eq!(report.text("url"), format!("http://{}/", demo.address), "no token in the address");
    assert!(picture.is_file());
    without_complaints(&report);
}

#[test]
fn each_user_sees_his_own_desktop_and_the_token_is_renewed_without_a_cut() {
    let demo = Demo::start();
    let first = "window.first ??= window.deskgate.token, window.first !== window.deskgate.token";
    let script = demo
        .page("bob", BOB)
        .step(serde_json::json!({"do": "wait", "until": first, "timeout_ms": 90000}))
        .text("state", "#state")
        .pixels("seen", &[SQUARE]);
    let report = rig::browse(&script).assert_done();
    assert_eq!(report.text("state"), "connected");
    assert_eq!(report.pixels("seen"), [BOB]);
    assert_eq!(report.sockets.len(), 1, "one socket all the time");
    without_complaints(&report);
}

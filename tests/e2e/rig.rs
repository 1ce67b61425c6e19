//! Real peers for the end-to-end tests: X servers with a known picture behind websockify,
//! a website, tokens from PyJWT, and Chromium with noVNC.
//!
//! `scripts/setup test` installs what this needs. Linux only.

use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_WITHIN: Duration = Duration::from_secs(60);
const BROWSE_WITHIN: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

/// Asks until there is an answer; panics when there is none in time.
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::sleep(POLL);
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(name)
}

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    assert!(path.exists(), "{} is missing: run scripts/setup test", path.display());
    path
}

// ---------------------------------------------------------------------------------------
// Processes

/// A program in a process group of its own, ended with everything it started.
struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// What the program says goes to `<name>.log` in `dir`.
    fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        command.stderr(File::create(&log).unwrap()).process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}: run scripts/setup test", command.get_program()));
        Self { child, name: name.to_owned(), log }
    }

    /// Ended, though not reaped: until then the group's id cannot be anyone else's.
    fn is_over(&self) -> bool {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
    }

    fn eventually<T>(&self, what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            // Asked before the answer is, which may be the last thing the program did.
            let over = self.is_over();
            if let Some(answer) = ask() {
                return answer;
            }
            if over || Instant::now() > deadline {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let fate = if over { "ended" } else { "is too slow" };
                panic!("{} {fate}: no {what}; it said:\n{log}", self.name);
            }
            thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -s {signal} -- -{}", self.child.id());
        let _ = Command::new("/bin/sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(3);
        while !self.is_over() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.signal("KILL");
        let _ = self.child.wait();
    }
}

fn output_of(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: run scripts/setup test"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {}: {said}", command.get_program(), output.status);
    String::from_utf8(output.stdout).unwrap()
}

// ---------------------------------------------------------------------------------------
// The desktop

pub type Colour = [u8; 3];
pub type Point = (u32, u32);

/// A pattern of blocks in two colours. No mirroring or rotation maps it to itself, and every
/// user has other colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    pub foreground: Colour,
    pub background: Colour,
}

impl Picture {
    pub const WIDTH: u32 = 640;
    pub const HEIGHT: u32 = 480;
    const BLOCK: u32 = 80;
    /// One byte is one row of blocks. The terminal hides the last two of the last row.
    const BLOCKS: [u8; 6] =
        [0b1111_0000, 0b1110_0001, 0b1000_0000, 0b1001_0100, 0b0000_0110, 0b0100_1000];

    pub fn colour_at(&self, (x, y): Point) -> Colour {
        if Self::is_foreground(x, y) { self.foreground } else { self.background }
    }

    pub fn colours_at(&self, points: &[Point]) -> Vec<Colour> {
        points.iter().map(|point| self.colour_at(*point)).collect()
    }

    /// Where to look: each corner the terminal leaves, every kind of block, and both sides of
    /// the edges between blocks.
    pub fn probes() -> Vec<Point> {
        vec![
            (0, 0),
            (639, 0),
            (0, 479),
            (40, 40),
            (280, 40),
            (360, 40),
            (600, 120),
            (40, 200),
            (280, 280),
            (440, 280),
            (520, 360),
            (120, 440),
            (319, 79),
            (320, 79),
            (239, 159),
            (240, 159),
            (79, 160),
            (80, 160),
        ]
    }

    fn is_foreground(x: u32, y: u32) -> bool {
        assert!(x < Self::WIDTH && y < Self::HEIGHT);
        let row = Self::BLOCKS[(y / Self::BLOCK) as usize];
        row & (0x80 >> (x / Self::BLOCK)) != 0
    }

    /// The whole screen as an X bitmap, whose lowest bit is the leftmost pixel.
    fn xbm() -> String {
        let mut text = format!(
            "#define picture_width {}\n#define picture_height {}\nstatic char picture_bits[] = {{\n",
            Self::WIDTH,
            Self::HEIGHT
        );
        for y in 0..Self::HEIGHT {
            for byte in 0..Self::WIDTH / 8 {
                let bits = (0..8).filter(|bit| Self::is_foreground(byte * 8 + bit, y));
                text += &format!("{:#04x},", bits.fold(0u8, |sum, bit| sum | 1 << bit));
            }
            text.push('\n');
        }
        text + "};\n"
    }
}

/// An X server of its own, which no network reaches.
struct Display {
    server: Program,
    name: String,
    vnc: PathBuf,
    dir: PathBuf,
}

impl Display {
    fn start(dir: &Path) -> Self {
        let (vnc, number) = (dir.join("vnc.sock"), dir.join("display"));
        let mut command = Command::new("Xtigervnc");
        command
            .args(["-displayfd", "1", "-geometry", "640x480", "-depth", "24"])
            .args(["-SecurityTypes", "None", "-rfbport", "-1", "-rfbunixpath"])
            .arg(&vnc)
            .args(["-ac", "-nolisten", "tcp"])
            .stdin(Stdio::null())
            .stdout(File::create(&number).unwrap());
        let server = Program::start("Xtigervnc", dir, &mut command);
        let name = server.eventually("display number", START_WITHIN, || {
            let text = fs::read_to_string(&number).unwrap();
            text.ends_with('\n').then(|| format!(":{}", text.trim()))
        });
        let display = Self { server, name, vnc, dir: dir.to_owned() };
        display.server.eventually("answer to xdpyinfo", START_WITHIN, || {
            let status = display.client("xdpyinfo").stderr(Stdio::null()).status();
            status.expect("xdpyinfo: run scripts/setup test").success().then_some(())
        });
        display
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", &self.name).env("HOME", &self.dir).env_remove("XAUTHORITY");
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn paint(&self, picture: &Picture) {
        fs::write(self.dir.join("picture.xbm"), Picture::xbm()).unwrap();
        let hex = |[r, g, b]: Colour| format!("#{r:02x}{g:02x}{b:02x}");
        output_of(
            self.client("xsetroot")
                .args(["-fg", &hex(picture.foreground), "-bg", &hex(picture.background)])
                .args(["-bitmap", "picture.xbm"]),
        );
    }

    /// A terminal that appends every key to the file `typed`, and a point inside it.
    fn terminal(&self) -> (Program, Point) {
        // Each key at once, not only whole lines.
        let keep = "stty -icanon min 1 && : >>typed && : >ready && exec cat >>typed\n";
        fs::write(self.dir.join("keep.sh"), keep).unwrap();
        let mut command = self.client("xterm");
        command
            .args(["-T", "typing", "-geometry", "22x4-0-0", "+sb", "-fn", "fixed"])
            .args(["-e", "/bin/sh", "keep.sh"]);
        let terminal = Program::start("xterm", &self.dir, &mut command);
        let ready = self.dir.join("ready");
        terminal.eventually("shell", START_WITHIN, || ready.exists().then_some(()));
        let middle = terminal.eventually("window", START_WITHIN, || {
            let mut command = self.client("xwininfo");
            let output = command.args(["-name", "typing"]).stdout(Stdio::piped()).output().unwrap();
            middle_of_window(&String::from_utf8_lossy(&output.stdout))
        });
        (terminal, middle)
    }

    /// As in the user's pod: websockify before the X server's Unix socket.
    fn bridge(&self, address: &str, port: u16) -> Program {
        let mut command = Command::new("websockify");
        command
            .arg(format!("--unix-target={}", self.vnc.display()))
            .arg(format!("{address}:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let bridge = Program::start("websockify", &self.dir, &mut command);
        bridge.eventually("connection", START_WITHIN, || TcpStream::connect((address, port)).ok());
        bridge
    }
}

/// What a user's pod runs: an X server showing the picture, and websockify before it. A terminal
/// in the lower right corner keeps what is typed into it.
pub struct Desktop {
    // Dropped in this order.
    _bridge: Program,
    _terminal: Program,
    _display: Display,
    dir: TempDir,
    url: String,
    typing_at: Point,
}

impl Desktop {
    /// websockify listens on `address:port`.
    pub fn start(address: &str, port: u16, picture: &Picture) -> Self {
        let dir = TempDir::with_prefix("desktop-").unwrap();
        let display = Display::start(dir.path());
        display.paint(picture);
        let (terminal, typing_at) = display.terminal();
        let bridge = display.bridge(address, port);
        let url = format!("ws://{address}:{port}/");
        Self { _bridge: bridge, _terminal: terminal, _display: display, dir, url, typing_at }
    }

    /// Where websockify is, without any gateway.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A point of the terminal, which has the keyboard while the mouse is in it.
    pub fn typing_at(&self) -> Point {
        self.typing_at
    }

    /// What has been typed so far.
    pub fn typed(&self) -> String {
        fs::read_to_string(self.dir.path().join("typed")).unwrap()
    }

    /// Waits until as much has been typed as `expected` is long.
    pub fn typed_like(&self, expected: &str) -> String {
        let enough = || Some(self.typed()).filter(|typed| typed.len() >= expected.len());
        eventually(&format!("{expected:?} in {:?}", self.typed()), START_WITHIN, enough)
    }
}

fn middle_of_window(xwininfo: &str) -> Option<Point> {
    let field = |name: &str| {
        let line = xwininfo.lines().find_map(|line| line.trim().strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    xwininfo.contains("Map State: IsViewable").then_some(())?;
    let x = field("Absolute upper-left X:")? + field("Width:")? / 2;
    let y = field("Absolute upper-left Y:")? + field("Height:")? / 2;
    Some((x, y))
}

// ---------------------------------------------------------------------------------------
// Keys and tokens

/// With which of the payload keys the target is put into a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealing {
    /// Encrypted with the public key, opened with the private one: what pyos does.
    PublicKey,
    /// Made with the private key, opened with the public one: what its documents say.
    PrivateKey,
}

impl Sealing {
    /// The key file the gateway opens the target with.
    pub fn opening_key(self) -> &'static str {
        match self {
            Self::PublicKey => PAYLOAD_PRIVATE,
            Self::PrivateKey => PAYLOAD_PUBLIC,
        }
    }
}

pub const PAYLOAD_PRIVATE: &str = "abcdesktop_jwt_desktop_payload_private_key.pem";
pub const PAYLOAD_PUBLIC: &str = "abcdesktop_jwt_desktop_payload_public_key.pem";
pub const SIGNING_PRIVATE: &str = "abcdesktop_jwt_desktop_signing_private_key.pem";
pub const SIGNING_PUBLIC: &str = "abcdesktop_jwt_desktop_signing_public_key.pem";

/// Makes both key pairs with the commands of the install documents.
pub fn openssl_keys(dir: &Path, bits: u32) {
    let openssl = |arguments: &[&str]| {
        output_of(Command::new("openssl").args(arguments).current_dir(dir));
    };
    let bits = bits.to_string();
    openssl(&["genrsa", "-out", PAYLOAD_PRIVATE, &bits]);
    openssl(&[
        "rsa",
        "-in",
        PAYLOAD_PRIVATE,
        "-outform",
        "PEM",
        "-RSAPublicKey_out",
        "-out",
        PAYLOAD_PUBLIC,
    ]);
    openssl(&["genrsa", "-out", SIGNING_PRIVATE, &bits]);
    openssl(&["rsa", "-in", SIGNING_PRIVATE, "-outform", "PEM", "-pubout", "-out", SIGNING_PUBLIC]);
}

/// A token as pyos makes it, from PyJWT and PyCryptodome (or `openssl rsautl -sign`).
/// A negative number of seconds makes an expired one.
pub fn pyos_token(sealing: Sealing, keys: &Path, target: &str, seconds: i64) -> String {
    let (mode, payload) = match sealing {
        Sealing::PublicKey => ("public", PAYLOAD_PUBLIC),
        Sealing::PrivateKey => ("private", PAYLOAD_PRIVATE),
    };
    let mut python = Command::new(tool("venv/bin/python"));
    python.arg(source("tokens.py")).arg(mode);
    python.arg(keys.join(SIGNING_PRIVATE)).arg(keys.join(payload));
    output_of(python.arg(target).arg(seconds.to_string())).trim().to_owned()
}

/// The token with one character in the middle of its signature changed.
pub fn tampered(token: &str) -> String {
    let (content, signature) = token.rsplit_once('.').unwrap();
    let (before, after) = signature.split_at(signature.len() / 2);
    let other = if after.starts_with('A') { 'B' } else { 'A' };
    format!("{content}.{before}{other}{}", &after[1..])
}

// ---------------------------------------------------------------------------------------
// The website

/// Serves the test page at `/` and noVNC at `/novnc/`: the gateway's website upstream.
pub struct Website {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Website {
    const WORKERS: usize = 8;

    pub fn start() -> Self {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let novnc = tool("node_modules/@novnc/novnc");
        let work = || {
            let (listener, requests) = (Arc::clone(&listener), Arc::clone(&requests));
            let (stop, novnc) = (Arc::clone(&stop), novnc.clone());
            thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = answer(stream, &requests, &novnc); // the peer may be gone
                }
            })
        };
        let workers = (0..Self::WORKERS).map(|_| work()).collect();
        Self { address: listener.local_addr().unwrap(), requests, stop, workers }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request lines so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Website {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for _ in &self.workers {
            let _ = TcpStream::connect(self.address); // one for each to wake up
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// One request a connection, so that an idle one never holds a worker.
fn answer(stream: TcpStream, requests: &Mutex<Vec<String>>, novnc: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?).take(64 * 1024);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    requests.lock().unwrap().push(request.trim_end().to_owned());

    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let file = match path.strip_prefix("/novnc/") {
        Some(rest) if !rest.split('/').any(|part| part == "..") => Some(novnc.join(rest)),
        None if path == "/" => Some(source("page.html")),
        _ => None,
    };
    let content = file.as_deref().and_then(|file| fs::read(file).ok());
    let (status, content) = match content {
        Some(_) if method != "GET" => ("405 Method Not Allowed", Vec::new()),
        Some(content) => ("200 OK", content),
        None => ("404 Not Found", Vec::new()),
    };
    let kind = match file.as_deref().and_then(Path::extension).and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        _ => "application/octet-stream",
    };
    let length = content.len();
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n")?;
    write!(stream, "Cache-Control: no-store\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&content)
}

// ---------------------------------------------------------------------------------------
// The browser

/// What the browser is to do; browser.mjs says what every step means.
#[derive(Clone, Debug)]
pub struct Script {
    page: String,
    canvas: String,
    steps: Vec<Value>,
}

impl Script {
    pub fn on(page: impl Into<String>) -> Self {
        Self { page: page.into(), canvas: "#screen canvas".to_owned(), steps: Vec::new() }
    }

    /// Any step of browser.mjs.
    pub fn step(mut self, step: Value) -> Self {
        self.steps.push(step);
        self
    }

    /// Connects the test page through its own host.
    pub fn start(self, token: &str) -> Self {
        self.wait("window.state !== undefined")
            .step(json!({"do": "call", "function": "start", "arguments": [token]}))
    }

    /// Connects the test page straight to a WebSocket elsewhere.
    pub fn start_at(self, socket: &str) -> Self {
        self.wait("window.state !== undefined")
            .step(json!({"do": "call", "function": "start", "arguments": ["", socket]}))
    }

    pub fn wait(self, expression: &str) -> Self {
        self.step(json!({"do": "wait", "until": expression}))
    }

    pub fn value(self, name: &str, expression: &str) -> Self {
        self.step(json!({"do": "value", "of": expression, "as": name}))
    }

    pub fn wait_for_picture(self, picture: &Picture) -> Self {
        let points = Picture::probes();
        let colours = picture.colours_at(&points);
        self.step(json!({"do": "wait_pixels", "points": points, "colours": colours}))
    }

    pub fn pixels(self, name: &str, points: &[Point]) -> Self {
        self.step(json!({"do": "pixels", "points": points, "as": name}))
    }

    pub fn click(self, at: Point) -> Self {
        self.step(json!({"do": "click", "at": at}))
    }

    pub fn type_text(self, text: &str) -> Self {
        self.step(json!({"do": "type", "text": text}))
    }

    /// Waits until as much was typed into the desktop as `expected` is long: a browser that ends
    /// takes what it has not sent yet with it.
    pub fn until_typed(self, desktop: &Desktop, expected: &str) -> Self {
        let path = desktop.dir.path().join("typed");
        self.step(json!({"do": "file", "path": path, "bytes": expected.len()}))
    }

    pub fn key(self, key: &str) -> Self {
        self.step(json!({"do": "key", "key": key}))
    }
}

/// For other pages than the test page.
#[allow(dead_code, reason = "the demo's")]
impl Script {
    /// Which canvas shows the desktop, for other pages than the test page.
    pub fn canvas(mut self, selector: &str) -> Self {
        self.canvas = selector.to_owned();
        self
    }

    pub fn text(self, name: &str, selector: &str) -> Self {
        self.step(json!({"do": "text", "selector": selector, "as": name}))
    }

    pub fn press(self, selector: &str) -> Self {
        self.step(json!({"do": "press", "selector": selector}))
    }

    pub fn screenshot(self, path: &Path) -> Self {
        self.step(json!({"do": "screenshot", "path": path}))
    }
}

#[derive(Clone, Debug)]
pub struct BrowserReport {
    /// Why the script did not end, and in which step.
    pub error: Option<String>,
    /// Results of the steps by name.
    pub values: Map<String, Value>,
    /// What the page said, exceptions included.
    pub console: Vec<String>,
    /// Every WebSocket: url without token, received and sent frames, closed, error.
    pub sockets: Vec<Value>,
}

impl BrowserReport {
    pub fn assert_done(self) -> Self {
        assert!(self.error.is_none(), "{self:#?}");
        self
    }

    pub fn text(&self, name: &str) -> &str {
        self.values[name].as_str().unwrap()
    }

    pub fn pixels(&self, name: &str) -> Vec<Colour> {
        serde_json::from_value(self.values[name].clone()).unwrap()
    }
}

/// Runs the script in a new headless Chromium with a new profile.
pub fn browse(script: &Script) -> BrowserReport {
    let dir = TempDir::with_prefix("browse-").unwrap();
    let result = dir.path().join("result");
    let mut command = Command::new("node");
    command
        .arg(source("browser.mjs"))
        .env("DESKGATE_TOOLS", tool(""))
        .env("TMPDIR", dir.path()) // the profile goes with it
        .stdin(Stdio::piped())
        .stdout(File::create(&result).unwrap());
    let mut browser = Program::start("browser", dir.path(), &mut command);
    let input = json!({"page": script.page, "canvas": script.canvas, "steps": script.steps});
    let mut stdin = browser.child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap(); // not in the arguments, which all can see
    drop(stdin);

    let report = browser.eventually("result", BROWSE_WITHIN, || {
        // The rest of a character may still come.
        let text = fs::read(&result).unwrap();
        text.ends_with(b"\n").then(|| serde_json::from_slice::<Value>(&text).unwrap())
    });
    let error = report["error"].as_str().map(|error| format!("{}: {error}", report["step"]));
    let console = report["console"].as_array().unwrap();
    BrowserReport {
        error,
        values: report["values"].as_object().unwrap().clone(),
        console: console.iter().map(|line| line.as_str().unwrap().to_owned()).collect(),
        sockets: report["sockets"].as_array().unwrap().clone(),
    }
}

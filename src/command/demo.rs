//! `deskgate demo`: fresh keys, stand-ins, and the real gateway in front of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deskgate::auth::mint::{KeySet, Minter};
use deskgate::config::Config;
use deskgate::demo::{Mint, Options, Standins};
use deskgate::server::{self, KeyTexts};
use deskgate::telemetry;
use socket2::{Domain, SockAddr, Socket, Type};
use zeroize::Zeroizing;

use super::{Failure, say};

/// Size of the demo's keys, that of current installations.
const KEY_BITS: usize = 2048;

/// Lives that everything can count: a token whole seconds, a browser's timer 2^31 - 1 milliseconds.
const LIVES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_millis(2_147_483_647);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Address to serve on.
    #[arg(long, default_value = "127.0.0.1:30443")]
    listen: SocketAddr,
    /// Address of the operators' dashboard; none if it is not given.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Folder of the npm package @novnc/novnc.
    #[arg(long, value_name = "DIR")]
    novnc: Option<PathBuf>,
    /// Life of the demo's tokens; the page renews them in time.
    #[arg(long, default_value = "420s", value_parser = life)]
    token_life: Duration,
}

fn life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if LIVES.contains(&life) {
        return Ok(life);
    }
    Err("expected 1s to 24days".to_owned())
}

/// Mints with keys that live as long as the process.
struct MemoryKeys(Minter);

impl Mint for MemoryKeys {
    fn mint(&self, target: &str, ttl: Duration) -> Option<String> {
        #[expect(clippy::disallowed_methods, reason = "pyos's clock, not the gateway's")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        self.0.mint(target, now.as_secs(), ttl.as_secs()).ok()
    }
}

pub(super) fn demo(arguments: &Arguments) -> Result<(), Failure> {
    let keys = KeySet::generate(KEY_BITS).map_err(Failure::other)?;
    let minter = Minter::new(keys.signing_private.as_bytes(), keys.payload_public.as_bytes())
        .map_err(Failure::other)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let options = Options { novnc: arguments.novnc.clone(), token_life: arguments.token_life };
    let standins = runtime.block_on(Standins::start(options, Arc::new(MemoryKeys(minter))))?;
    let listen = free(arguments.listen)?;
    let admin = arguments.admin.map(free).transpose()?;
    let layered = Config::from_text("demo", &configuration((listen, admin), &standins))?;
    let texts = KeyTexts {
        signing: vec![("demo".into(), Zeroizing::new(keys.signing_public.into_bytes()))],
        payload: vec![("demo".into(), Zeroizing::new(keys.payload_private.as_bytes().to_vec()))],
        ..KeyTexts::default()
    };
    let built = server::build(&layered, &texts, None)?;
    let _flush = telemetry::start(&layered.config.log)?;
    say(&format!(
        "deskgate demo: open http://{}/ and choose a user. Ctrl-C ends it.\n",
        place(listen)
    ))?;
    server::run(built, &layered, None).map_err(Failure::other)
}

/// An address that can be listened on, with the port that the system chose if any was asked for. Nobody is
/// sent to where something else answers.
fn free(address: SocketAddr) -> Result<SocketAddr, Failure> {
    let bind = || -> io::Result<SockAddr> {
        // It never listens, so nobody connects to it.
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.local_addr()
    };
    let wrong = |error| Failure::other(format!("cannot listen on {address}: {error}"));
    Ok(bind().map_err(wrong)?.as_socket().unwrap_or(address))
}

/// How a browser on this machine names it.
fn place(address: SocketAddr) -> String {
    let is_local = address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST);
    if is_local || address.ip().is_unspecified() {
        return format!("localhost:{}", address.port());
    }
    address.to_string()
}

/// The shipped configuration with the stand-ins behind it.
fn configuration((listen, admin): (SocketAddr, Option<SocketAddr>), standins: &Standins) -> String {
    let upstream = |name: &str, address: SocketAddr| {
        format!("[upstreams.{name}]\nhost = \"{}\"\nport = {}\n", address.ip(), address.port())
    };
    let cidrs: Vec<_> =
        standins.desktops.iter().map(|desktop| format!("\"{}/32\"", desktop.address)).collect();
    let ports = &standins.ports;
    let admin = admin.map(|address| format!("\"{address}\"")).unwrap_or_default();
    [
        format!("[admin]\nlisten = [{admin}]\n"),
        format!("[listen]\nhttp = [\"{listen}\"]\nhttps = []\n[log]\nformat = \"combined\"\n"),
        format!("[desktop]\ncidrs = [{}]\n[desktop.ports]\n", cidrs.join(", ")),
        format!("vnc = {}\nspawner = {}\nfiler = {}\n", ports.vnc, ports.spawner, ports.filer),
        format!("terminals = {}\nbroadcast = {}\n", ports.terminals, ports.broadcast),
        upstream("pyos", standins.pyos),
        upstream("website", standins.website),
        upstream("speedtest", standins.speedtest),
    ]
    .concat()
}

//! Starts stand-ins for pyos, the website, the speed test and two desktops on loopback addresses,
//! so that the gateway can be seen at work; assumes Linux, where all of 127.0.0.0/8 is local.
//!
//! Everything binds before anything is served and every task ends when [`Standins`] is dropped.
//! The desktops hand out their picture to whoever connects: that is what the gateway is for.

mod broadcast;
mod canvas;
mod desktop;
mod filer;
mod frame;
mod launch;
mod message;
mod model;
mod paint;
mod pixels;
mod pyos;
mod reply;
mod rfb;
mod screen;
mod serve;
mod spawner;
mod speedtest;
mod terminals;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_rfb;
mod website;
mod websocket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How often a port number that is free on one address but not on the other is given up for a new one.
const PORT_ATTEMPTS: usize = 64;

/// Who has a desktop, where it listens and its background colour (`0xRRGGBB`).
const RESIDENTS: [Resident; 2] = [
    Resident {
        user: "ada",
        address: Ipv4Addr::new(127, 0, 0, 2),
        colour: 0x001d_5f8a,
        accent: 0x00ff_b454,
    },
    Resident {
        user: "bob",
        address: Ipv4Addr::new(127, 0, 0, 3),
        colour: 0x008a_4b1d,
        accent: 0x005a_d1ff,
    },
];

/// One demo user and what their desktop looks like.
#[derive(Clone, Copy, Debug)]
struct Resident {
    user: &'static str,
    address: Ipv4Addr,
    colour: u32,
    accent: u32,
}

/// Mints a desktop token for a target, as pyos does; the caller implements it because it owns the keys.
pub trait Mint: Send + Sync + 'static {
    /// A token that opens `target` (a bare host or address) for `ttl`; `None` if it cannot be made.
    fn mint(&self, target: &str, ttl: Duration) -> Option<String>;
}

/// What the newcomer may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of the npm package `@novnc/novnc`: the one that holds `core/rfb.js`.
    pub novnc: Option<PathBuf>,
    /// How long a desktop token lives.
    pub token_life: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // What the stock abcdesktop configuration uses.
        Self { novnc: None, token_life: Duration::from_secs(420) }
    }
}

/// One user and the address of their desktop, which is the target of their tokens.
#[derive(Clone, Debug)]
pub struct DemoDesktop {
    /// The name the user logs in with.
    pub user: &'static str,
    /// The loopback address that plays the pod.
    pub address: IpAddr,
}

/// The ports of the desktop services, the same on every desktop.
#[derive(Clone, Copy, Debug)]
pub struct DesktopPorts {
    /// RFB over WebSocket (6081 in a pod).
    pub vnc: u16,
    /// The spawner (29786 in a pod).
    pub spawner: u16,
    /// The filer (29783 in a pod).
    pub filer: u16,
    /// The terminals (29781 in a pod).
    pub terminals: u16,
    /// The broadcast (29784 in a pod).
    pub broadcast: u16,
}

/// Everything the gateway's configuration needs to reach the stand-ins, which end when this is dropped.
#[derive(Debug)]
#[must_use = "the stand-ins end when this value is dropped"]
pub struct Standins {
    /// Where `/API` is answered.
    pub pyos: SocketAddr,
    /// Where the demo page and noVNC are served.
    pub website: SocketAddr,
    /// Where the speed test is answered.
    pub speedtest: SocketAddr,
    /// One desktop per user.
    pub desktops: Vec<DemoDesktop>,
    /// The service ports of both desktops.
    pub ports: DesktopPorts,
    _tasks: JoinSet<()>,
}

impl Standins {
    /// Binds everything, then serves it; when this returns every stand-in answers.
    ///
    /// # Errors
    /// If a loopback address or a port number free on both desktops is not to be had.
    pub async fn start(options: Options, mint: Arc<dyn Mint>) -> io::Result<Self> {
        let pyos = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let website = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let speedtest = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let vnc = SharedPort::bind().await?;
        let spawner = SharedPort::bind().await?;
        let filer = SharedPort::bind().await?;
        let terminals = SharedPort::bind().await?;
        let broadcast = SharedPort::bind().await?;
        let ports = DesktopPorts {
            vnc: vnc.number,
            spawner: spawner.number,
            filer: filer.number,
            terminals: terminals.number,
            broadcast: broadcast.number,
        };
        let addresses = (pyos.local_addr()?, website.local_addr()?, speedtest.local_addr()?);

        let mut tasks = JoinSet::new();
        let desk = Arc::new(pyos::Pyos::new(mint, options.token_life, ports.vnc));
        tasks.spawn(serve::serve(pyos, move |request| pyos::answer(Arc::clone(&desk), request)));
        let folder: Option<Arc<Path>> = options.novnc.map(Into::into);
        tasks.spawn(serve::serve(website, move |request| website::answer(folder.clone(), request)));
        tasks.spawn(serve::serve(speedtest, speedtest::answer));
        open_desktops(&mut tasks, [vnc, spawner, filer, terminals, broadcast]);
        Ok(Self {
            pyos: addresses.0,
            website: addresses.1,
            speedtest: addresses.2,
            desktops: RESIDENTS
                .iter()
                .map(|resident| DemoDesktop {
                    user: resident.user,
                    address: resident.address.into(),
                })
                .collect(),
            ports,
            _tasks: tasks,
        })
    }
}

/// Gives each resident their listener of each service: vnc, spawner, filer, terminals, broadcast.
fn open_desktops(tasks: &mut JoinSet<()>, services: [SharedPort; 5]) {
    let [vnc, spawner, filer, terminals, broadcast] =
        services.map(|service| service.listeners.into_iter());
    let services = vnc.zip(spawner).zip(filer).zip(terminals.zip(broadcast));
    for (resident, (((vnc, spawner), filer), (terminals, broadcast))) in
        RESIDENTS.into_iter().zip(services)
    {
        desktop::open(
            tasks,
            resident,
            desktop::Doors { vnc, spawner, filer, terminals, broadcast },
        );
    }
}

/// One port number, bound on the address of every desktop.
struct SharedPort {
    number: u16,
    listeners: Vec<TcpListener>,
}

impl SharedPort {
    async fn bind() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_ATTEMPTS {
            match Self::bind_once().await {
                Ok(shared) => return Ok(shared),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Lets the system choose the number on the first address and insists on it on the others.
    async fn bind_once() -> io::Result<Self> {
        let mut number = 0;
        let mut listeners = Vec::with_capacity(RESIDENTS.len());
        for resident in RESIDENTS {
            let listener = TcpListener::bind((resident.address, number)).await?;
            number = listener.local_addr()?.port();
            listeners.push(listener);
        }
        Ok(Self { number, listeners })
    }
}

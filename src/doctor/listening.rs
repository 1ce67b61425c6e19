//! The listening addresses: free, or served by a deskgate that runs. D21.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::World;
use super::ask::{Failure, Question, ask};
use super::finding::{Finding, LISTENING};
use super::trust::Noting;

/// Those that deskgate would listen on.
pub(super) fn addresses(world: &World) -> Vec<SocketAddr> {
    let listen = &world.layered.config.listen;
    let secure = listen.https.iter().filter(|_| !world.texts.certificates.is_empty());
    listen.http.iter().chain(secure).copied().collect()
}

/// Asks who is there, and if nobody is, whether deskgate could be.
pub(super) async fn examine(world: Arc<World>, address: SocketAddr) -> Vec<Finding> {
    let secure = world.layered.config.listen.https.contains(&address);
    let tls = secure.then(|| Noting::new(None));
    let question =
        Question { host: "localhost", target: "/healthz", upgrade: false, tls: tls.as_ref() };
    let asked = Box::pin(ask(&[within(address)], &question, world.options.timeout)).await;
    let finding = match asked {
        Ok(answer) if answer.is_ours() => Finding::ok(LISTENING, "a running deskgate serves it"),
        Ok(answer) => taken(&format!("something else answers {} there", answer.status)),
        Err(Failure::Refused | Failure::Unreachable(_)) => free(address),
        Err(Failure::ConnectTimeout) => {
            Finding::skipped(LISTENING, "cannot be told: connections to it are dropped")
        }
        Err(failure @ (Failure::Timeout | Failure::Dropped)) => {
            let remedy = "if deskgate runs there and demands a PROXY header or a client \
                          certificate, this is as it should be; otherwise end what holds it";
            Finding::warning(LISTENING, failure.to_string(), remedy)
        }
        Err(failure @ (Failure::Tls(_) | Failure::Invalid)) => taken(&failure.to_string()),
    };
    vec![finding.of(address.to_string())]
}

fn taken(said: &str) -> Finding {
    let remedy = "end what holds the address, or choose another in [listen]";
    Finding::problem(LISTENING, said, remedy)
}

/// How this host reaches itself at an address that may stand for all.
fn within(address: SocketAddr) -> SocketAddr {
    let local = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(local, address.port())
}

fn free(address: SocketAddr) -> Finding {
    let Err(error) = bind(address) else { return Finding::ok(LISTENING, "free") };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the system may have any other reason")]
    match error.kind() {
        ErrorKind::PermissionDenied => {
            let remedy = "let this user listen on low ports: the capability NET_BIND_SERVICE, or \
                          the sysctl net.ipv4.ip_unprivileged_port_start; or choose a port above 1023";
            Finding::problem(LISTENING, "this user may not listen there", remedy)
        }
        ErrorKind::AddrNotAvailable => {
            let remedy = "name an address of this host in [listen], or 0.0.0.0";
            Finding::problem(LISTENING, "this host has no such address", remedy)
        }
        ErrorKind::AddrInUse => taken("it is taken, and nobody answers"),
        kind => taken(&kind.to_string()),
    }
}

/// As deskgate itself begins; the socket is gone at once.
fn bind(address: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

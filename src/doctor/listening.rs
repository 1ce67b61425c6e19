//! The listening addresses: free, or served by a deskgate that runs. D21.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::Socket;

use super::World;
use super::ask::{Failure, Question, ask};
use super::finding::{Finding, LISTENING};
use super::trust::Noting;
use crate::server::listeners;

/// Connections that may wait while an address is tried: none is served.
const BACKLOG: i32 = 1;

/// Where deskgate would listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// Whether TLS is spoken there.
    secure: bool,
    vacancy: Vacancy,
}

/// Whether an address can be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vacancy {
    Free,
    /// It could, if it were not for one before it.
    Excluded,
    /// It cannot, and why.
    Refused(ErrorKind),
}

/// All places, those for operators included.
pub(super) fn places(world: &World) -> Vec<Place> {
    let config = &world.layered.config;
    let http = config.listen.http.iter().map(|address| (*address, false));
    let https = config.listen.https.iter().map(|address| (*address, true));
    let https = https.filter(|_| !world.texts.certificates.is_empty());
    let admin = config.admin.listen.iter().map(|address| (*address, false));
    let all: Vec<_> = http.chain(https).chain(admin).collect();
    let addresses: Vec<_> = all.iter().map(|(address, _)| *address).collect();
    let places = all.into_iter().zip(vacancies(&addresses));
    places.map(|((address, secure), vacancy)| Place { address, secure, vacancy }).collect()
}

/// Asks who is there, and if nobody is, whether deskgate could be.
pub(super) async fn examine(world: Arc<World>, place: Place) -> Vec<Finding> {
    let Place { address, secure, vacancy } = place;
    let tls = secure.then(|| Noting::new(None));
    let question =
        Question { host: "localhost", target: "/healthz", upgrade: false, tls: tls.as_ref() };
    let asked = Box::pin(ask(&[within(address)], &question, world.options.timeout)).await;
    let finding = match asked {
        Ok(answer) if answer.is_ours() => Finding::ok(LISTENING, "a running deskgate serves it"),
        Ok(answer) => taken(&format!("something else answers {} there", answer.status)),
        Err(Failure::Refused | Failure::Unreachable(_)) => vacant(vacancy),
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
    let remedy = "end what holds the address, or choose another in [listen] or [admin]";
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

fn vacant(vacancy: Vacancy) -> Finding {
    let kind = match vacancy {
        Vacancy::Free => return Finding::ok(LISTENING, "free"),
        Vacancy::Excluded => {
            let said = "free, but not together with another address of this configuration";
            let remedy = "leave one of them out: 0.0.0.0 stands for every IPv4 address, and [::] for \
                          every IPv6 address";
            return Finding::problem(LISTENING, said, remedy);
        }
        Vacancy::Refused(kind) => kind,
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the system may have any other reason")]
    match kind {
        ErrorKind::PermissionDenied => {
            let remedy = "let this user listen on low ports: the capability NET_BIND_SERVICE, or \
                          the sysctl net.ipv4.ip_unprivileged_port_start; or choose a port above 1023";
            Finding::problem(LISTENING, "this user may not listen there", remedy)
        }
        ErrorKind::AddrNotAvailable => {
            let remedy = "name an address of this host, or 0.0.0.0";
            Finding::problem(LISTENING, "this host has no such address", remedy)
        }
        ErrorKind::AddrInUse => taken("it is taken, and nobody answers"),
        kind => taken(&kind.to_string()),
    }
}

/// Tries each address alone, then all of them in the order in which deskgate listens. The sockets are gone
/// at once.
fn vacancies(addresses: &[SocketAddr]) -> Vec<Vacancy> {
    // As deskgate itself begins.
    let bind = |address: &SocketAddr| listeners::socket(*address, addresses, false);
    let alone: Vec<_> = addresses.iter().map(|address| bind(address).map(drop)).collect();
    let mut held = Vec::new();
    let vacancy = |(address, alone): (&SocketAddr, Result<()>)| {
        if let Err(error) = alone {
            return Vacancy::Refused(error.kind());
        }
        match bind(address).and_then(listening) {
            Ok(socket) => held.push(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Vacancy::Excluded,
            Err(error) => return Vacancy::Refused(error.kind()),
        }
        Vacancy::Free
    };
    addresses.iter().zip(alone).map(vacancy).collect()
}

/// Only a socket that listens excludes others: all of them may reuse an address.
fn listening(socket: Socket) -> Result<Socket> {
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_that_exclude_each_other_are_found() {
        let port = {
            let any = TcpListener::bind("127.0.0.1:0").unwrap();
            any.local_addr().unwrap().port()
        };
        let (one, other): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let all = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let of = |ips: &[IpAddr]| {
            let addresses: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            vacancies(&addresses)
        };
        use Vacancy::{Excluded, Free};
        assert_eq!(of(&[one, other]), [Free, Free]);
        assert_eq!(of(&[one, one, other]), [Free, Excluded, Free]);
        assert_eq!(of(&[all, one]), [Free, Excluded]);
        let both = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        if of(&[both]) == [Free] {
            assert_eq!(of(&[all, both]), [Free, Free]);
            assert_eq!(of(&[both, both]), [Free, Excluded]);
        }
        let _held = TcpListener::bind((one, port)).unwrap();
        assert_eq!(of(&[one, other]), [Vacancy::Refused(ErrorKind::AddrInUse), Free]);
    }
}

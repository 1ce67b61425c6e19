use super::*;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A name server on loopback that knows what it is told and counts what it is asked.
struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<HashMap<String, (Ipv4Addr, u32)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone: Arc<Mutex<HashMap<String, (Ipv4Addr, u32)>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, log) = (Arc::clone(&zone), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
                let (name, kind, question) = question(&packet[..length]);
                let answer = known.lock().unwrap().get(&name).copied();
                if kind == 1 {
                    log.lock().unwrap().push(name);
                }
                let reply = reply(&packet[..2], question, kind, answer);
                socket.send_to(&reply, peer).await.unwrap();
            }
        });
        Self { address, zone, asked, task }
    }

    fn set(&self, name: &str, address: [u8; 4], ttl: u32) {
        self.zone.lock().unwrap().insert(name.to_owned(), (address.into(), ttl));
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    fn config(&self, settings: &str) -> Dns {
        let text = format!(
            "[dns]\nservers = [\"{}\"]\nsearch = [\"ns.svc.cluster.local\"]\n\
             timeout = \"200ms\"\nattempts = 1\n{settings}",
            self.address
        );
        crate::config::Config::from_text("t", &text).unwrap().config.dns
    }

    fn resolver(&self, settings: &str) -> Resolver {
        Resolver::new(&self.config(settings)).unwrap()
    }
}

/// Name, type and raw bytes of a query's question (RFC 1035 §4.1.2).
fn question(packet: &[u8]) -> (String, u8, &[u8]) {
    let mut labels = Vec::new();
    let mut at = 12;
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), packet[at + 2], &packet[12..at + 5])
}

/// An answer with one address, without any, or "no such name" with a SOA of TTL 60.
fn reply(id: &[u8], question: &[u8], kind: u8, answer: Option<(Ipv4Addr, u32)>) -> Vec<u8> {
    let address = answer.filter(|_| kind == 1);
    let code = if answer.is_some() { 0 } else { 3 };
    let mut reply = id.to_vec();
    reply.extend([0x84, code, 0, 1, 0, u8::from(address.is_some()), 0]);
    reply.extend([u8::from(address.is_none()), 0, 0]);
    reply.extend(question);
    if let Some((address, ttl)) = address {
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    } else {
        let soa = [&[0, 0][..], &[0, 0, 0, 60].repeat(5)].concat();
        reply.extend([0, 0, 6, 0, 1, 0, 0, 0, 60, 0, u8::try_from(soa.len()).unwrap()]);
        reply.extend(soa);
    }
    reply
}

fn ip(text: &str) -> Arc<[IpAddr]> {
    Arc::new([text.parse().unwrap()])
}

/// Asks until the answer is the wanted one; fails after five seconds.
async fn until(resolver: &Resolver, host: &str, staleness: Staleness, want: Result<&str, Error>) {
    let want = want.map(ip);
    let start = Instant::now();
    loop {
        let answer = resolver.resolve(host, staleness).await;
        if answer == want {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{answer:?} instead of {want:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn literals_and_configured_hosts_are_never_asked_for() {
    let server = NameServer::start().await;
    let resolver = server.resolver("[dns.hosts]\n\"Fixed.Example\" = [\"192.0.2.7\"]\n");
    for (host, want) in [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("fixed.example", "192.0.2.7"),
        ("FIXED.example.", "192.0.2.7"),
    ] {
        assert_eq!(resolver.resolve(host, Staleness::Refused).await, Ok(ip(want)), "{host}");
    }
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn only_hosts_without_a_dot_are_searched() {
    let server = NameServer::start().await;
    server.set("pyos.ns.svc.cluster.local", [192, 0, 2, 1], 5);
    server.set("a.b.ns.svc.cluster.local", [192, 0, 2, 2], 5);
    let resolver = server.resolver("");
    assert_eq!(resolver.resolve("pyos", Staleness::Allowed).await, Ok(ip("192.0.2.1")));
    assert_eq!(resolver.resolve("a.b", Staleness::Allowed).await, Err(Error::NoSuchName));
    assert_eq!(server.asked("a.b"), 2, "asked, and its absence confirmed");
    assert_eq!(server.asked("a.b.ns.svc.cluster.local"), 0);
}

#[tokio::test]
async fn an_answer_is_used_within_the_configured_bounds() {
    let server = NameServer::start().await;
    server.set("long.example", [192, 0, 2, 1], 3600);
    server.set("short.example", [192, 0, 2, 2], 0);
    let resolver = server.resolver("min_ttl = \"1m\"\nmax_ttl = \"1m\"\n");
    for _ in 0..50 {
        resolver.resolve("short.example", Staleness::Refused).await.unwrap();
    }
    assert_eq!(server.asked("short.example"), 1, "a TTL of 0 is raised to min_ttl");
    let resolver = server.resolver("min_ttl = \"0s\"\nmax_ttl = \"100ms\"\n");
    until(&resolver, "long.example", Staleness::Refused, Ok("192.0.2.1")).await;
    server.set("long.example", [192, 0, 2, 9], 3600);
    until(&resolver, "long.example", Staleness::Refused, Ok("192.0.2.9")).await;
}

#[tokio::test]
async fn a_name_that_appears_is_found_after_the_negative_time() {
    let server = NameServer::start().await;
    let resolver = server.resolver("negative_ttl = \"100ms\"\n");
    for _ in 0..50 {
        let answer = resolver.resolve("pod.example", Staleness::Refused).await;
        assert_eq!(answer, Err(Error::NoSuchName));
    }
    assert!(server.asked("pod.example") < 10, "a missing name is remembered");
    server.set("pod.example", [192, 0, 2, 1], 5);
    until(&resolver, "pod.example", Staleness::Refused, Ok("192.0.2.1")).await;
}

#[tokio::test]
async fn many_that_ask_at_once_make_one_question() {
    let server = NameServer::start().await;
    server.set("busy.example", [192, 0, 2, 1], 60);
    let resolver = Arc::new(server.resolver(""));
    let asking: Vec<_> = (0..32)
        .map(|_| {
            let resolver = Arc::clone(&resolver);
            tokio::spawn(async move { resolver.resolve("busy.example", Staleness::Refused).await })
        })
        .collect();
    for answer in asking {
        assert_eq!(answer.await.unwrap(), Ok(ip("192.0.2.1")));
    }
    assert_eq!(server.asked("busy.example"), 1);
}

#[tokio::test]
async fn while_no_server_answers_only_fixed_services_keep_their_old_address() {
    let server = NameServer::start().await;
    server.set("svc.example", [192, 0, 2, 1], 0);
    let resolver = server.resolver("min_ttl = \"0s\"\nmax_ttl = \"50ms\"\nstale = \"2s\"\n");
    for staleness in [Staleness::Allowed, Staleness::Refused] {
        assert_eq!(resolver.resolve("svc.example", staleness).await, Ok(ip("192.0.2.1")));
    }
    server.task.abort();
    let failed = |answer| matches!(answer, Err(Error::NameTimeout | Error::NameFailed));
    let start = Instant::now();
    while !failed(resolver.resolve("svc.example", Staleness::Refused).await) {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(resolver.resolve("svc.example", Staleness::Allowed).await, Ok(ip("192.0.2.1")));
    let start = Instant::now();
    while !failed(resolver.resolve("svc.example", Staleness::Allowed).await) {
        assert!(start.elapsed() < Duration::from_secs(10), "stale for ever");
    }
}

#[test]
fn a_server_that_is_no_address_is_named() {
    let dns = |servers: &str| {
        let text = format!("[dns]\nservers = {servers}\n");
        Resolver::new(&crate::config::Config::from_text("t", &text).unwrap().config.dns)
    };
    assert!(dns("[\"10.96.0.10\", \"[fd00::a]:5353\", \"fd00::a\"]").is_ok());
    let (key, message) = dns("[\"kube-dns.kube-system\"]").unwrap_err();
    assert_eq!(key, "dns.servers");
    assert!(message.contains("kube-dns.kube-system"));
}

#[tokio::test]
async fn a_desktops_name_leads_only_where_desktops_may_be() {
    use crate::auth::{Desktop, Now, TargetPolicy, Token};
    use crate::upstream::Upstreams;
    use crate::upstream::desktops::{Desktops, Wanted};

    let server = NameServer::start().await;
    let policy = TargetPolicy::new(Some("desktop.test"), vec!["10.0.0.0/8".parse().unwrap()]);
    let policy = policy.unwrap();
    let upstreams = Upstreams::new(server.resolver(""));
    for (name, address, want) in [
        ("a.desktop.test", [10, 0, 0, 1], Ok("10.0.0.1:80")),
        ("b.desktop.test", [169, 254, 169, 254], Err(Error::DesktopGone)),
        ("c.desktop.test", [127, 0, 0, 1], Err(Error::DesktopGone)),
        ("d.desktop.test", [8, 8, 8, 8], Err(Error::DesktopGone)),
    ] {
        server.set(name, address, 60);
        let desktop = Desktop {
            target: policy.confine(name.as_bytes()).unwrap(),
            expires: 2_000,
            issued: None,
            fingerprint: Token::new("x").unwrap().fingerprint(),
        };
        let now = Now { wall: Duration::from_secs(1_000), mono: Instant::now() };
        let wanted = Wanted { desktop: &desktop, port: 80, now };
        let permits = |address| policy.permits(address);
        let found = Desktops::Dns.find(&upstreams, wanted, permits).await;
        let found = found.map(|found| found.addresses);
        assert_eq!(found, want.map(|address| vec![address.parse().unwrap()]), "{name}");
    }
}

#[tokio::test]
async fn a_name_below_the_root_is_asked_for_as_it_is() {
    let server = NameServer::start().await;
    server.set("console", [10, 0, 0, 1], 60);
    let mut config = server.config("");
    config.search = vec![".".to_owned(), "ns.svc.cluster.local".to_owned()];
    let resolver = Resolver::new(&config).unwrap();
    assert_eq!(resolver.resolve("console", Staleness::Allowed).await, Ok(ip("10.0.0.1")));
}

#[tokio::test]
async fn that_asking_again_failed_is_remembered_for_all() {
    use futures_util::FutureExt;

    let server = NameServer::start().await;
    server.set("pod.test", [10, 0, 0, 1], 0);
    let resolver = server.resolver("min_ttl = \"0s\"\nnegative_ttl = \"60s\"\n");
    let ask = || resolver.resolve("pod.test", Staleness::Refused);
    assert_eq!(ask().await, Ok(ip("10.0.0.1")));
    server.task.abort();
    let failed = ask().await;
    assert!(matches!(failed, Err(Error::NameTimeout | Error::NameFailed)), "{failed:?}");
    // Nobody is asked, so nothing is waited for.
    assert_eq!(ask().now_or_never(), Some(failed));
}

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::support::fake_api::{Endpoint, FakeApi, Fault};
use crate::support::name_server::NameServer;
use crate::support::{Exchange, Gateway, KeyDir, Origin, SOON, binary, free_port, raw, tokens};

/// This pod, the edge's cluster address, and the desktops.
const OWN: &str = "10.244.7.9";
const CLUSTER: &str = "10.96.5.5";
const DESKTOPS: [&str; 2] = ["10.244.7.21", "10.244.7.22"];
const EDGE: &str = "http-router.abcdesktop.svc.cluster.local";
const DESKTOP: &str = "desktop.abcdesktop.svc.cluster.local";

/// What it said.
struct Said {
    code: i32,
    report: Value,
    json: String,
}

impl Said {
    /// All findings of a number.
    fn all(&self, id: &str) -> Vec<&Value> {
        let findings =
            self.report["findings"].as_array().unwrap_or_else(|| panic!("{}", self.json));
        findings.iter().filter(|finding| finding["id"] == id).collect()
    }

    /// Status and all words of the only finding of a number.
    fn of(&self, id: &str) -> (String, String) {
        let found = self.all(id);
        assert_eq!(found.len(), 1, "{id}: {}", self.json);
        words(found[0])
    }

    /// Those of one subject.
    fn about(&self, id: &str, subject: &str) -> (String, String) {
        let found = self.all(id).into_iter().find(|finding| finding["subject"] == subject);
        words(found.unwrap_or_else(|| panic!("{id} {subject}: {}", self.json)))
    }

    #[track_caller]
    fn expect(&self, id: &str, status: &str, text: &str) {
        let (found, words) = self.of(id);
        assert_eq!(found, status, "{id}: {words}");
        assert!(words.contains(text), "{id}: {text:?} is not in: {words}");
    }
}

fn words(finding: &Value) -> (String, String) {
    let details = finding["details"].as_array().unwrap();
    let details = details.iter().map(|detail| detail.as_str().unwrap());
    let remedy = finding["remedy"].as_str().unwrap_or_default();
    let status = finding["status"].as_str().unwrap().to_owned();
    if status == "warning" || status == "problem" {
        assert!(!remedy.is_empty(), "no remedy: {finding}");
    }
    (status, [details.collect::<Vec<_>>().join("\n"), remedy.to_owned()].join("\n"))
}

/// A cluster in which all is well, until a test breaks something.
struct World {
    keys: KeyDir,
    api: FakeApi,
    dns: NameServer,
    services: Vec<(&'static str, Origin)>,
    port: u16,
    env: Vec<(&'static str, String)>,
}

fn dated(exchange: &Exchange, ahead: i64) {
    let now = SystemTime::now();
    let away = Duration::from_secs(ahead.unsigned_abs());
    let date = if ahead < 0 { now - away } else { now + away };
    exchange.answer("200 OK", &format!("Date: {}\r\n", httpdate::fmt_http_date(date)), "");
}

impl World {
    fn new() -> Self {
        Self::with_pyos(|exchange| dated(exchange, 0))
    }

    fn with_pyos(pyos: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let dns = NameServer::start();
        dns.name(EDGE, &[CLUSTER]);
        dns.name(DESKTOP, &DESKTOPS);
        dns.reverse(OWN, &[&format!("10-244-7-9.{EDGE}")]);
        let api = FakeApi::start();
        for (uid, address) in ["a", "b"].into_iter().zip(DESKTOPS) {
            api.set(Endpoint::ready(uid, address));
        }
        api.set(Endpoint::not_ready("c", "10.244.7.23"));
        api.service("http-router", vec![Endpoint::ready("edge", OWN)]);
        let mut services = vec![("pyos", Origin::start(pyos))];
        for name in ["website", "speedtest", "console"] {
            services.push((name, Origin::start(|exchange| exchange.answer("200 OK", "", ""))));
            dns.name(&format!("{name}.test"), &["127.0.0.1"]);
        }
        dns.name("pyos.test", &["127.0.0.1"]);
        let env = vec![("POD_IP", OWN.to_owned()), ("NODE_NAME", "node-1.test".to_owned())];
        Self { keys: KeyDir::new(), api, dns, services, port: free_port(), env }
    }

    fn config(&self, more: &str) -> PathBuf {
        let mut text = self.keys.auth();
        for (name, service) in &self.services {
            let port = service.address().port();
            text.push_str(&format!("[upstreams.{name}]\nhost = \"{name}.test\"\nport = {port}\n"));
        }
        let api = self.api.address;
        text.push_str(&format!(
            "[discovery]\nmode = \"kubernetes\"\nauthority = \"\"\napi_host = \"{}\"\napi_port = {}\n\
             [dns]\nservers = [\"{}\"]\nsearch = [\"svc.test\"]\ntimeout = \"5s\"\n\
             [admin]\nlisten = []\n",
            api.ip(),
            api.port(),
            self.dns.address,
        ));
        let mut config: toml::Table = text.parse().unwrap();
        let listen = format!("[listen]\nhttp = [\"127.0.0.1:{}\"]\n", self.port);
        for text in [listen.as_str(), more] {
            for (key, value) in text.parse::<toml::Table>().unwrap() {
                match (config.get_mut(&key), value) {
                    (Some(toml::Value::Table(old)), toml::Value::Table(new)) => old.extend(new),
                    (_, value) => drop(config.insert(key, value)),
                }
            }
        }
        let path = self.keys.path().join("deskgate.toml");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn examine(&self, more: &str, arguments: &[&str]) -> Said {
        let config = self.config(more);
        let fixed = ["doctor", "--json", "--config", config.to_str().unwrap()];
        let output = Command::new(binary())
            .args(fixed)
            .args(arguments)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        let json = String::from_utf8(output.stdout).unwrap();
        let report = serde_json::from_str(&json).unwrap_or_default();
        let said = Said { code: output.status.code().unwrap(), report, json };
        said.keeps_secrets();
        said
    }
}

impl Said {
    /// Whatever is wrong: no address of a pod, nothing of a key, no token.
    fn keeps_secrets(&self) {
        for address in [OWN, "10-244-7-9", CLUSTER, DESKTOPS[0], DESKTOPS[1]] {
            assert!(!self.json.contains(address), "{address}: {}", self.json);
        }
        let keys = tokens::keys();
        for pem in [&keys.payload_private, &keys.signing_private] {
            for line in pem.lines().filter(|line| line.len() > 40) {
                assert!(!self.json.contains(line), "{}", self.json);
            }
        }
        assert!(!self.json.contains("eyJ"), "{}", self.json);
    }
}

#[test]
fn where_all_is_well_it_says_so() {
    let world = World::new();
    let said = world.examine("", &[]);
    for finding in said.report["findings"].as_array().unwrap() {
        let status = finding["status"].as_str().unwrap();
        let unasked =
            ["D06", "D17", "D18", "D19", "D20"].contains(&finding["id"].as_str().unwrap());
        assert_eq!(status, if unasked { "skipped" } else { "ok" }, "{finding}");
    }
    assert_eq!(said.code, 0, "{}", said.json);
    assert_eq!(said.report["healthy"], true);
    assert_eq!(said.all("D07").len(), 4);
    said.expect("D04", "ok", "mode B");
    said.expect("D05", "ok", "a trial token is verified and opened");
    said.expect("D11", "ok", "2 ready, 1 not ready, 0 terminating");
    said.expect("D12", "ok", "2 addresses in DNS");
    said.expect("D21", "ok", "free");
}

#[test]
fn people_get_lines_with_numbers_and_remedies() {
    let world = World::new();
    world.api.fail(Fault::Status(403));
    let config = world.config("");
    let arguments = ["doctor", "--config", config.to_str().unwrap()];
    let output = Command::new(binary()).args(arguments).env_clear().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("D01 ok       configuration\n    valid\n"), "{text}");
    assert!(text.contains("\nD09 PROBLEM  Kubernetes API\n"), "{text}");
    assert!(text.contains("\n    -> apply this Role"), "{text}");
    assert!(text.lines().last().unwrap().ends_with("not checked"), "{text}");
}

#[test]
fn a_configuration_that_is_wrong_ends_with_64() {
    let world = World::new();
    let said = world.examine("[desktop.ports]\nvnc = 0\n", &[]);
    assert_eq!(said.code, 64, "{}", said.json);
    said.expect("D01", "problem", "desktop.ports.vnc is 0");
    // What can be looked at is.
    said.expect("D09", "ok", "");
    let said = world.examine("[nonsense]\nx = 1\n", &[]);
    assert_eq!(said.code, 64);
    said.expect("D01", "problem", "nonsense");
    assert_eq!(said.report["findings"].as_array().unwrap().len(), 1);
    for url in ["ftp://x", "https://user@x", "https://x/path", "nonsense"] {
        let output = Command::new(binary()).args(["doctor", "--url", url]).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{url}");
    }
}

#[test]
fn an_admin_token_that_serving_refuses_is_told() {
    let world = World::new();
    let file = world.keys.path().join("token");
    std::fs::write(&file, "sesame").unwrap();
    let said = world.examine(&format!("[admin]\ntoken = {file:?}\n"), &[]);
    assert_eq!(said.code, 64, "{}", said.json);
    said.expect("D01", "problem", "admin.token: ");
    said.expect("D01", "problem", "the token must have 16");
    assert!(!said.json.contains("sesame"), "{}", said.json);
}

#[test]
fn dangerous_settings_are_no_problem_but_told() {
    let world = World::new();
    let said = world.examine("[listen]\ntrusted_proxies = [\"0.0.0.0/0\"]\n", &[]);
    said.expect("D02", "warning", "listen.trusted_proxies: ");
    assert_eq!(said.code, 0, "{}", said.json);
}

#[test]
fn keys_are_read_and_compared() {
    use deskgate::auth::mint::KeySet;
    let world = World::new();
    let replace = |name: &str, text: &str| {
        std::fs::write(world.keys.path().join(name), text).unwrap();
    };
    let (own, foreign) = (tokens::keys(), tokens::foreign_keys());
    replace(KeySet::SIGNING_PRIVATE, &foreign.signing_private);
    world.examine("", &[]).expect("D05", "problem", "another public key");
    replace(KeySet::SIGNING_PRIVATE, &own.signing_private);
    replace(KeySet::PAYLOAD_PUBLIC, &foreign.payload_public);
    world.examine("", &[]).expect("D05", "problem", "the payload key beside it");
    std::fs::remove_file(world.keys.path().join(KeySet::SIGNING_PRIVATE)).unwrap();
    world.examine("", &[]).expect("D05", "skipped", "as it should be");
    replace(KeySet::SIGNING_PUBLIC, "no key");
    let said = world.examine("", &[]);
    assert_eq!(said.code, 64);
    said.expect("D03", "problem", "not PEM");
    said.expect("D04", "ok", "mode B");
    std::fs::remove_file(world.keys.path().join(KeySet::SIGNING_PUBLIC)).unwrap();
    let said = world.examine("", &[]);
    assert_eq!(said.code, 64);
    said.expect("D03", "problem", "cannot be read");
    said.expect("D04", "ok", "mode B");
}

/// A certificate for localhost that ends this many days from now, its key, and its issuer.
struct Issued {
    certificate: String,
    key: KeyPair,
    der: Vec<u8>,
    issuer: String,
}

fn issue(days: i64) -> Issued {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let now = i64::try_from(tokens::now()).unwrap();
    let at = |days: i64| {
        // Half a day away from where another number of days is told.
        let seconds = u64::try_from(now + days * 86_400 - 43_200).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    params.not_before = at(-400).into();
    params.not_after = at(days).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Issued {
        certificate: certificate.pem(),
        der: certificate.der().to_vec(),
        key,
        issuer: issuer.pem(),
    }
}

impl World {
    /// Writes a certificate; returns the sections that name it.
    fn secure(&self, issued: &Issued, port: u16) -> String {
        let path = |name: &str| self.keys.path().join(name);
        std::fs::write(path("tls.crt"), &issued.certificate).unwrap();
        std::fs::write(path("tls.key"), issued.key.serialize_pem()).unwrap();
        std::fs::write(path("ca.pem"), &issued.issuer).unwrap();
        format!(
            "[listen]\nhttps = [\"127.0.0.1:{port}\"]\n\
             [tls]\ncertificates = [{{ certificate = {:?}, key = {:?} }}]\n",
            path("tls.crt"),
            path("tls.key")
        )
    }
}

#[test]
fn certificates_have_their_time() {
    let world = World::new();
    for (days, status, text, code) in [
        (-3, "problem", "it expired 3 days ago", 1),
        (20, "warning", "it expires in 19 days", 0),
        (200, "ok", "for localhost", 0),
    ] {
        let said = world.examine(&world.secure(&issue(days), free_port()), &[]);
        said.expect("D06", status, text);
        assert_eq!(said.code, code, "{}", said.json);
    }
    let toml = world.secure(&issue(200), free_port());
    let other = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(world.keys.path().join("tls.key"), other).unwrap();
    let said = world.examine(&toml, &[]);
    said.expect("D06", "problem", "does not belong to the first certificate");
    assert_eq!(said.code, 64);
}

#[test]
fn each_way_a_service_fails_has_its_words() {
    let mut world = World::with_pyos(|exchange| exchange.answer("503 Service Unavailable", "", ""));
    world.services[1].1 = Origin::start(|_| thread::sleep(SOON));
    let gone = free_port();
    let start = Instant::now();
    let more = format!(
        "[upstreams.speedtest]\nhost = \"speedtest.test\"\nport = {gone}\n\
         [upstreams.console]\nhost = \"console.nowhere.test\"\nport = 1\n"
    );
    let said = world.examine(&more, &["--timeout", "4s"]);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(said.code, 1);
    for (name, status, text) in [
        ("pyos", "problem", "answers 503"),
        ("website", "problem", "no answer within the limit"),
        ("speedtest", "problem", "the connection is refused"),
        ("console", "warning", "console.nowhere.test: no such name"),
    ] {
        let (found, words) = said.about("D07", name);
        assert_eq!(found, status, "{words}");
        assert!(words.contains(text), "{name}: {words}");
    }
    said.expect("D08", "skipped", "no Date");
}

#[test]
fn an_answer_whose_body_does_not_end_is_one() {
    let mut world = World::new();
    world.services[1].1 = Origin::start(|exchange| {
        exchange.write("HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n");
        thread::sleep(SOON);
    });
    let said = world.examine("", &[]);
    let (status, words) = said.about("D07", "website");
    assert_eq!((status.as_str(), words.contains("answers 503")), ("problem", true), "{words}");
}

#[test]
fn a_clock_that_is_wrong_is_found() {
    for (ahead, status, text) in [
        (0, "ok", "agrees"),
        (15, "problem", "ahead of this one"),
        (-15, "problem", "the times at which tokens are issued are compared"),
        (90, "problem", "tokens count as expired at once"),
    ] {
        let world = World::with_pyos(move |exchange| dated(exchange, ahead));
        let said = world.examine("", &[]);
        said.expect("D08", status, text);
        assert_eq!(said.code, i32::from(status == "problem"), "{}", said.json);
        said.expect("D10", "ok", "agrees");
    }
}

#[test]
fn what_the_api_refuses_is_told_with_the_rule_that_is_missing() {
    let world = World::new();
    for (fault, verb) in [(Fault::Status(403), "list"), (Fault::WatchStatus(403), "watch")] {
        world.api.fail(fault);
        let said = world.examine("", &[]);
        assert_eq!(said.code, 1);
        said.expect("D09", "problem", &format!("{verb} of endpointslices: "));
        said.expect(
            "D09",
            "problem",
            "resources: [\"endpointslices\"]\n  verbs: [\"list\", \"watch\"]",
        );
        said.expect("D09", "problem", "namespace: abcdesktop");
        let told = if verb == "list" { "skipped" } else { "ok" };
        said.expect("D11", told, "");
    }
    world.api.fail(Fault::Hang);
    let said = world.examine("", &["--timeout", "300ms"]);
    said.expect("D09", "problem", "response timed out");
    let said = world.examine("[discovery]\nmode = \"dns\"\n", &[]);
    said.expect("D09", "skipped", "");
    assert_eq!(said.code, 0, "{}", said.json);
}

#[test]
fn desktops_that_cannot_be_reached_are_counted() {
    let world = World::new();
    world.dns.name(DESKTOP, &["10.244.7.21", "10.244.7.99"]);
    let said = world.examine("", &[]);
    said.expect("D12", "warning", "1 ready pods are not in DNS, 1 addresses in DNS are of no");
    let said = world.examine("[desktop]\ncidrs = [\"10.99.0.0/16\"]\n", &[]);
    said.expect("D11", "problem", "3 of them have no address in desktop.cidrs");
    world.api.remove_slice("desktop-00000");
    let said = world.examine("", &[]);
    said.expect("D11", "problem", "there is no Service desktop with a selector in abcdesktop");
}

#[test]
fn a_service_that_is_not_called_as_the_pods_subdomain_is_looked_at() {
    let world = World::new();
    world.api.service("rel-desktop", vec![Endpoint::ready("a", DESKTOPS[0])]);
    world.dns.name(&DESKTOP.replacen("desktop", "rel-desktop", 1), &DESKTOPS[..1]);
    let said = world.examine("[discovery]\nservice = \"rel-desktop\"\n", &[]);
    said.expect("D11", "ok", "Service rel-desktop in abcdesktop: 1 ready");
    said.expect("D12", "ok", "1 addresses in DNS, all of them listed");
}

#[test]
fn the_edge_is_seen_as_the_pods_see_it() {
    let world = World::new();
    let metrics = "metrics.abcdesktop.svc.cluster.local";
    let (own, other) = (format!("a.{EDGE}"), format!("a.{metrics}"));
    world.dns.reverse(OWN, &[&own, &other]);
    let said = world.examine("", &[]);
    said.expect("D15", "problem", "2 Services name this pod");
    said.expect("D15", "problem", "close broadcast and terminals at once");
    assert_eq!(said.code, 1);
    world.dns.reverse(OWN, &[&other]);
    world.examine("", &[]).expect("D15", "problem", &format!("it names {metrics}, not {EDGE}"));
    world.dns.reverse(OWN, &[]);
    world.examine("", &[]).expect("D15", "problem", "has no name");
    world.dns.name(EDGE, &[OWN]);
    world.examine("", &[]).expect("D13", "warning", "headless");
    world.api.service("http-router", vec![Endpoint::ready("other", "10.244.7.77")]);
    world.examine("", &[]).expect("D14", "problem", "this one is none of them");
    // A Service of another name.
    let said = world.examine("", &["--service", "gateway"]);
    said.expect("D13", "problem", "gateway.abcdesktop.svc.cluster.local does not exist");
    world.dns.name("gateway.abcdesktop.svc.cluster.local", &[CLUSTER]);
    let said = world.examine("", &["--service", "gateway"]);
    said.expect("D13", "warning", "pods know only http-router and nginx");
    // The other generation's name.
    let said = world.examine("profile = \"abcdesktop-3\"\n", &[]);
    said.expect("D13", "problem", "nginx.abcdesktop.svc.cluster.local does not exist");
}

#[test]
fn a_pod_on_its_nodes_network_is_recognised() {
    let mut world = World::new();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    world.env[1].1 = host.trim().to_owned();
    world.examine("", &[]).expect("D16", "problem", "hostNetwork");
    world.env[1].1 = "node-2.test".to_owned();
    world.dns.name("node-2.test", &[OWN]);
    world.examine("", &[]).expect("D16", "problem", "its node's network");
    world.env.pop();
    world.examine("", &[]).expect("D16", "skipped", "NODE_NAME");
    world.env.clear();
    let said = world.examine("[discovery]\nmode = \"dns\"\napi_host = \"\"\n", &[]);
    for id in ["D13", "D14", "D15", "D16"] {
        said.expect(id, "skipped", "not in a cluster");
    }
}

#[test]
fn a_listening_address_is_free_or_ours() {
    let mut world = World::new();
    let gateway = Gateway::start("");
    world.port = gateway.address().port();
    world.examine("", &[]).expect("D21", "ok", "a running deskgate serves it");
    world.port = world.services[1].1.address().port();
    let said = world.examine("", &[]);
    said.expect("D21", "problem", "something else answers 200");
    assert_eq!(said.code, 1);
    let said = world.examine("[listen]\nhttp = [\"192.0.2.1:80\"]\n", &["--timeout", "500ms"]);
    let (status, _) = said.of("D21");
    assert_ne!(status, "ok");
}

#[test]
fn listening_addresses_that_exclude_each_other_are_told() {
    let world = World::new();
    let (port, admin) = (world.port, free_port());
    let more = format!(
        "[listen]\nhttp = [\"127.0.0.1:{port}\", \"0.0.0.0:{port}\"]\n\
         [admin]\nlisten = [\"127.0.0.1:{admin}\", \"127.0.0.2:{port}\"]\n"
    );
    let said = world.examine(&more, &[]);
    assert_eq!((said.code, said.all("D21").len()), (1, 4), "{}", said.json);
    for (address, status, text) in [
        (format!("127.0.0.1:{port}"), "ok", "free"),
        (format!("0.0.0.0:{port}"), "problem", "not together with another address"),
        (format!("127.0.0.1:{admin}"), "ok", "free"),
        (format!("127.0.0.2:{port}"), "ok", "free"),
    ] {
        let (found, words) = said.about("D21", &address);
        assert_eq!((found.as_str(), words.contains(text)), (status, true), "{address}: {words}");
    }
}

#[test]
fn a_deskgate_that_wants_a_proxy_header_is_no_stranger() {
    let mut world = World::new();
    let port = free_port();
    let toml = world.secure(&issue(200), port);
    let wants = "[listen]\nproxy_protocol = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&toml.replacen("[listen]\n", wants, 1));
    world.port = gateway.address().port();
    let said = world.examine(&toml, &[]);
    for port in [world.port, port] {
        let (status, words) = said.about("D21", &format!("127.0.0.1:{port}"));
        assert_eq!(status, "warning", "{words}");
        assert!(words.contains("ended without an answer"), "{words}");
    }
    assert_eq!(said.code, 0, "{}", said.json);
}

/// A front proxy: what it changes in a head before deskgate gets it.
fn front(gateway: SocketAddr, change: fn(&str) -> String) -> Origin {
    Origin::start(move |exchange| {
        let head = change(&exchange.head);
        let answer = raw(gateway, head).unwrap();
        exchange.write([answer.head.as_bytes(), &answer.body].concat());
        exchange.close();
    })
}

/// A head without these headers, for one request.
fn without(head: &str, names: &[&str]) -> String {
    let keep = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !names.contains(&name.as_str())
    };
    let lines: Vec<_> = head.trim_end().lines().filter(keep).collect();
    format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))
}

#[test]
fn a_front_proxy_that_loses_upgrades_is_found() {
    let world = World::new();
    let gateway = Gateway::start("");
    let url = |address: SocketAddr| format!("http://{address}");
    let said = world.examine("", &["--url", &url(gateway.address())]);
    said.expect("D17", "ok", "a deskgate answers");
    said.expect("D18", "ok", "the upgrade reaches deskgate");
    said.expect("D19", "skipped", "plain HTTP");
    let strips = front(gateway.address(), |head| without(head, &["upgrade", "connection"]));
    let said = world.examine("", &["--url", &url(strips.address())]);
    said.expect("D17", "ok", "");
    said.expect("D18", "problem", "the upgrade is lost on the way");
    said.expect("D18", "problem", "proxy_http_version 1.1");
    assert_eq!(said.code, 1);
    // Where refusals are told to pages, programs still get the status.
    let closes = "[[route]]\nname = \"websockify\"\ntunnel = { refusal = \"close\" }\n";
    let gateway = Gateway::start(closes);
    let said = world.examine("", &["--url", &url(gateway.address())]);
    said.expect("D18", "ok", "the upgrade reaches deskgate");
}

#[test]
fn what_is_not_deskgate_is_told_apart() {
    let world = World::new();
    for (status, healthz, upgrade) in [
        ("200 OK", "not as deskgate does", "answered 200 by nginx, not by deskgate"),
        ("502 Bad Gateway", "does not reach deskgate", "answered 502 by nginx"),
        ("426 Upgrade Required", "something else answers", "answered 426 by nginx"),
        ("302 Found", "redirected", ""),
        ("401 Unauthorized", "something else answers", "answered 401 by nginx"),
    ] {
        let other = Origin::start(move |exchange| {
            exchange.answer(status, "Server: nginx\r\n", "<html>");
        });
        let said = world.examine("", &["--url", &format!("http://{}", other.address())]);
        let (_, words) = said.of("D17");
        assert!(words.contains(healthz), "{status}: {words}");
        if upgrade.is_empty() {
            said.expect("D18", "skipped", "it is redirected");
            assert_eq!(said.code, 0, "{}", said.json);
            continue;
        }
        said.expect("D18", "problem", upgrade);
        assert_eq!(said.code, 1);
    }
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let said = world.examine("", &["--url", &nobody]);
    said.expect("D17", "problem", "refused");
    said.expect("D18", "skipped", "D17");
    let said = world.examine("", &["--url", "https://nowhere.test"]);
    said.expect("D17", "problem", "no such name");
}

#[test]
fn what_deskgate_itself_answers_is_nobody_elses_fault() {
    let world = World::new();
    let own = "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n\
               X-Content-Type-Options: nosniff\r\n";
    let busy = Origin::start(move |exchange| exchange.answer("503 Busy", own, "{}"));
    let said = world.examine("", &["--url", &format!("http://{}", busy.address())]);
    said.expect("D17", "problem", "deskgate itself answers /healthz 503");
    said.expect("D18", "problem", "deskgate itself answers 503");
    assert_eq!(said.code, 1);
}

/// A front proxy with TLS, which adds this line to each head.
fn secure_front(gateway: SocketAddr, issued: &Issued, line: &'static str) -> SocketAddr {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone().into()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test process.
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            drop(pass(StreamOwned::new(tls, stream), gateway, line));
        }
    });
    address
}

fn pass(
    mut client: StreamOwned<ServerConnection, TcpStream>,
    gateway: SocketAddr,
    line: &str,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let answer = raw(gateway, head.replacen("\r\n", &format!("\r\n{line}"), 1))?;
    client.write_all(&[answer.head.as_bytes(), &answer.body].concat())?;
    client.conn.send_close_notify();
    client.flush()
}

#[test]
fn whether_the_scheme_is_told_shows_in_redirects() {
    let mut world = World::new();
    let issued = issue(200);
    drop(world.secure(&issued, 1));
    let authorities = world.keys.path().join("ca.pem").to_str().unwrap().to_owned();
    world.env.push(("SSL_CERT_FILE", authorities));
    world.dns.name("localhost", &["127.0.0.1"]);
    let website = Origin::start(|exchange| match exchange.target().as_str() {
        "/js" => exchange.answer(
            "301 Moved Permanently",
            &format!("Location: http://{}/js/\r\n", exchange.header("host").unwrap()),
            "",
        ),
        _ => exchange.answer("200 OK", "", ""),
    });
    let website = website.address();
    let upstream =
        format!("[upstreams.website]\nhost = \"127.0.0.1\"\nport = {}\n", website.port());
    let trusting = format!("[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{upstream}");
    for (toml, line, status, text) in [
        (&upstream, "", "problem", "/js is redirected to plain http"),
        (&upstream, "X-Forwarded-Proto: https\r\n", "problem", "listen.trusted_proxies"),
        (&trusting, "", "problem", "/js is redirected"),
        (&trusting, "X-Forwarded-Proto: https\r\n", "ok", "redirects keep https"),
    ] {
        let gateway = Gateway::start(toml);
        let address = secure_front(gateway.address(), &issued, line);
        let url = format!("https://localhost:{}", address.port());
        let said = world.examine("", &["--url", &url]);
        said.expect("D17", "ok", "a deskgate answers");
        said.expect("D18", "ok", "the upgrade reaches deskgate");
        said.expect("D19", status, text);
        said.expect("D20", "ok", "trusted by this system");
    }
    // The same certificate says nothing against what a redirect says.
    let own = world.secure(&issued, free_port());
    let gateway = Gateway::start(&trusting);
    let url = format!("https://localhost:{}", secure_front(gateway.address(), &issued, "").port());
    let said = world.examine(&own, &["--url", &url]);
    said.expect("D19", "problem", "/js is redirected to plain http");
    // Nothing redirects: what can be told is the configuration.
    let gateway = Gateway::start("");
    let url = |issued: &Issued| {
        format!("https://localhost:{}", secure_front(gateway.address(), issued, "").port())
    };
    let said = world.examine("", &["--url", &url(&issued)]);
    said.expect("D19", "warning", "listen.trusted_proxies is empty");
    let trusting = "[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let said = world.examine(trusting, &["--url", &url(&issued)]);
    said.expect("D19", "skipped", "cannot be told from outside");
    // Another issuer, and a certificate that has ended.
    let said = world.examine("", &["--url", &url(&issue(200))]);
    said.expect("D20", "problem", "serve a certificate for localhost");
    let said = world.examine("", &["--url", &url(&issue(-2))]);
    said.expect("D20", "problem", "it expired");
}

#[test]
fn where_tls_ends_in_deskgate_nothing_needs_to_be_told() {
    let mut world = World::new();
    let port = free_port();
    let toml = world.secure(&issue(200), port);
    let authorities = world.keys.path().join("ca.pem").to_str().unwrap().to_owned();
    world.env.push(("SSL_CERT_FILE", authorities));
    world.dns.name("localhost", &["127.0.0.1"]);
    let _gateway = Gateway::start(&toml);
    let said = world.examine(&toml, &["--url", &format!("https://localhost:{port}")]);
    said.expect("D18", "ok", "the upgrade reaches deskgate");
    said.expect("D19", "ok", "or in a proxy with the same certificate");
    said.expect("D20", "ok", "trusted by this system");
    let (status, words) = said.about("D21", &format!("127.0.0.1:{port}"));
    assert_eq!((status.as_str(), words.contains("a running deskgate")), ("ok", true), "{words}");
    assert_eq!(said.code, 0, "{}", said.json);
}

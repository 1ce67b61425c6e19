use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::{Site, echo, eventually, free_port, tokens};

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// An issuer, and a folder with a certificate of it for desk.example.
pub(crate) struct Issued {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Issued {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an issuer");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issued = Self { issuer, folder: TempDir::new().unwrap() };
        std::fs::write(issued.path("ca.pem"), issued.issuer.pem()).unwrap();
        issued.issue("tls");
        issued
    }

    /// Writes a new certificate and its key under this name.
    pub(crate) fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["desk.example".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.replace(&format!("{name}.key"), &key.serialize_pem());
        self.replace(&format!("{name}.crt"), &certificate.pem());
    }

    pub(crate) fn replace(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A site that serves HTTPS at this port, too.
    pub(crate) fn site(&self, port: u16, more: &str) -> Site {
        self.site_with(port, "[listen]\n", more)
    }

    /// The same with more about its listeners.
    pub(crate) fn site_with(&self, port: u16, listen: &str, more: &str) -> Site {
        self.listening(&[port], listen, more)
    }

    /// The same with several listeners.
    pub(crate) fn site_at(&self, ports: &[u16], more: &str) -> Site {
        self.listening(ports, "[listen]\n", more)
    }

    fn listening(&self, ports: &[u16], listen: &str, more: &str) -> Site {
        let (certificate, key) = (self.path("tls.crt"), self.path("tls.key"));
        let files = format!("[{{ certificate = {certificate:?}, key = {key:?} }}]");
        let https: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let text = format!("{listen}https = {https:?}\n[tls]\ncertificates = {files}\n{more}");
        Site::configured_serving(&text, |exchange| match exchange.header("upgrade") {
            Some(_) => echo(exchange),
            None => {
                let proto = exchange.header("x-forwarded-proto").unwrap_or_default();
                exchange.answer("200 OK", "", &proto);
            }
        })
    }

    pub(crate) fn connect(&self, port: u16) -> Tls {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("desk.example").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        StreamOwned::new(tls, tcp)
    }

    /// The certificate that is served now.
    pub(crate) fn served(&self, port: u16) -> CertificateDer<'static> {
        let mut tls = self.connect(port);
        ask(&mut tls, "/healthz");
        tls.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

pub(crate) fn ask(tls: &mut Tls, target: &str) -> String {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: desk.example\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    drop(tls.read_to_string(&mut answer));
    answer
}

#[test]
fn requests_and_tunnels_come_over_tls_as_they_do_without() {
    let issued = Issued::new();
    let port = free_port();
    let site = issued.site(port, "");
    let answer = ask(&mut issued.connect(port), "/API/x");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhttps"),
        "{answer}"
    );
    let request = format!("wss://desk.example{}", Site::screen()).into_client_request().unwrap();
    let tls = issued.connect(port);
    let (mut socket, _) = tokio_tungstenite::tungstenite::client::client(request, tls).unwrap();
    for length in [0, 1, 125, 70_000, 1 << 20] {
        let message = vec![7; length];
        socket.send(message.clone().into()).unwrap();
        assert_eq!(socket.read().unwrap().into_data(), message);
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    assert_eq!(site.gateway.logged("/websockify")["status"], 101);
}

#[test]
fn a_new_certificate_is_served_while_tunnels_live_on() {
    let issued = Issued::new();
    let port = free_port();
    let site = issued.site(port, "");
    let request = format!("wss://desk.example{}", Site::screen()).into_client_request().unwrap();
    let tls = issued.connect(port);
    let (mut socket, _) = tokio_tungstenite::tungstenite::client::client(request, tls).unwrap();
    let first = issued.served(port);
    issued.issue("tls");
    site.gateway.signal("HUP");
    eventually("the new certificate", || (issued.served(port) != first).then_some(()));
    // A key that does not fit is refused, and what is served stays.
    let second = issued.served(port);
    issued.replace("tls.key", &KeyPair::generate().unwrap().serialize_pem());
    site.gateway.wait_for_line("configuration refused");
    assert!(issued.served(port) == second);
    socket.send("still".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "still".into());
}

pub(crate) fn curl(port: u16, ca: &Path, more: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
        .arg(ca)
        .args(["--resolve", &format!("desk.example:{port}:127.0.0.1")])
        .args(["--write-out", "\n%{http_version} %{http_code}"])
        .args(more)
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn http2_reaches_every_route_that_is_no_tunnel() {
    let issued = Issued::new();
    let port = free_port();
    let site = issued.site(port, "");
    let url = |target: &str| format!("https://desk.example:{port}{target}");
    let ca = issued.path("ca.pem");
    assert_eq!(curl(port, &ca, &["--http2", &url("/API/x")]), "https\n2 200");
    let token = format!("ABCAuthorization: {}", tokens::valid(crate::support::PODS[0]));
    assert_eq!(curl(port, &ca, &["--http2", "-H", &token, &url("/filer")]), "https\n2 200");
    assert!(curl(port, &ca, &["--http2", &url("/filer")]).ends_with("\n2 401"));
    assert!(curl(port, &ca, &["--http2", "-d", "x=1", &url("/API/y")]).ends_with("\n2 200"));
    // Of two requests on one connection the second is served as well.
    let twice = curl(port, &ca, &["--http2", &url("/API/x"), &url("/healthz")]);
    assert_eq!(twice, "https\n2 200OK\n\n2 200");
    let line = site.gateway.logged("/API/x");
    assert_eq!((line["version"].as_str(), line["status"].as_u64()), (Some("HTTP/2.0"), Some(200)));
    assert_eq!(curl(port, &ca, &["--http1.1", &url("/API/z")]), "https\n1.1 200");
}

#[test]
fn without_a_certificate_of_the_client_nothing_is_served_where_one_is_required() {
    let issued = Issued::new();
    issued.issue("user");
    let port = free_port();
    let ca = issued.path("ca.pem");
    let more = format!("client_certificates = \"required\"\nclient_authorities = {ca:?}\n");
    let _site = issued.site(port, &more);
    let url = format!("https://desk.example:{port}/healthz");
    assert!(!curl(port, &ca, &[&url]).contains("200"));
    let (user, key) = (issued.path("user.crt"), issued.path("user.key"));
    let shown = ["--cert", user.to_str().unwrap(), "--key", key.to_str().unwrap(), &url];
    assert_eq!(curl(port, &ca, &shown), "OK\n\n2 200");
}

#[test]
fn plain_http_on_the_tls_port_and_a_silent_client_harm_nobody() {
    let issued = Issued::new();
    let port = free_port();
    let _site = issued.site(port, "handshake_timeout = \"8s\"\n");
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(ask(&mut issued.connect(port), "/healthz").contains("200 OK"));
    for gone in [&mut plain, &mut silent] {
        gone.set_read_timeout(Some(crate::support::SOON)).unwrap();
        // An end or a reset, but no wait.
        assert!(
            !matches!(gone.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        );
    }
}

#[test]
fn either_listener_is_enough() {
    let issued = Issued::new();
    let keys = crate::support::KeyDir::new();
    let (certificate, key) = (issued.path("tls.crt"), issued.path("tls.key"));
    let run = |listen: &str, tls: bool| {
        let file = keys.path().join("deskgate.toml");
        let pair = format!("[{{ certificate = {certificate:?}, key = {key:?} }}]");
        let tls = if tls { format!("[tls]\ncertificates = {pair}\n") } else { String::new() };
        let text = format!("[listen]\n{listen}[admin]\nlisten = []\n{tls}{}", keys.auth());
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(crate::support::binary());
        command.args(["run", "--config"]).arg(&file).stdout(std::process::Stdio::null());
        command
    };
    let port = free_port();
    let mut secure =
        run(&format!("http = []\nhttps = [\"127.0.0.1:{port}\"]\n"), true).spawn().unwrap();
    let url = format!("https://desk.example:{port}/healthz");
    let ca = issued.path("ca.pem");
    eventually("HTTPS", || curl(port, &ca, &[&url]).ends_with(" 200").then_some(()));
    drop((secure.kill(), secure.wait()));
    let port = free_port();
    let mut plain =
        run(&format!("http = [\"127.0.0.1:{port}\"]\nhttps = []\n"), false).spawn().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let head = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    eventually("HTTP", || {
        crate::support::raw(address, head).is_ok_and(|answer| answer.status == 200).then_some(())
    });
    drop((plain.kill(), plain.wait()));
    let none = run("http = []\nhttps = []\n", false)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(64) && said.contains("listen"), "{said}");
}

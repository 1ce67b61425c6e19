use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::rig::{length, tell, timed};
use crate::support::{Site, echo, eventually, free_port, tokens};

const NAME: &str = "desk.example";

/// Time for all that must have happened before a certificate ends.
const LIFE: Duration = Duration::from_secs(25);

/// A certificate that is its own issuer, ends after this time, and lies where the gateway looks.
fn issue(folder: &Path, life: Duration) -> (SystemTime, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let end = SystemTime::now() + life;
    params.not_before = (end - Duration::from_secs(3600)).into();
    params.not_after = end.into();
    let certificate = params.self_signed(&key).unwrap();
    for (name, text) in [("tls.key", key.serialize_pem()), ("tls.crt", certificate.pem())] {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }
    (end, certificate.der().clone())
}

/// Whether a client gets an answer that believes no other certificate than this one.
fn believes(address: SocketAddr, certificate: &CertificateDer<'static>) -> bool {
    let mut stream = connect(address, certificate);
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200 ")
}

fn connect(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(crate::support::SOON + length())).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// Whether a client gets an answer that believes every certificate.
fn answered(address: SocketAddr) -> bool {
    let url = format!("https://{address}/healthz");
    let output = Command::new("curl").args(["-sk", "--max-time", "20", &url]).output();
    output.expect("curl: run scripts/setup test").stdout == b"OK\n"
}

fn site(folder: &Path, address: SocketAddr) -> Site {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let (certificate, key) = (path("tls.crt"), path("tls.key"));
    Site::configured_serving(
        &format!(
            "[listen]\nhttps = [\"{address}\"]\n\
             [tls]\ncertificates = [{{ certificate = {certificate:?}, key = {key:?} }}]\n"
        ),
        |exchange| match exchange.header("upgrade") {
            Some(_) => echo(exchange),
            None => exchange.answer("200 OK", "", "answered"),
        },
    )
}

#[test]
fn a_certificate_that_ends_while_it_serves_cuts_nothing_and_is_told_of() {
    let folder = TempDir::new().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (end, old) = issue(folder.path(), LIFE);
    let site = site(folder.path(), address);
    assert!(believes(address, &old));
    let request = format!("ws://{NAME}/websockify?{}", tokens::valid(crate::support::PODS[0]));
    let stream = connect(address, &old);
    let (mut tunnel, _) = tokio_tungstenite::tungstenite::client(request, stream).unwrap();
    let mut say = |text: &str| {
        tunnel.send(text.into()).unwrap();
        assert_eq!(tunnel.read().unwrap(), text.into());
    };
    say("before");
    // It ends, and has ended for a while. A client that is silent for so long, and answers no ping,
    // would be given up.
    while SystemTime::now() < end + length() {
        say("meanwhile");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(!believes(address, &old), "a browser warns");
    assert!(answered(address), "who does not mind is served");
    say("after");
    let line = site.gateway.wait_for_line("the certificate has expired");
    assert!(line.contains("tls.crt") && line.contains("WARN"), "{line}");
    // It is renewed under the feet of everybody.
    let (_, new) = issue(folder.path(), Duration::from_secs(3600));
    let works = || believes(address, &new).then_some(());
    let renewed = timed(|| eventually("the new one serves", works)).1;
    say("renewed");
    tell("certificate expired, then renewed: the new one serves after", renewed);
}

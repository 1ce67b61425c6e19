//! Handshakes over real sockets.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{KeyPair, PKCS_RSA_SHA256};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, SupportedProtocolVersion, TicketRotator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::testing::{Ca, Ends, Pair, acceptor, connect, der, parse, shown, sockets};
use crate::tls::{Session, client_chain};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// An acceptor for `localhost`, its issuer and its certificate.
fn simple() -> (Acceptor, Ca, Pair) {
    let ca = Ca::new("ca");
    let pair = ca.issue(&["localhost"]);
    (acceptor(&[&pair], Settings::default()), ca, pair)
}

fn with_clients(auth: ClientAuth) -> Settings {
    Settings { client_auth: auth, ..Settings::default() }
}

fn resumed(ends: &Ends) -> bool {
    let resumed = Session::of(&ends.1).resumed;
    assert_eq!(resumed, ends.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
    resumed
}

/// Changes what no setting can.
fn adjust(acceptor: &Acceptor, change: impl Fn(&mut ServerConfig)) {
    acceptor.0.current.rcu(|current| {
        let mut config = ServerConfig::clone(&current.config);
        change(&mut config);
        Current { config: Arc::new(config), certificates: Arc::clone(&current.certificates) }
    });
}

#[tokio::test]
async fn both_versions_are_spoken() {
    let (acceptor, ca, pair) = simple();
    for (version, name, suite) in [
        (&TLS13, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (&TLS12, "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ] {
        let mut client = ca.client(&[version]);
        client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let ends = connect(&acceptor, &Arc::new(client), "localhost").await.unwrap();
        let session = Session::of(&ends.1);
        assert_eq!(session.version, name);
        assert_eq!(session.cipher_suite, suite);
        assert_eq!(session.server_name.as_deref(), Some("localhost"));
        assert_eq!(session.alpn.as_deref(), Some("h2"));
        assert!(!session.resumed && session.client.is_none());
        assert_eq!(shown(&ends), der(&pair));
    }
}

#[tokio::test]
async fn the_post_quantum_group_is_taken_when_offered() {
    let (acceptor, ca, _) = simple();
    let hybrid = Arc::new(ca.client(&BOTH));
    let ends = connect(&acceptor, &hybrid, "localhost").await.unwrap();
    assert_eq!(Session::of(&ends.1).group, Some("X25519MLKEM768"));

    // One that does not know it.
    let classic = [kx_group::X25519, kx_group::SECP256R1];
    let classic = Arc::new(ca.client_of(&BOTH, None, &classic));
    let ends = connect(&acceptor, &classic, "localhost").await.unwrap();
    assert_eq!(Session::of(&ends.1).group, Some("X25519"));
    // Of common groups, the client's order decides.
    let unsure = [kx_group::X25519, kx_group::X25519MLKEM768];
    let unsure = Arc::new(ca.client_of(&BOTH, None, &unsure));
    let ends = connect(&acceptor, &unsure, "localhost").await.unwrap();
    assert_eq!(Session::of(&ends.1).group, Some("X25519"));
    // TLS 1.2 has no such group.
    let old = Arc::new(ca.client(&[&TLS12]));
    let ends = connect(&acceptor, &old, "localhost").await.unwrap();
    assert_eq!(Session::of(&ends.1).group, Some("X25519"));
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let ca = Ca::new("ca");
    let first = ca.issue(&["first.example", "127.0.0.1"]);
    let wildcard = ca.issue(&["*.example.org"]);
    let exact = ca.issue(&["www.example.org"]);
    let acceptor = acceptor(&[&first, &wildcard, &exact], Settings::default());
    let client = Arc::new(ca.client(&BOTH));
    for (name, pair) in [
        ("first.example", &first),
        ("www.example.org", &exact),
        ("x.example.org", &wildcard),
        // A client sends no name when it connects to an address.
        ("127.0.0.1", &first),
    ] {
        let ends = connect(&acceptor, &client, name).await.unwrap();
        assert_eq!(shown(&ends), der(pair), "{name}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_is_told_apart() {
    let (acceptor, ca, _) = simple();
    let stranger = Ca::new("stranger");
    for (ca, name) in [(&stranger, "localhost"), (&ca, "other.example")] {
        for version in [&TLS12, &TLS13] {
            let (client, server) = sockets().await;
            let connector = TlsConnector::from(Arc::new(ca.client(&[version])));
            let name = ServerName::try_from(name).unwrap();
            let (client, server) =
                tokio::join!(connector.connect(name, client), acceptor.accept(server));
            assert!(client.is_err());
            assert_eq!(server.unwrap_err().reason(), "distrusted");
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed_also_after_a_swap() {
    for version in [&TLS12, &TLS13] {
        let (acceptor, ca, old) = simple();
        let client = Arc::new(ca.client(&[version]));
        let living = connect(&acceptor, &client, "localhost").await.unwrap();
        assert!(!resumed(&living));
        assert!(resumed(&connect(&acceptor, &client, "localhost").await.unwrap()));

        let new = ca.issue(&["localhost", "new.example"]);
        acceptor.swap(parse(&[&new]).unwrap());
        assert!(resumed(&connect(&acceptor, &client, "localhost").await.unwrap()));
        // Another name, another session; and the new certificate.
        let other = connect(&acceptor, &client, "new.example").await.unwrap();
        assert!(!resumed(&other));
        assert_eq!(shown(&other), der(&new));
        let fresh = Arc::new(ca.client(&[version]));
        assert_eq!(shown(&connect(&acceptor, &fresh, "localhost").await.unwrap()), der(&new));
        assert_eq!(acceptor.describe()[0].names, ["localhost", "new.example"]);

        // The connection from before goes on.
        let (mut theirs, mut ours) = living;
        assert_eq!(shown_by(&theirs), der(&old));
        ours.write_all(b"still").await.unwrap();
        ours.flush().await.unwrap();
        let mut read = [0; 5];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"still");
    }
}

fn shown_by(client: &tokio_rustls::client::TlsStream<TcpStream>) -> Vec<u8> {
    client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A box where rustls's own ticket keys come in an `Arc`.
#[derive(Debug)]
struct Keys(Arc<dyn ProducesTickets>);

impl ProducesTickets for Keys {
    fn enabled(&self) -> bool {
        true
    }
    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }
    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

#[tokio::test]
async fn a_ticket_lives_through_one_change_of_keys_and_not_two() {
    let (acceptor, ca, _) = simple();
    let made = || match Ticketer::new() {
        Ok(keys) => Ok(Box::new(Keys(keys)) as Box<dyn ProducesTickets>),
        Err(_) => Err(rustls::crypto::GetRandomFailed),
    };
    let rotator = Arc::new(TicketRotator::new(2, made).unwrap());
    adjust(&acceptor, |config| config.ticketer = Arc::clone(&rotator) as _);
    let client = Arc::new(ca.client(&[&TLS12]));
    let change = || async {
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        // Any use changes keys that are due.
        rotator.encrypt(b"x").unwrap();
    };
    connect(&acceptor, &client, "localhost").await.unwrap();
    change().await;
    // Resumption brings no new ticket in TLS 1.2 unless the server sends one, which it does.
    assert!(resumed(&connect(&acceptor, &client, "localhost").await.unwrap()));
    change().await;
    change().await;
    assert!(!resumed(&connect(&acceptor, &client, "localhost").await.unwrap()));
}

#[tokio::test]
async fn nothing_is_resumed_by_another_acceptor() {
    let (acceptor_of_tickets, ca, pair) = simple();
    let client = Arc::new(ca.client(&[&TLS13]));
    connect(&acceptor_of_tickets, &client, "localhost").await.unwrap();
    let other = acceptor(&[&pair], Settings::default());
    assert!(!resumed(&connect(&other, &client, "localhost").await.unwrap()));
}

#[tokio::test]
async fn plain_http_is_told_apart_and_can_be_answered() {
    let (acceptor, ..) = simple();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"SSH-2.0-x\r\n", &[0x80, 0x2e, 1]] {
        let (mut client, server) = sockets().await;
        client.write_all(bytes).await.unwrap();
        let error = acceptor.accept(server).await.unwrap_err();
        assert_eq!(error.reason(), "not_tls");
        let AcceptError::NotTls(mut server) = error else { panic!() };
        let mut read = vec![0; bytes.len()];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_given_up() {
    let (acceptor, ca, _) = simple();
    // What it sends before it goes silent, and the seconds until it is given up.
    let hello = client_hello(&ca);
    for (sent, seconds) in [(0, 10), (1, 15), (200, 15), (hello.len(), 15)] {
        let (mut client, server) = sockets().await;
        client.write_all(&hello[..sent]).await.unwrap();
        let start = Instant::now();
        let error = acceptor.accept(server).await.unwrap_err();
        assert_eq!(error.reason(), "timeout");
        let waited = start.elapsed();
        let limit = Duration::from_secs(seconds);
        assert!(waited >= limit && waited < limit + Duration::from_millis(10), "{waited:?}");
    }
}

fn client_hello(ca: &Ca) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(ca.client(&BOTH)), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_client_that_leaves_is_told_apart() {
    let (acceptor, ca, _) = simple();
    let hello = client_hello(&ca);
    for sent in [0, 1, 200, hello.len()] {
        let (mut client, server) = sockets().await;
        client.write_all(&hello[..sent]).await.unwrap();
        drop(client);
        assert_eq!(acceptor.accept(server).await.unwrap_err().reason(), "closed", "{sent}");
    }
}

#[tokio::test]
async fn old_versions_are_refused_with_an_alert() {
    let (acceptor, ..) = simple();
    for version in [0, 1, 2] {
        // SSL 3.0, TLS 1.0, TLS 1.1: version, random, no session, one suite, no compression.
        let mut body = vec![3, version];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0xc0, 0x09, 1, 0]);
        let length = u8::try_from(body.len()).unwrap();
        let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        hello.extend(body);
        let (mut client, server) = sockets().await;
        client.write_all(&hello).await.unwrap();
        let error = acceptor.accept(server).await.unwrap_err();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(error.reason(), "no_shared_version");
        // A fatal alert, handshake_failure (RFC 8446 section 6).
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 40][..]));
    }
}

#[tokio::test]
async fn a_broken_handshake_is_other() {
    let (acceptor, ca, _) = simple();
    let mut hello = client_hello(&ca);
    hello[5] = 77;
    let (mut client, server) = sockets().await;
    client.write_all(&hello).await.unwrap();
    let error = acceptor.accept(server).await.unwrap_err();
    assert_eq!(error.reason(), "other");
    assert_eq!(error.to_string(), "the TLS handshake failed");
}

#[tokio::test]
async fn only_unknown_protocols_are_refused() {
    let (acceptor, ca, _) = simple();
    for (offered, agreed) in [(vec!["http/1.1"], Some("http/1.1")), (vec![], None)] {
        let mut client = ca.client(&BOTH);
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let ends = connect(&acceptor, &Arc::new(client), "localhost").await.unwrap();
        assert_eq!(Session::of(&ends.1).alpn.as_deref(), agreed);
    }
    let mut client = ca.client(&BOTH);
    client.alpn_protocols = vec![b"spdy/1".to_vec()];
    let (theirs, ours) = sockets().await;
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("localhost").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, theirs), acceptor.accept(ours));
    assert!(client.is_err());
    assert_eq!(server.unwrap_err().reason(), "other");
}

/// One handshake, with or without success: the server's view.
async fn outcome(acceptor: &Acceptor, client: &Arc<ClientConfig>) -> Result<Session, AcceptError> {
    let (theirs, ours) = sockets().await;
    let connector = TlsConnector::from(Arc::clone(client));
    let name = ServerName::try_from("localhost").unwrap();
    let (_client, server) = tokio::join!(connector.connect(name, theirs), acceptor.accept(ours));
    server.map(|stream| Session::of(&stream))
}

#[tokio::test]
async fn client_certificates_are_asked_for_and_judged() {
    let (ca, users, strangers) = (Ca::new("ca"), Ca::new("users"), Ca::new("strangers"));
    let pair = ca.issue(&["localhost"]);
    let alice = users.issue(&["alice"]);
    let mallory = strangers.issue(&["alice"]);
    let key = KeyPair::generate().unwrap();
    let late = users.issue_with(&["late"], &key, |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let off = acceptor(&[&pair], Settings::default());
    let optional = acceptor(&[&pair], with_clients(ClientAuth::Optional(users.roots())));
    let required = acceptor(&[&pair], with_clients(ClientAuth::Required(users.roots())));
    for version in [&TLS12, &TLS13] {
        let client = |identity| Arc::new(ca.client_with(&[version], identity));
        let (none, alice_client) = (client(None), client(Some(&alice)));
        assert!(outcome(&off, &alice_client).await.unwrap().client.is_none());
        assert!(outcome(&optional, &none).await.unwrap().client.is_none());
        assert_eq!(outcome(&required, &none).await.unwrap_err().reason(), "bad_certificate");
        for acceptor in [&optional, &required] {
            // Twice, the second time by a ticket.
            for again in [false, true] {
                let ends = connect(acceptor, &alice_client, "localhost").await.unwrap();
                assert_eq!(resumed(&ends), again);
                let session = Session::of(&ends.1);
                assert_eq!(session.client.unwrap().der(), der(&alice));
                assert_eq!(client_chain(&ends.1).len(), 1);
            }
            for bad in [&mallory, &late] {
                let error = outcome(acceptor, &client(Some(bad))).await.unwrap_err();
                assert_eq!(error.reason(), "bad_certificate");
            }
        }
    }
}

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_clients_certificate() {
    let (ca, users) = (Ca::new("ca"), Ca::new("users"));
    let pair = ca.issue(&["localhost"]);
    let key = KeyPair::generate().unwrap();
    let alice = users.issue_with(&["alice"], &key, |params| {
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    });
    let required = acceptor(&[&pair], with_clients(ClientAuth::Required(users.roots())));
    let end = 1_893_456_000;
    let clock = Arc::new(Clock(AtomicU64::new(end - 60)));
    adjust(&required, |config| config.time_provider = Arc::clone(&clock) as _);
    for version in [&TLS12, &TLS13] {
        clock.0.store(end - 60, Ordering::Relaxed);
        let client = Arc::new(ca.client_with(&[version], Some(&alice)));
        for again in [false, true] {
            let ends = connect(&required, &client, "localhost").await.unwrap();
            assert_eq!(resumed(&ends), again);
        }
        clock.0.store(end + 60, Ordering::Relaxed);
        assert_eq!(outcome(&required, &client).await.unwrap_err().reason(), "bad_certificate");
    }
}

#[tokio::test]
async fn a_ticket_without_a_certificate_opens_nothing_where_one_is_required() {
    let (ca, users) = (Ca::new("ca"), Ca::new("users"));
    let pair = ca.issue(&["localhost"]);
    let optional = acceptor(&[&pair], with_clients(ClientAuth::Optional(users.roots())));
    let required = acceptor(&[&pair], with_clients(ClientAuth::Required(users.roots())));
    // Does not happen: each acceptor has its own keys. It is refused all the same.
    let ticketer = Arc::clone(&optional.0.current.load().config.ticketer);
    adjust(&required, |config| config.ticketer = Arc::clone(&ticketer));
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(ca.client(&[version]));
        connect(&optional, &client, "localhost").await.unwrap();
        assert_eq!(outcome(&required, &client).await.unwrap_err().reason(), "bad_certificate");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_little() {
    let (acceptor, ca, _) = simple();
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(ca.client(&[version]));
        let (_client, mut server) = connect(&acceptor, &client, "localhost").await.unwrap();
        let chunk = vec![0; 1 << 20];
        let stalled = Duration::from_millis(300);
        while timeout(stalled, server.write(&chunk)).await.is_ok() {}
        let (_socket, mut tls) = server.into_inner();
        let mut held = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut held).unwrap();
        }
        assert!(held.len() > SEND_BUFFER / 2, "{} bytes", held.len());
        assert!(held.len() <= SEND_BUFFER + 1024, "{} bytes", held.len());
    }
}

/// Runs `openssl s_client` with `args` against an acceptor; its output, and the server's view.
async fn s_client(acceptor: &Acceptor, args: &[&str]) -> (String, Result<Session, AcceptError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let accepted = acceptor.accept(stream).await;
    let session = match accepted {
        Ok(mut stream) => {
            stream.write_all(b"hello from the server\n").await.unwrap();
            stream.shutdown().await.unwrap();
            let session = Session::of(&stream);
            // Until it closes, or its last words are answered by a reset.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            Ok(session)
        }
        Err(error) => Err(error),
    };
    child.stdin.take().unwrap().write_all(b"").unwrap();
    let output = child.wait_with_output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&both).into_owned(), session)
}

#[tokio::test]
async fn openssl_connects() {
    let ca = Ca::new("ca");
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let trust = folder.path().join("ca.pem");
    std::fs::write(&trust, &ca.pem).unwrap();
    let trust = trust.to_str().unwrap();
    for pair in [ca.issue(&["localhost"]), ca.issue_with(&["localhost"], &rsa, |_| ())] {
        let acceptor = acceptor(&[&pair], Settings::default());
        for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let args = ["-servername", "localhost", "-verify_hostname", "localhost"];
            let args = [&args[..], &["-CAfile", trust, "-alpn", "h2", version]].concat();
            let (output, session) = s_client(&acceptor, &args).await;
            let session = session.unwrap();
            assert_eq!(session.version, name);
            assert_eq!(session.alpn.as_deref(), Some("h2"));
            assert!(output.contains("Verify return code: 0 (ok)"), "{output}");
            assert!(output.contains("hello from the server"), "{output}");
        }
    }
    let (acceptor, ..) = simple();
    let old = ["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"];
    let (output, session) = s_client(&acceptor, &old).await;
    assert_eq!(session.unwrap_err().reason(), "no_shared_version", "{output}");
    assert!(output.contains("handshake failure"), "{output}");
}

#[test]
fn every_reason_is_in_the_list() {
    let errors = [
        AcceptError::Timeout,
        AcceptError::NoSharedVersion,
        AcceptError::BadCertificate,
        AcceptError::Distrusted,
        AcceptError::Closed,
        AcceptError::Other(std::io::Error::other("x")),
    ];
    let mut reasons: Vec<_> = errors.iter().map(AcceptError::reason).collect();
    reasons.insert(1, "not_tls");
    assert_eq!(reasons, AcceptError::REASONS);
}

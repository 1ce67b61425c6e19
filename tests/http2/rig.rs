//! A client that sends any frames (RFC 9113 section 4).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::support::{Exchange, SOON, Site, echo, free_port};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const ACK: u8 = 1;

/// A site that serves HTTP/2, too.
pub(super) struct Server {
    pub(super) site: Site,
    port: u16,
    roots: RootCertStore,
    _folder: TempDir,
}

impl Server {
    /// Its pods and services answer with this many bytes, tunnels echo.
    pub(super) fn start(toml: &str, body: usize) -> Self {
        let answer = vec![b'x'; body];
        Self::answering(toml, move |exchange| {
            if exchange.header("upgrade").is_some() {
                echo(exchange);
            } else if exchange.body().is_ok() {
                exchange.answer("200 OK", "", &answer);
            }
        })
    }

    /// Its pods and services do this.
    pub(super) fn answering(
        toml: &str,
        handler: impl Fn(&mut Exchange) + Send + Sync + 'static,
    ) -> Self {
        let signed = generate_simple_self_signed(vec!["desk.example".to_owned()]).unwrap();
        let folder = TempDir::new().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::write(&certificate, signed.cert.pem()).unwrap();
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(signed.cert.der().clone()).unwrap();
        let port = free_port();
        let mut config: toml::Table = toml.parse().unwrap();
        let listen = config.entry("listen").or_insert_with(|| toml::Table::new().into());
        let listen = listen.as_table_mut().unwrap();
        listen.insert("https".to_owned(), vec![format!("127.0.0.1:{port}")].into());
        let files = format!("[{{ certificate = {certificate:?}, key = {key:?} }}]");
        let text = format!("{config}\n[tls]\ncertificates = {files}\n");
        let site = Site::configured_serving(&text, handler);
        Self { site, port, roots, _folder: folder }
    }

    /// A connection over which nothing was sent yet.
    pub(super) fn silent(&self) -> Connection {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("desk.example").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(SOON)).unwrap();
        tcp.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        Connection { tls: StreamOwned::new(tls, tcp) }
    }

    /// A connection with these settings.
    pub(super) fn connect(&self, settings: &[(u16, u32)]) -> Connection {
        let mut connection = self.silent();
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let first = frame(SETTINGS, 0, 0, &payload);
        connection
            .tls
            .write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &first].concat())
            .unwrap();
        connection
    }

    /// Others are served as if nothing were: on connections of their own, and in a tunnel.
    pub(super) fn serves_others(&self) {
        assert_eq!(self.site.get("/API/other", "").status, 200);
        let mut connection = self.connect(&[]);
        connection.send(&request(1, "/healthz", END_STREAM));
        assert_eq!(connection.status(1), Some(200));
        let mut socket = self.site.websocket(&Site::screen());
        socket.send("x".into()).unwrap();
        assert_eq!(socket.read().unwrap(), "x".into());
    }
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM, or of a GOAWAY.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(super) struct Connection {
    tls: StreamOwned<ClientConnection, TcpStream>,
}

impl Connection {
    /// Sends bytes; false if nobody takes them.
    pub(super) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.tls.write_all(bytes).is_ok() && self.tls.flush().is_ok()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes), "not taken");
    }

    /// The next frame; none at the end of the connection.
    pub(super) fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn read(&mut self, into: &mut [u8]) -> Option<()> {
        match self.tls.read_exact(into) {
            Ok(()) => Some(()),
            Err(error) => {
                let waits = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                assert!(!waits, "the connection neither speaks nor ends");
                None
            }
        }
    }

    /// Reads to the frame that is looked for; none if the connection ends before.
    pub(super) fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.frame()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The status of the response on a stream; none if it is reset or the connection ends. Statuses
    /// of HPACK's static table only (RFC 7541 appendix A), or spelt out.
    pub(super) fn status(&mut self, stream: u32) -> Option<u16> {
        let first = self
            .find(|frame| frame.stream == stream && [HEADERS, RST_STREAM].contains(&frame.kind))?;
        if first.kind == RST_STREAM {
            return None;
        }
        Some(match first.payload[0] {
            0x88 => 200,
            0x89 => 204,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            _ => 0,
        })
    }

    /// Reads to the end of the connection; returns the code of the last GOAWAY.
    pub(super) fn ending(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

/// A frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header line, spelt out (RFC 7541 section 6.2.2). `how`: 0 leaves the table alone, 0x40 adds to it.
pub(super) fn literal(how: u8, name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![how];
    for text in [name, value] {
        // Lengths from 127 on continue in groups of seven bits (RFC 7541 section 5.1).
        match text.len() {
            length @ 0..127 => out.push(u8::try_from(length).unwrap()),
            length => {
                out.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    out.push(u8::try_from(rest % 128 + 128).unwrap());
                    rest /= 128;
                }
                out.push(u8::try_from(rest).unwrap());
            }
        }
        out.extend(text.bytes());
    }
    out
}

/// The header block of a request.
pub(super) fn block(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "https"), (":authority", "desk.example"), (":path", path)]
        .map(|(name, value)| literal(0, name, value))
        .concat()
}

/// A request in one frame.
pub(super) fn request(stream: u32, path: &str, flags: u8) -> Vec<u8> {
    let method = if flags & END_STREAM == 0 { "POST" } else { "GET" };
    frame(HEADERS, flags | END_HEADERS, stream, &block(method, path))
}

//! From a TCP connection to a TLS stream: one handshake, within limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{Certificates, Description};
use super::client_auth::ClientAuth;
use super::error::{AcceptError, SettingsError};
use super::provider::provider;

/// Most bytes that wait in a connection for a client that takes nothing, and that go to the system at
/// once: four records. More makes nothing faster.
const SEND_BUFFER: usize = 64 * 1024;

/// Tickets for a new session of TLS 1.3: a browser opens several connections and uses each once.
const TICKETS: usize = 2;

/// First byte of a TLS connection: a record of type handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// What holds for every connection of an [`Acceptor`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Protocols for ALPN (RFC 7301), the most wanted first. A client that offers only others is
    /// refused; one that offers none is not.
    pub alpn: Vec<String>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// Longest time for the whole handshake, the first byte included.
    pub handshake_timeout: Duration,
    /// Longest wait for the client's first byte.
    pub first_byte_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
            client_auth: ClientAuth::Off,
            handshake_timeout: Duration::from_secs(15),
            first_byte_timeout: Duration::from_secs(10),
        }
    }
}

/// Accepts TLS 1.2 and 1.3. Clones share one state, so a swap reaches all of them.
///
/// Sessions are resumed by tickets only; their keys are made at random, change every six hours and
/// are never stored, so the server keeps nothing for a session. Early data (0-RTT) is not
/// accepted: it could be replayed.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    current: ArcSwap<Current>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    handshake_timeout: Duration,
    first_byte_timeout: Duration,
}

struct Current {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl Acceptor {
    /// An acceptor with new ticket keys.
    ///
    /// # Errors
    ///
    /// If the cryptographic library fails; no setting does.
    pub fn new(certificates: Certificates, settings: Settings) -> Result<Self, SettingsError> {
        let provider = provider();
        let verifier = settings.client_auth.verifier(&provider)?;
        let certificates = Arc::new(certificates);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_client_cert_verifier(
                verifier.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth),
            )
            .with_cert_resolver(Arc::clone(&certificates) as _);
        config.alpn_protocols = settings.alpn.into_iter().map(String::into_bytes).collect();
        // All of ours are sound; scanners ask that a server has an order.
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new()?;
        config.send_tls13_tickets = TICKETS;
        config.max_early_data_size = 0;
        Ok(Self(Arc::new(Shared {
            current: ArcSwap::from_pointee(Current { config: Arc::new(config), certificates }),
            verifier,
            handshake_timeout: settings.handshake_timeout,
            first_byte_timeout: settings.first_byte_timeout,
        })))
    }

    /// Handshakes that begin from now on use `certificates`; connections that exist live on.
    ///
    /// Tickets stay good: the same keys, the same rules for clients. A resumed session shows no
    /// certificate, and rustls resumes only under the server name that the session began with.
    pub fn swap(&self, certificates: Certificates) {
        let certificates = Arc::new(certificates);
        self.0.current.rcu(|current| {
            let mut config = ServerConfig::clone(&current.config);
            config.cert_resolver = Arc::clone(&certificates) as _;
            Current { config: Arc::new(config), certificates: Arc::clone(&certificates) }
        });
    }

    /// The certificates in use.
    #[must_use]
    pub fn describe(&self) -> Vec<Description> {
        self.0.current.load().certificates.describe().to_vec()
    }

    /// Does the handshake. Dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// Says why there is no TLS connection; the client was sent an alert where it can read one.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, AcceptError> {
        let start = Instant::now();
        let end = start + self.0.handshake_timeout;
        let first = end.min(start + self.0.first_byte_timeout);
        let mut byte = [0];
        match timeout_at(first, stream.peek(&mut byte)).await {
            Err(_) => return Err(AcceptError::Timeout),
            Ok(Ok(0)) => return Err(AcceptError::Closed),
            Ok(Ok(_)) if byte == [HANDSHAKE] => {}
            Ok(Ok(_)) => return Err(AcceptError::NotTls(stream)),
            Ok(Err(error)) => return Err(error.into()),
        }
        // Nothing of the configuration is held while the client is silent.
        let config = Arc::clone(&self.0.current.load().config);
        let handshake = TlsAcceptor::from(config)
            .accept_with(stream, |connection| connection.set_buffer_limit(Some(SEND_BUFFER)));
        // In a box: it is large, and only needed until the stream is there.
        let handshake = timeout_at(end, Box::pin(handshake));
        let stream = handshake.await.map_err(|_| AcceptError::Timeout)??;
        self.check_resumed(stream.get_ref().1)?;
        Ok(stream)
    }

    /// Judges the client's certificate again when a ticket stood in for it: rustls does not, and
    /// a certificate may end before the ticket.
    fn check_resumed(&self, connection: &ServerConnection) -> Result<(), AcceptError> {
        let Some(verifier) = &self.0.verifier else { return Ok(()) };
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let now = self.0.current.load().config.time_provider.current_time();
        match (connection.peer_certificates(), now) {
            (Some([leaf, issuers @ ..]), Some(now)) => verifier
                .verify_client_cert(leaf, issuers, now)
                .map(|_| ())
                .map_err(|_| AcceptError::BadCertificate),
            (None | Some([]), _) if !verifier.client_auth_mandatory() => Ok(()),
            _ => Err(AcceptError::BadCertificate),
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("certificates", &self.0.current.load().certificates)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

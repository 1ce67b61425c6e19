//! Certificates, clients and connections for the tests of this room.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsConnector, client};

use super::*;

/// The tests' present for everything but handshakes, in Unix seconds.
pub(super) const NOW: u64 = 1_700_000_000;

/// An issuer of certificates.
pub(super) struct Ca {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) chain: String,
    pub(super) key: String,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, &KeyPair::generate().unwrap(), |_| ())
    }

    pub(super) fn issue_with(
        &self,
        names: &[&str],
        key: &KeyPair,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        adjust(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }

    pub(super) fn roots(&self) -> ClientRoots {
        ClientRoots::parse(PemFile { name: "ca.pem", pem: self.pem.as_bytes() }).unwrap()
    }

    /// A client that trusts this issuer.
    pub(super) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(versions, None)
    }

    /// A client that trusts this issuer and has a certificate.
    pub(super) fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Pair>,
    ) -> ClientConfig {
        self.client_of(versions, identity, &provider::provider().kx_groups)
    }

    /// A client that knows these groups only, and sends a share for the first.
    pub(super) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Pair>,
        groups: &[&'static dyn SupportedKxGroup],
    ) -> ClientConfig {
        let crypto = (*provider::provider()).clone();
        let crypto = CryptoProvider { kx_groups: groups.to_vec(), ..crypto };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }
}

pub(super) fn parse(pairs: &[&Pair]) -> Result<Certificates, CertificateError> {
    let sources: Vec<_> = pairs
        .iter()
        .map(|pair| Source {
            chain: PemFile { name: "tls.crt", pem: pair.chain.as_bytes() },
            key: PemFile { name: "tls.key", pem: pair.key.as_bytes() },
        })
        .collect();
    Certificates::parse(&sources, NOW)
}

/// An acceptor of these certificates.
pub(super) fn acceptor(pairs: &[&Pair], settings: Settings) -> Acceptor {
    Acceptor::new(parse(pairs).unwrap(), settings).unwrap()
}

/// A connected pair of sockets: client's end, server's end.
pub(super) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

pub(super) type Ends = (client::TlsStream<TcpStream>, TlsStream<TcpStream>);

/// One handshake; then each side has received one byte, so that tickets have arrived.
pub(super) async fn connect(
    acceptor: &Acceptor,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Result<Ends, AcceptError> {
    let (client, server) = sockets().await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    let mut server = server?;
    let mut client = client.unwrap();
    server.write_all(b"s").await.unwrap();
    server.flush().await.unwrap();
    client.write_all(b"c").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b's');
    assert_eq!(server.read_u8().await.unwrap(), b'c');
    Ok((client, server))
}

/// The certificate that the client was shown.
pub(super) fn shown(ends: &Ends) -> Vec<u8> {
    ends.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The certificate of a pair, in DER.
pub(super) fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap().to_vec()
}

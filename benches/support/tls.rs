//! The certificate of all proxies, and how clients speak TLS with them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use super::{HOST, Outcome};

/// Makes an ECDSA P-256 certificate: `certificate.pem`, `key.pem`, and `both.pem` for HAProxy.
pub(crate) fn write_certificate(dir: &Path) -> Outcome<CertificateDer<'static>> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(dir.join("certificate.pem"), &certificate)?;
    fs::write(dir.join("key.pem"), &key)?;
    fs::write(dir.join("both.pem"), certificate + &key)?;
    Ok(made.cert.der().clone())
}

/// What clients speak TLS with: one version and one cipher, so that every proxy does the same work.
/// Browsers choose these, too.
pub(crate) fn connector(
    root: CertificateDer<'static>,
    resumption: Resumption,
) -> Outcome<TlsConnector> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut roots = RootCertStore::empty();
    roots.add(root)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = resumption;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

//! Certificates of clients: whether they are asked for one, and who may have issued it.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::error::{CertificateError, CertificateFault, SettingsError};
use super::pem_file::{self, PemFile};

/// Whether clients show a certificate.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked, and may have none. One that does not verify ends the handshake.
    Optional(ClientRoots),
    /// Without one that verifies there is no connection.
    Required(ClientRoots),
}

/// The issuers whose client certificates are accepted. Revocation lists are not consulted.
#[derive(Clone)]
pub struct ClientRoots(Arc<RootCertStore>);

impl ClientRoots {
    /// Parses a bundle of issuers' certificates.
    ///
    /// # Errors
    ///
    /// Says which file is unusable, and why; one unusable certificate is enough.
    pub fn parse(file: PemFile<'_>) -> Result<Self, CertificateError> {
        let unusable = |fault| CertificateError::Unusable { file: file.name.to_owned(), fault };
        let mut roots = RootCertStore::empty();
        for (at, issuer) in pem_file::certificates(file).map_err(unusable)?.into_iter().enumerate()
        {
            let fault = |_| unusable(CertificateFault::InvalidCertificate(at + 1));
            roots.add(issuer).map_err(fault)?;
        }
        Ok(Self(Arc::new(roots)))
    }
}

impl fmt::Debug for ClientRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRoots").field("issuers", &self.0.len()).finish()
    }
}

impl ClientAuth {
    /// What judges the clients' certificates; none if they are not asked.
    pub(super) fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, SettingsError> {
        let builder = |roots: &ClientRoots| {
            let (roots, provider) = (Arc::clone(&roots.0), Arc::clone(provider));
            WebPkiClientVerifier::builder_with_provider(roots, provider)
        };
        let builder = match self {
            Self::Off => return Ok(None),
            Self::Optional(roots) => builder(roots).allow_unauthenticated(),
            Self::Required(roots) => builder(roots),
        };
        let verifier =
            builder.build().map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Some(verifier))
    }
}

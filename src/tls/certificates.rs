//! The server's certificates: which there are, and which one a client gets.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{CertificateError, CertificateFault};
use super::pem_file::{self, PemFile};

/// A certificate this close to its end deserves a warning.
const ENDS_SOON: u64 = 7 * 24 * 60 * 60;

/// The files of one certificate; both may be the same file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The server's certificate, then its issuers, without the root.
    pub chain: PemFile<'a>,
    /// The private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PemFile<'a>,
}

/// Certificates with their keys, and the choice among them by server name.
///
/// The choice (RFC 6066 section 3, RFC 6125 section 6.4): a certificate with exactly the name,
/// then one with a wildcard for its first label, then the first of all. Of several with the same
/// name, the first whose key the client can verify: ECDSA and RSA may stand side by side.
///
/// No certificate is refused for its dates. One that has expired makes browsers warn, its absence
/// would take the whole listener down, and a clock may simply be wrong: see
/// [`warnings`](Self::warnings).
#[derive(Clone)]
pub struct Certificates {
    default: Arc<CertifiedKey>,
    exact: Names,
    /// By what follows `*.`.
    wildcard: Names,
    descriptions: Vec<Description>,
}

type Names = HashMap<String, Vec<Arc<CertifiedKey>>>;

/// What may be told about a certificate. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The file it came from.
    pub file: String,
    /// Subject alternative names, DNS names in lower case, then addresses as text.
    pub names: Vec<String>,
    /// Start of its validity.
    pub not_before: u64,
    /// End of its validity.
    pub not_after: u64,
    /// SHA-256 of the certificate in DER, in hex.
    pub fingerprint: String,
    /// When it was loaded.
    pub loaded: u64,
}

impl Description {
    /// How long it has been in use at `now`, in Unix seconds.
    #[must_use]
    pub fn age(&self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.loaded))
    }
}

impl Certificates {
    /// Parses certificates and keys; the first one is for clients that send no or an unknown name.
    /// `now` is in Unix seconds.
    ///
    /// # Errors
    ///
    /// Says which file is unusable, and why; see [`CertificateFault`].
    pub fn parse(sources: &[Source<'_>], now: u64) -> Result<Self, CertificateError> {
        let (first, rest) = sources.split_first().ok_or(CertificateError::NoFile)?;
        let (default, description) = load(first, now)?;
        let mut certificates = Self {
            default: Arc::clone(&default),
            exact: Names::new(),
            wildcard: Names::new(),
            descriptions: Vec::with_capacity(sources.len()),
        };
        certificates.add(&default, description);
        for source in rest {
            let (key, description) = load(source, now)?;
            certificates.add(&key, description);
        }
        Ok(certificates)
    }

    fn add(&mut self, key: &Arc<CertifiedKey>, description: Description) {
        for name in &description.names {
            let (names, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            names.entry(name.to_owned()).or_default().push(Arc::clone(key));
        }
        self.descriptions.push(description);
    }

    /// One description per certificate, in the order of the files.
    #[must_use]
    pub fn describe(&self) -> &[Description] {
        &self.descriptions
    }

    /// What an operator should know although it stops nothing: one line for each certificate that
    /// is not valid at `now`, ends within a week, or has no name. `now` is in Unix seconds.
    #[must_use]
    pub fn warnings(&self, now: u64) -> Vec<String> {
        let mut warnings = Vec::new();
        for Description { file, names, not_before, not_after, .. } in &self.descriptions {
            if *not_after < now {
                let days = (now - not_after) / 86_400;
                warnings.push(format!("{file}: the certificate expired {days} days ago"));
            } else if *not_after < now.saturating_add(ENDS_SOON) {
                let hours = (not_after - now) / 3_600;
                warnings.push(format!("{file}: the certificate expires in {hours} hours"));
            }
            if *not_before > now {
                let hours = (not_before - now) / 3_600;
                warnings.push(format!("{file}: the certificate becomes valid in {hours} hours"));
            }
            if names.is_empty() {
                let line = "the certificate has no subject alternative name; browsers refuse it";
                warnings.push(format!("{file}: {line}"));
            }
        }
        warnings
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        let name = name.map(str::to_ascii_lowercase);
        let named = name.as_deref().and_then(|name| {
            let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
            self.exact.get(name).or_else(parent)
        });
        let Some(keys) = named else { return &self.default };
        keys.iter()
            .find(|candidate| candidate.key.choose_scheme(schemes).is_some())
            .or_else(|| keys.first())
            .unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.choose(hello.server_name(), hello.signature_schemes())))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.descriptions).finish()
    }
}

fn load(
    source: &Source<'_>,
    now: u64,
) -> Result<(Arc<CertifiedKey>, Description), CertificateError> {
    let of = |file: PemFile<'_>| {
        let file = file.name.to_owned();
        move |fault| CertificateError::Unusable { file, fault }
    };
    let chain = pem_file::certificates(source.chain).map_err(of(source.chain))?;
    let mut description = None;
    for (at, certificate) in chain.iter().enumerate() {
        let described = describe(certificate, source.chain.name, now)
            .ok_or(CertificateFault::InvalidCertificate(at + 1))
            .map_err(of(source.chain))?;
        description.get_or_insert(described);
    }
    let description =
        description.ok_or(CertificateFault::NoCertificate).map_err(of(source.chain))?;

    let key = pem_file::private_key(source.key).map_err(of(source.key))?;
    let key = any_supported_type(&key.der())
        .map_err(|_| CertificateFault::InvalidKey)
        .map_err(of(source.key))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok((Arc::new(certified), description)),
        Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let chain = source.chain.name.to_owned();
            Err(of(source.key)(CertificateFault::Mismatch { chain }))
        }
        Err(_) => Err(of(source.chain)(CertificateFault::InvalidCertificate(1))),
    }
}

/// What is told about a certificate; none if this is no X.509 certificate.
pub(crate) fn describe(der: &[u8], file: &str, loaded: u64) -> Option<Description> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    if let Some(alternative) = certificate.subject_alternative_name().ok()? {
        for name in &alternative.value.general_names {
            #[expect(clippy::wildcard_enum_match_arm, reason = "only these two name a server")]
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(octets) => addresses.extend(address(octets)),
                _ => {}
            }
        }
    }
    names.append(&mut addresses);
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = certificate.validity();
    Some(Description {
        file: file.to_owned(),
        names,
        not_before: seconds(validity.not_before.timestamp()),
        not_after: seconds(validity.not_after.timestamp()),
        fingerprint: hex(digest(&SHA256, der).as_ref()),
        loaded,
    })
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = || <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).to_string());
    v4.or_else(|_| v6()).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;

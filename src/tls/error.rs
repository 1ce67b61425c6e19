//! Why a certificate file is refused, and why a handshake failed.
//!
//! May name files, never anything of a private key or a client's address.

use std::io;

use rustls::{AlertDescription, PeerIncompatible};
use tokio::net::TcpStream;

/// Why certificates cannot be used. Shown at start and reload, so it names the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No file was given.
    #[error("no certificate is configured")]
    NoFile,
    /// One file is unusable.
    #[error("{file}: {fault}")]
    Unusable {
        /// The file.
        file: String,
        /// What is wrong with it.
        fault: CertificateFault,
    },
}

/// What is wrong with a certificate or key file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// No bytes, or white space only.
    #[error("the file is empty")]
    Empty,
    /// No readable PEM block (RFC 7468), or one that is cut off.
    #[error("not PEM: expected -----BEGIN … and its matching end around base64")]
    Garbled,
    /// No certificate among the blocks.
    #[error("there is no certificate in it: expected a CERTIFICATE block")]
    NoCertificate,
    /// No private key among the blocks.
    #[error(
        "there is no private key in it: expected a PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY block"
    )]
    NoKey,
    /// Which of the keys belongs to the certificate is not guessed.
    #[error("expected one private key, found several")]
    SeveralKeys,
    /// Protected by a passphrase.
    #[error(
        "this private key is encrypted, and there is no passphrase for it: decrypt it with openssl pkey"
    )]
    EncryptedKey,
    /// Neither RSA, ECDSA nor Ed25519, or damaged.
    #[error(
        "the private key cannot be used: expected RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519"
    )]
    InvalidKey,
    /// A block labelled as a certificate is none that can be used.
    #[error("block {0} does not hold a sound X.509 version 3 certificate")]
    InvalidCertificate(
        /// Counted from 1, certificates only.
        usize,
    ),
    /// The certificate was made for another key.
    #[error(
        "the private key does not belong to the first certificate of {chain}; the server's own certificate comes first, its issuers after it"
    )]
    Mismatch {
        /// The file with the certificate.
        chain: String,
    },
}

/// Why settings cannot be used; possible only if the cryptographic library has a fault.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct SettingsError(#[from] pub(super) rustls::Error);

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client was silent or slow.
    #[error("the client did not finish the TLS handshake in time")]
    Timeout,
    /// The first byte begins no handshake: most often plain HTTP. Nothing was taken from the
    /// stream, so that the caller can still answer.
    #[error("the client does not speak TLS")]
    NotTls(TcpStream),
    /// The client knows neither TLS 1.2 nor 1.3.
    #[error("the client offers no version of TLS from 1.2 on")]
    NoSharedVersion,
    /// The client's certificate is missing or not accepted.
    #[error("the client's certificate is missing or was not accepted")]
    BadCertificate,
    /// The client does not accept our certificate.
    #[error("the client does not trust the server's certificate")]
    Distrusted,
    /// The client went away.
    #[error("the client closed the connection during the TLS handshake")]
    Closed,
    /// Anything else, such as no common cipher suite or a broken message.
    #[error("the TLS handshake failed")]
    Other(#[source] io::Error),
}

impl AcceptError {
    /// Every value of [`reason`](Self::reason).
    pub const REASONS: [&'static str; 7] = [
        "timeout",
        "not_tls",
        "no_shared_version",
        "bad_certificate",
        "distrusted",
        "closed",
        "other",
    ];

    /// A short name, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::NotTls(_) => "not_tls",
            Self::NoSharedVersion => "no_shared_version",
            Self::BadCertificate => "bad_certificate",
            Self::Distrusted => "distrusted",
            Self::Closed => "closed",
            Self::Other(_) => "other",
        }
    }
}

impl From<io::Error> for AcceptError {
    fn from(error: io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return from_tls(tls).unwrap_or(Self::Other(error));
        }
        let gone = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        );
        if gone { Self::Closed } else { Self::Other(error) }
    }
}

fn from_tls(error: &rustls::Error) -> Option<AcceptError> {
    use PeerIncompatible as Incompatible;
    use rustls::Error;
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls may add errors at any time")]
    match error {
        Error::PeerIncompatible(
            // The extension came with TLS 1.2, and rustls misses it before it looks at the version.
            Incompatible::SignatureAlgorithmsExtensionRequired
            | Incompatible::Tls12NotOffered
            | Incompatible::Tls12NotOfferedOrEnabled
            | Incompatible::SupportedVersionsExtensionRequired,
        ) => Some(AcceptError::NoSharedVersion),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            Some(AcceptError::NoSharedVersion)
        }
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
            Some(AcceptError::BadCertificate)
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => Some(AcceptError::Distrusted),
        // Browsers say so when a tab is closed in the middle.
        Error::AlertReceived(AlertDescription::UserCanceled | AlertDescription::CloseNotify) => {
            Some(AcceptError::Closed)
        }
        _ => None,
    }
}

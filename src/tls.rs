//! TLS towards clients: from an accepted TCP connection to a stream of plain bytes.
//!
//! Takes bytes of PEM files, never paths: what is read when is the caller's business. [`Acceptor`]
//! does one handshake per call within limits, and its certificates can be replaced while it runs.
//! The cryptography is aws-lc, given explicitly; the default of the process is never asked.

mod acceptor;
mod certificates;
mod client_auth;
mod error;
mod pem_file;
mod provider;
mod session;

pub(crate) use certificates::describe;

pub use acceptor::{Acceptor, Settings};
pub use certificates::{Certificates, Description, Source};
pub use client_auth::{ClientAuth, ClientRoots};
pub use error::{AcceptError, CertificateError, CertificateFault, SettingsError};
pub use pem_file::PemFile;
pub use session::{ClientCertificate, Session, client_chain};

#[cfg(test)]
mod testing;

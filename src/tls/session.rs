//! What is known about a TLS connection once it stands.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio_rustls::server::TlsStream;

/// What nginx escapes in `$ssl_client_escaped_cert`: all but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Columns of base64 in PEM (RFC 7468 section 2).
const PEM_LINE: usize = 64;

/// What client and server agreed on.
#[derive(Clone, Debug)]
pub struct Session {
    /// `TLSv1.3` or `TLSv1.2`, in nginx's spelling.
    pub version: &'static str,
    /// Cipher suite by its IANA name.
    pub cipher_suite: &'static str,
    /// Group of the key exchange by its IANA name; none for a resumed session of TLS 1.2.
    pub group: Option<&'static str>,
    /// The server name that the client asked for, in lower case.
    pub server_name: Option<String>,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// Whether a ticket spared the full handshake.
    pub resumed: bool,
    /// The client's certificate, verified. For a resumed session, that of the first handshake.
    pub client: Option<ClientCertificate>,
}

impl Session {
    /// Reads it from an accepted connection.
    #[must_use]
    pub fn of<S>(stream: &TlsStream<S>) -> Self {
        let (_, tls) = stream.get_ref();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            version: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher_suite: tls
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .map_or("unknown", iana),
            group: tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            server_name: tls.server_name().map(str::to_owned),
            alpn: tls.alpn_protocol().map(text),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            client: client_chain(stream)
                .first()
                .map(|leaf| ClientCertificate(leaf.as_ref().into())),
        }
    }
}

/// The client's certificates in DER, its own first; empty if it showed none.
#[must_use]
pub fn client_chain<S>(stream: &TlsStream<S>) -> &[CertificateDer<'static>] {
    stream.get_ref().1.peer_certificates().unwrap_or_default()
}

/// A client's own certificate, verified.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate(Box<[u8]>);

impl ClientCertificate {
    /// In DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// In PEM (RFC 7468), with a new line at the end.
    #[must_use]
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.0);
        let mut pem = String::with_capacity(text.len() + text.len() / PEM_LINE + 56);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            // Base64 is ASCII, so that every index is a boundary.
            let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// PEM, URL-encoded exactly as nginx does for `$ssl_client_escaped_cert`: the value of the
    /// header `AbcdesktopUserCert`.
    #[must_use]
    pub fn escaped_pem(&self) -> String {
        utf8_percent_encode(&self.pem(), ESCAPED).to_string()
    }

    /// The value of the header `Client-Cert` (RFC 9440): base64 between colons, on one line.
    #[must_use]
    pub fn byte_sequence(&self) -> String {
        format!(":{}:", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It names a person.
        f.debug_struct("ClientCertificate").field("bytes", &self.0.len()).finish_non_exhaustive()
    }
}

/// rustls writes `TLS13_…` where IANA has `TLS_…`.
fn iana(suite: &'static str) -> &'static str {
    match suite {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}

#[cfg(test)]
mod tests;

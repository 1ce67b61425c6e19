//! The cryptography of every handshake.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, SupportedCipherSuite};

/// More records than a tunnel has in its life: 500 years at 200 a second.
const MANY: u64 = 1 << 41;

/// aws-lc with the hybrid post-quantum group (X25519MLKEM768), so that a recording of today's traffic
/// is of no use to a quantum computer. As a server, rustls takes the first group of the client that
/// is in this list; clients that know the hybrid one name it first. The list is written out because
/// the default depends on the features that other crates turn on.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(with(cipher_suites(ring_is_faster())))
}

fn with(mut cipher_suites: Vec<SupportedCipherSuite>) -> CryptoProvider {
    let kx_groups =
        vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    // The order is the server's: what browsers would choose, and what costs least.
    cipher_suites.sort_by_key(|suite| (wears_out(suite), !is_aes_128(suite.suite())));
    CryptoProvider { kx_groups, cipher_suites, ..default_provider() }
}

/// Everything after the handshake. Both libraries have the same suites.
fn cipher_suites(by_ring: bool) -> Vec<SupportedCipherSuite> {
    if by_ring { ring::ALL_CIPHER_SUITES.to_vec() } else { default_provider().cipher_suites }
}

/// ring (which pingora brings along) encrypts two blocks of AES with one instruction where a processor
/// can, like AMD's Zen 3; aws-lc needs AVX-512 for that and then encrypts four. A record takes two thirds
/// of the time with the one that fits.
fn ring_is_faster() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        has!("vaes") && has!("vpclmulqdq") && has!("avx2") && !has!("avx512bw")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether a key may encrypt so few records that a desktop has them in a day. TLS 1.3 changes the key then; 1.2
/// ends the connection (RFC 9325 section 4.4).
fn wears_out(suite: &SupportedCipherSuite) -> bool {
    match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit < MANY,
        SupportedCipherSuite::Tls13(_) => false,
    }
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::testing::Ca;
    use super::*;

    /// The suites of one library whose certificate is an ECDSA one, or any.
    fn of(by_ring: bool) -> Vec<SupportedCipherSuite> {
        let mut suites = cipher_suites(by_ring);
        suites.retain(|suite| !suite.suite().as_str().unwrap().contains("_RSA_"));
        suites
    }

    /// Carries a megabyte each way.
    async fn carry(server: CryptoProvider, client: CryptoProvider) {
        let ca = Ca::new("issuer");
        let pair = ca.issue(&["localhost"]);
        let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(server))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(client))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = duplex(1 << 14);
        let connector = TlsConnector::from(Arc::new(client));
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let name = "localhost".try_into().unwrap();
        let (near, far) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let payload: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut client_from, mut client_to) = tokio::io::split(near.unwrap());
        let (mut server_from, mut server_to) = tokio::io::split(far.unwrap());
        let (mut at_client, mut at_server) = (vec![0; payload.len()], vec![0; payload.len()]);
        let say = async |to: &mut (dyn tokio::io::AsyncWrite + Unpin)| {
            to.write_all(&payload).await.unwrap();
            to.flush().await.unwrap();
        };
        tokio::join!(
            say(&mut client_to),
            say(&mut server_to),
            async {
                client_from.read_exact(&mut at_client).await.unwrap();
            },
            async {
                server_from.read_exact(&mut at_server).await.unwrap();
            }
        );
        assert!(at_client == payload && at_server == payload);
    }

    #[test]
    fn keys_that_wear_out_are_the_last_choice() {
        for by_ring in [true, false] {
            let CryptoProvider { cipher_suites, .. } = with(cipher_suites(by_ring));
            let names: Vec<_> = cipher_suites.iter().map(|suite| suite.suite()).collect();
            assert_eq!(names[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
            let at = |name| names.iter().position(|other| *other == name).unwrap();
            let lasting = at(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
            assert!(lasting < at(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256));
            assert!(lasting < at(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384));
        }
    }

    #[tokio::test]
    async fn either_library_understands_the_other_in_every_suite() {
        let names = |suites: &[SupportedCipherSuite]| {
            let mut names: Vec<_> = suites.iter().map(SupportedCipherSuite::suite).collect();
            names.sort_by_key(|name| u16::from(*name));
            names
        };
        assert_eq!(names(&cipher_suites(true)), names(&cipher_suites(false)));
        for by_ring in [true, false] {
            assert_eq!(of(by_ring).len(), 6);
            for suite in of(by_ring) {
                carry(with(vec![suite]), with(of(!by_ring))).await;
            }
        }
    }
}

//! The cryptography of every handshake.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};

/// aws-lc with the hybrid post-quantum group (X25519MLKEM768), so that a recording of today's traffic
/// is of no use to a quantum computer. As a server, rustls takes the first group of the client that
/// is in this list; clients that know the hybrid one name it first. The list is written out because
/// the default depends on the features that other crates turn on.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let kx_groups =
        vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let mut provider = CryptoProvider { kx_groups, ..default_provider() };
    // The order is the server's: what browsers would choose, and what costs least.
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    Arc::new(provider)
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

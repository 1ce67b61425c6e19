//! Networks that would never match.

use ipnet::IpNet;

/// Whether this is a network of IPv4-mapped addresses (RFC 4291 section 2.5.5.2). Such addresses are judged as
/// IPv4, so nothing is ever in it.
#[must_use]
pub fn is_mapped(network: &IpNet) -> bool {
    match network {
        IpNet::V4(_) => false,
        IpNet::V6(network) => {
            network.prefix_len() >= 96 && network.network().to_ipv4_mapped().is_some()
        }
    }
}

//! What is written of clients' addresses: all, a network, or a name that only we can make.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

use crate::config::Addresses;

/// What stays of an address: the network of an office or a household, not a person's.
const V4_BITS: u32 = 24;
const V6_BITS: u32 = 48;

/// Bytes of a hash that are written: as many as a token's fingerprint has.
const NAME: usize = 6;

static PRIVACY: OnceLock<Privacy> = OnceLock::new();

/// How addresses are told.
#[derive(Debug)]
enum Privacy {
    Full,
    Truncated,
    Hashed(Box<Key>),
}

/// Decides how addresses are told from now on. A second decision in one process keeps the first.
pub(super) fn start(addresses: Addresses) {
    let privacy = match addresses {
        Addresses::Full => Privacy::Full,
        Addresses::Truncated => Privacy::Truncated,
        Addresses::Hashed => {
            let random = aws_lc_rs::rand::SystemRandom::new();
            // A system without random numbers gets the next best.
            let key = Key::generate(HMAC_SHA256, &random);
            key.map_or(Privacy::Truncated, |key| Privacy::Hashed(Box::new(key)))
        }
    };
    drop(PRIVACY.set(privacy));
}

/// An address as text: what its `Display` writes, without the machinery for widths, which costs several
/// times as much and stands in every request.
#[must_use]
pub fn plain(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity(15);
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
            if octet >= least {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

/// An address as it may be written.
#[must_use]
pub fn told(address: IpAddr) -> String {
    PRIVACY.get().map_or_else(|| plain(address), |privacy| privacy.tell(address))
}

impl Privacy {
    fn tell(&self, address: IpAddr) -> String {
        match (self, address) {
            (Self::Full, _) => plain(address),
            (Self::Truncated, IpAddr::V4(address)) => {
                Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - V4_BITS))).to_string()
            }
            (Self::Truncated, IpAddr::V6(address)) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - V6_BITS))).to_string()
            }
            (Self::Hashed(key), _) => {
                let tag = sign(key, address.to_string().as_bytes());
                tag.as_ref().iter().take(NAME).map(|byte| format!("{byte:02x}")).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(privacy: &Privacy, address: &str) -> String {
        privacy.tell(address.parse().unwrap())
    }

    #[test]
    fn a_network_is_what_stays() {
        for (address, want) in
            [("203.0.113.77", "203.0.113.0"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1::")]
        {
            assert_eq!(told(&Privacy::Truncated, address), want);
            assert_eq!(told(&Privacy::Full, address), address);
        }
    }

    #[test]
    fn a_name_is_the_same_for_one_key_and_another_for_another() {
        let key = |bytes: &[u8]| Privacy::Hashed(Box::new(Key::new(HMAC_SHA256, bytes)));
        let (one, two) = (key(b"one"), key(b"two"));
        let name = told(&one, "203.0.113.77");
        assert_eq!(name.len(), 12);
        assert_eq!(name, told(&one, "203.0.113.77"));
        assert_ne!(name, told(&one, "203.0.113.78"));
        assert_ne!(name, told(&two, "203.0.113.77"));
    }

    #[test]
    fn an_address_is_written_as_by_anybody() {
        for octet in 0..=255 {
            let address = IpAddr::from([octet, 0, 255 - octet, 10]);
            assert_eq!(plain(address), address.to_string());
        }
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(plain(address), "2001:db8::1");
    }
}

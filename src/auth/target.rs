//! Confines an opened text to a [`Target`]: a name in the desktop domain, or a permitted address.
//!
//! May assume nothing about the text. An authentic token proves who wrote it, not that it is a
//! host; and below 2048 bits a wrong payload key opens to random bytes.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Error;
use crate::config::is_mapped;

/// Longest text looked at: a DNS name of 253 characters and its final dot (RFC 1035 section 3.1).
const MAX_TEXT: usize = 254;

/// The host a desktop token opens; only [`TargetPolicy::confine`] makes one.
///
/// `Debug` does not show it, since a pod's address is what the seal protects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A name directly below the desktop domain.
    Name(DesktopName),
    /// An address inside a permitted network.
    Address(DesktopAddress),
}

impl Target {
    /// A name for this target in logs, metrics and the admin interface: 12 hexadecimal digits that
    /// mean nothing outside this process.
    #[must_use]
    pub fn label(&self) -> String {
        static SALT: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        format!("{:012x}", SALT.hash_one(self) >> 16)
    }

    /// The name, if this target is one.
    #[must_use]
    pub fn name(&self) -> Option<&DesktopName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }

    /// The address, if this target is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Address(address) => Some(address.ip()),
        }
    }
}

/// A fully qualified name below the desktop domain, in lower case, without a final dot.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DesktopName(Box<str>);

impl DesktopName {
    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first label: the pod's name.
    #[must_use]
    pub fn label(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl fmt::Debug for DesktopName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An address inside a permitted network; IPv4-mapped ones are IPv4 here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DesktopAddress(IpAddr);

impl DesktopAddress {
    /// The address itself.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.0
    }
}

impl fmt::Debug for DesktopAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which hosts a token may name.
#[derive(Clone, Debug)]
pub struct TargetPolicy {
    /// Lower case, without dots at either end.
    domain: Option<Box<str>>,
    networks: Vec<IpNet>,
}

impl TargetPolicy {
    /// Permits names of exactly one label below `domain`
    /// (`desktop.<namespace>.svc.cluster.local`), and addresses inside `networks`.
    ///
    /// # Errors
    ///
    /// A domain that is no domain name, an IPv4-mapped network, or no permission at all.
    pub fn new(domain: Option<&str>, networks: Vec<IpNet>) -> Result<Self, PolicyError> {
        let domain = domain.map(parse_domain).transpose()?;
        if domain.is_none() && networks.is_empty() {
            return Err(PolicyError::Nothing);
        }
        if let Some(mapped) = networks.iter().find(|network| is_mapped(network)) {
            return Err(PolicyError::Mapped(*mapped));
        }
        Ok(Self { domain, networks })
    }

    /// Reads the opened text of a seal as a host this policy permits.
    ///
    /// A host and nothing else: the nginx/Lua incumbent pasted the text into a URL, where a port
    /// or a path took effect. IPv6 is accepted with and without brackets; pyos writes it without.
    ///
    /// # Errors
    ///
    /// [`Error::OutsidePolicy`] for everything else.
    pub fn confine(&self, text: &[u8]) -> Result<Target, Error> {
        let text = std::str::from_utf8(text).map_err(|_| Error::OutsidePolicy)?;
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(Error::OutsidePolicy);
        }
        if let Some(address) = parse_address(text) {
            return self
                .permits(address)
                .then_some(Target::Address(DesktopAddress(address)))
                .ok_or(Error::OutsidePolicy);
        }
        self.confine_name(text).map(Target::Name).ok_or(Error::OutsidePolicy)
    }

    /// One label, a dot, the domain. The domain cannot end in a number, so neither can the name:
    /// `127.1` and `2130706433`, which resolvers read as addresses, are out.
    fn confine_name(&self, text: &str) -> Option<DesktopName> {
        let domain = self.domain.as_deref()?;
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = name.strip_suffix(domain)?.strip_suffix('.')?;
        is_label(label).then(|| DesktopName(name.into_boxed_str()))
    }

    /// Whether a desktop may have this address.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        if NEVER.iter().any(|range| range.contains(&address)) {
            return false;
        }
        let special = SPECIAL.iter().find(|range| range.contains(&address));
        self.networks
            .iter()
            .filter(|network| network.contains(&address))
            // 0.0.0.0/0 must not open the node's own loopback or the cloud's metadata service.
            .any(|network| special.is_none_or(|range| range.contains(network)))
    }
}

/// Why a policy cannot be used. Shown at start, so it names what was configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not a domain name, or one that could be read as an address.
    #[error("\"{0}\" is not a domain name of letters, digits and hyphens that ends in a word")]
    Domain(String),
    /// IPv4-mapped addresses are judged as IPv4, so such a network would never match.
    #[error("{0} is an IPv4-mapped network: write it as IPv4")]
    Mapped(IpNet),
    /// Every token would be refused.
    #[error("neither a desktop domain nor a desktop network is configured")]
    Nothing,
}

/// Never a pod: this network (which Linux connects to loopback), broadcast, multicast, unspecified.
const NEVER: [IpNet; 5] = [
    v4(Ipv4Addr::new(0, 0, 0, 0), 8),
    v4(Ipv4Addr::BROADCAST, 32),
    v4(Ipv4Addr::new(224, 0, 0, 0), 4),
    v6(Ipv6Addr::UNSPECIFIED, 128),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Loopback and link-local: permitted only by a network inside the same range.
const SPECIAL: [IpNet; 4] = [
    v4(Ipv4Addr::new(127, 0, 0, 0), 8),
    v4(Ipv4Addr::new(169, 254, 0, 0), 16),
    v6(Ipv6Addr::LOCALHOST, 128),
    v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
];

const fn v4(address: Ipv4Addr, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, prefix))
}

const fn v6(address: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

/// Strict text forms only: no leading zeros, no zone, no port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => IpAddr::V6(inner.parse().ok()?),
        None => text.parse().ok()?,
    };
    Some(address.to_canonical())
}

fn parse_domain(text: &str) -> Result<Box<str>, PolicyError> {
    let domain = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    // Two characters are left for the shortest label and its dot.
    let fits = domain.len() + 2 < MAX_TEXT;
    let labels = domain.split('.').all(is_label);
    let last = domain.rsplit('.').next().unwrap_or_default();
    let word = last.starts_with(|first: char| first.is_ascii_alphabetic());
    if fits && labels && word {
        Ok(domain.into_boxed_str())
    } else {
        Err(PolicyError::Domain(text.to_owned()))
    }
}

/// A label of a host name (RFC 1123 section 2.1): no dot, no underscore, no hyphen at the ends.
fn is_label(label: &str) -> bool {
    let ends = !label.starts_with('-') && !label.ends_with('-');
    let bytes = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (1..=63).contains(&label.len()) && ends && bytes
}

#[cfg(test)]
mod tests;

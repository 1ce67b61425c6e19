//! Which hosts the policy lets through: names one label below the domain, permitted addresses.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use deskgate_fuzz::auth::{Target, TargetPolicy};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

const DOMAIN: &str = "desktop.abcdesktop.svc.cluster.local";
const NARROW: [&str; 3] = ["10.0.0.0/8", "192.168.7.0/24", "fd00::/8"];
const WIDE: [&str; 2] = ["0.0.0.0/0", "::/0"];

static POLICIES: LazyLock<[(TargetPolicy, Vec<IpNet>); 2]> = LazyLock::new(|| {
    [NARROW.as_slice(), WIDE.as_slice()].map(|networks| {
        let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
        (TargetPolicy::new(Some(DOMAIN), networks.clone()).unwrap(), networks)
    })
});

fuzz_target!(|data: &[u8]| {
    let text = deskgate_fuzz::seed(data);
    for (policy, networks) in POLICIES.iter() {
        let Ok(target) = policy.confine(text) else { continue };
        let text = std::str::from_utf8(text).unwrap();
        assert!(!format!("{target:?}").contains(text), "Debug shows {text}");
        let written = match &target {
            Target::Name(name) => {
                check_name(name.as_str(), name.label(), text);
                name.as_str().to_owned()
            }
            Target::Address(address) => {
                check_address(address.ip(), networks);
                address.ip().to_string()
            }
        };
        assert_eq!(policy.confine(written.as_bytes()), Ok(target), "{text} becomes {written}");
    }
    // Any text may be configured as a domain, too; what is accepted must work.
    if let Ok(domain) = std::str::from_utf8(text)
        && let Ok(policy) = TargetPolicy::new(Some(domain), Vec::new())
    {
        assert!(policy.confine(format!("p.{domain}").as_bytes()).is_ok(), "{domain}");
        assert!(policy.confine(domain.as_bytes()).is_err(), "{domain} itself");
        assert!(policy.confine(b"10.0.0.1").is_err(), "{domain} permits no address");
    }
});

fn check_name(name: &str, label: &str, text: &str) {
    assert_eq!(name, format!("{label}.{DOMAIN}"));
    assert!(text.eq_ignore_ascii_case(name) || text.eq_ignore_ascii_case(&format!("{name}.")));
    let bytes = label.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    assert!((1..=63).contains(&bytes.len()) && bytes.iter().all(inner), "{label}");
    assert!(!label.starts_with('-') && !label.ends_with('-'), "{label}");
}

fn check_address(address: IpAddr, networks: &[IpNet]) {
    assert!(networks.iter().any(|network| network.contains(&address)), "{address}");
    assert!(!address.is_unspecified() && !address.is_loopback(), "{address}");
    assert!(!address.is_multicast(), "{address}");
    match address {
        IpAddr::V4(v4) => {
            assert!(!v4.is_link_local() && v4 != Ipv4Addr::BROADCAST && v4.octets()[0] != 0);
        }
        IpAddr::V6(v6) => {
            assert!(!v6.is_unicast_link_local() && v6 != Ipv6Addr::UNSPECIFIED);
            assert!(v6.to_ipv4_mapped().is_none(), "{v6} is an IPv4 address");
        }
    }
}

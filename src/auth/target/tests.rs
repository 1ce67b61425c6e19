//! What may be a desktop and what may not.

use proptest::prelude::*;

use super::*;
use crate::auth::testing::{DOMAIN, NAME, policy};

fn networks(list: &[&str]) -> TargetPolicy {
    let list = list.iter().map(|net| net.parse().unwrap()).collect();
    TargetPolicy::new(None, list).unwrap()
}

fn address(policy: &TargetPolicy, text: &str) -> Option<IpAddr> {
    policy.confine(text.as_bytes()).ok()?.address()
}

#[test]
fn names_have_one_label_and_the_domain() {
    let policy = policy();
    let name = |text: &str| {
        let target = policy.confine(text.as_bytes()).ok()?;
        target.name().map(|name| name.as_str().to_owned())
    };
    assert_eq!(name(NAME).as_deref(), Some(NAME));
    assert_eq!(name(&NAME.to_uppercase()).as_deref(), Some(NAME));
    assert_eq!(name(&format!("{NAME}.")).as_deref(), Some(NAME));
    let longest = format!("{}.{DOMAIN}", "a".repeat(63));
    assert_eq!(name(&longest).as_deref(), Some(longest.as_str()));
    assert!(name(&format!("0.{DOMAIN}")).is_some(), "a label may be a number");
}

#[test]
fn other_names_are_no_desktops() {
    let policy = policy();
    let name = |text: &str| policy.confine(text.as_bytes()).ok();
    for label in [
        "",
        "a.b",
        "-a",
        "a-",
        "a_b",
        "a b",
        "a\t",
        "\n",
        "a/b",
        "a@b",
        "a%2e",
        "*",
        "a:1",
        "[a",
        "a\0",
        "é",
        "..",
        ".",
        &"a".repeat(64),
    ] {
        assert_eq!(name(&format!("{label}.{DOMAIN}")), None, "{label:?}");
    }
    for text in [
        "",
        ".",
        "a",
        DOMAIN,
        "localhost",
        "pyos.abcdesktop.svc.cluster.local",
        "evildesktop.abcdesktop.svc.cluster.local",
        "a.evildesktop.abcdesktop.svc.cluster.local",
        "a.desktop.other.svc.cluster.local",
        "a.desktop.abcdesktop.svc.cluster.local.evil.com",
    ] {
        assert_eq!(name(text), None, "{text:?}");
    }
    for tail in ["..", ":80", "/", "/x", "?", "#", " ", "\n", "\0", "%00"] {
        assert_eq!(name(&format!("{NAME}{tail}")), None, "{tail:?}");
    }
    for head in [" ", "\n", ".", "user@", "http://"] {
        assert_eq!(name(&format!("{head}{NAME}")), None, "{head:?}");
    }
    let too_long = format!("{}.{DOMAIN}", "a".repeat(255));
    assert_eq!(name(&too_long), None);
    assert_eq!(policy.confine(b"\xff\xfe"), Err(Error::OutsidePolicy));
}

#[test]
fn addresses_lie_in_a_network() {
    let policy = networks(&["10.0.0.0/8", "fd00::/8"]);
    for (text, expected) in [
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1", "fd00::1"),
        ("[fd00::1]", "fd00::1"),
        ("FD00:0:0::1", "fd00::1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("[::ffff:a01:203]", "10.1.2.3"),
    ] {
        assert_eq!(address(&policy, text), expected.parse().ok(), "{text}");
    }
    for text in [
        "11.0.0.1",
        "fe00::1",
        "::ffff:11.0.0.1",
        "10.1.2.3:80",
        "[10.1.2.3]",
        "[fd00::1",
        "fd00::1]",
        "[fd00::1]:80",
        "fd00::1%eth0",
        "10.1.2.3/8",
        "010.1.2.3",
        "10.01.2.3",
        "10.1.2",
        "10.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "10.1.2.3.",
        " 10.1.2.3",
        "10.1.2.3\n",
        "10.1.2.3\0",
        "a.example",
        "[]",
        "[[fd00::1]]",
    ] {
        assert_eq!(policy.confine(text.as_bytes()), Err(Error::OutsidePolicy), "{text:?}");
    }
}

#[test]
fn without_networks_no_address_is_a_desktop() {
    let policy = TargetPolicy::new(Some(DOMAIN), Vec::new()).unwrap();
    assert_eq!(address(&policy, "10.0.0.1"), None);
    assert!(policy.confine(NAME.as_bytes()).is_ok());
}

#[test]
fn loopback_and_link_local_need_their_own_network() {
    let everything = networks(&["0.0.0.0/0", "::/0"]);
    assert!(address(&everything, "8.8.8.8").is_some());
    assert!(address(&everything, "2001:db8::1").is_some());
    for text in [
        "127.0.0.1",
        "127.0.0.2",
        "169.254.169.254",
        "::1",
        "fe80::1",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "::ffff:169.254.169.254",
    ] {
        assert_eq!(address(&everything, text), None, "{text}");
    }
    let wide = networks(&["126.0.0.0/7", "169.0.0.0/8", "fe00::/9"]);
    for text in ["127.0.0.1", "169.254.1.1"] {
        assert_eq!(address(&wide, text), None, "{text}");
    }
    let explicit = networks(&["127.0.0.2/32", "169.254.0.0/16", "::1/128", "fe80::/10"]);
    for text in ["127.0.0.2", "169.254.1.1", "::1", "fe80::1", "::ffff:127.0.0.2"] {
        assert!(address(&explicit, text).is_some(), "{text}");
    }
    assert_eq!(address(&explicit, "127.0.0.1"), None);
    assert!(address(&networks(&["127.0.0.0/8"]), "127.0.0.1").is_some());
}

#[test]
fn some_addresses_are_never_a_desktop() {
    let policy = networks(&[
        "0.0.0.0/0",
        "0.0.0.0/32",
        "255.255.255.255/32",
        "224.0.0.0/4",
        "::/0",
        "::/128",
        "ff00::/8",
    ]);
    for text in [
        "0.0.0.0",
        "0.1.2.3",
        "255.255.255.255",
        "224.0.0.1",
        "239.255.255.250",
        "::",
        "ff02::1",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
    ] {
        assert_eq!(address(&policy, text), None, "{text}");
    }
}

#[test]
fn a_policy_is_checked_when_it_is_made() {
    assert_eq!(TargetPolicy::new(None, Vec::new()).unwrap_err(), PolicyError::Nothing);
    for domain in [
        "",
        ".",
        "a..b",
        "-a.b",
        "a_b",
        "a b",
        "desktop.127",
        "1",
        "a.0x7f",
        "*.a",
        "a.b..",
        &"a".repeat(64),
        &format!("{}a", "abcdefg.".repeat(40)),
    ] {
        let outcome = TargetPolicy::new(Some(domain), Vec::new());
        assert_eq!(outcome.unwrap_err(), PolicyError::Domain(domain.to_owned()));
    }
    let mapped: IpNet = "::ffff:10.0.0.0/104".parse().unwrap();
    let outcome = TargetPolicy::new(None, vec![mapped]);
    assert_eq!(outcome.unwrap_err(), PolicyError::Mapped(mapped));

    let sloppy = TargetPolicy::new(Some("Desktop.NS.svc.Cluster.Local."), Vec::new()).unwrap();
    assert!(sloppy.confine(b"x.desktop.ns.svc.cluster.local").is_ok());
}

proptest! {
    #[test]
    fn nothing_outside_the_policy_is_a_target(bytes in prop_oneof![
        any::<Vec<u8>>(),
        "[a-z0-9.:\\[\\]-]{0,20}".prop_map(String::into_bytes),
        any::<IpAddr>().prop_map(|ip| ip.to_string().into_bytes()),
        "[a-zA-Z0-9._-]{0,20}\\.desktop\\.abcdesktop\\.svc\\.cluster\\.local\\.?".prop_map(String::into_bytes),
    ]) {
        match policy().confine(&bytes) {
            Ok(Target::Name(name)) => {
                let (label, rest) = name.as_str().split_once('.').unwrap();
                prop_assert_eq!(rest, DOMAIN);
                prop_assert!(!label.is_empty() && label.len() <= 63);
                prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            }
            Ok(Target::Address(address)) => match address.ip() {
                IpAddr::V4(ip) => prop_assert_eq!(ip.octets()[0], 10),
                IpAddr::V6(ip) => prop_assert_eq!(ip.octets()[0], 0xfd),
            },
            Err(error) => prop_assert_eq!(error, Error::OutsidePolicy),
        }
    }

    #[test]
    fn every_address_of_the_network_is_a_target(host in any::<[u8; 3]>()) {
        let text = format!("10.{}.{}.{}", host[0], host[1], host[2]);
        prop_assert!(policy().confine(text.as_bytes()).is_ok());
    }
}

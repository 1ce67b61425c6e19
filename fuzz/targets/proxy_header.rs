//! A PROXY header is read to its last byte and no further, and says what was put into it.
//!
//! Input: a letter, then
//! `r` the bytes of a connection; `1` and `2` addresses and ports, and after 38 bytes what follows
//! the header of that version.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use deskgate_fuzz::{MAX_PROXY, proxy_header};
use libfuzzer_sys::fuzz_target;
use ppp::v2::{AddressFamily, Addresses, Builder, Command, IPv4, IPv6, Protocol, Type, Version};

fuzz_target!(|data: &[u8]| {
    let Some((kind, input)) = data.split_first() else { return };
    match kind {
        b'r' => raw(input),
        b'1' | b'2' => built(*kind, input),
        _ => {}
    }
});

/// Any bytes: the same however they arrive, within the limits, and as a second reader has it.
fn raw(connection: &[u8]) {
    let found = proxy_header(connection, usize::MAX);
    for at_once in [1, 2, 7] {
        assert_eq!(proxy_header(connection, at_once), found, "{at_once} bytes at once");
    }
    let Some((client, taken)) = found else { return };
    let header = &connection[..taken];
    if header.starts_with(b"PROXY ") {
        assert!(taken <= MAX_PROXY[0] && header.ends_with(b"\r\n"), "{header:?}");
        assert_eq!(header.iter().filter(|byte| **byte == b'\n').count(), 1, "{header:?}");
        assert_eq!(client, read_v1(header), "{header:?}");
    } else {
        assert!(
            (16..=MAX_PROXY[1]).contains(&taken) && header.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
        );
        assert_eq!(client, read_v2(header), "{header:?}");
    }
    // What follows changes nothing.
    assert_eq!(proxy_header(&[header, b"GET / HTTP/1.1\r\n"].concat(), 3), found);
    assert_eq!(proxy_header(&header[..taken - 1], 3), None, "a part of a header");
}

/// By the text of the specification: `PROXY TCP4 source destination source-port destination-port`.
fn read_v1(header: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(header).unwrap().trim_end();
    let words: Vec<_> = text.split(' ').collect();
    match words[1] {
        "UNKNOWN" => None,
        "TCP4" => Some((words[2].parse::<Ipv4Addr>().unwrap(), words[4].parse().unwrap()).into()),
        "TCP6" => Some((words[2].parse::<Ipv6Addr>().unwrap(), words[4].parse().unwrap()).into()),
        other => panic!("{other}"),
    }
}

/// By its offsets: command, family, length, source, destination, source port.
fn read_v2(header: &[u8]) -> Option<SocketAddr> {
    let [version, family] = [header[12], header[13]];
    assert_eq!(version >> 4, 2);
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    match (version & 15, family >> 4) {
        (1, 1) => {
            let ip: [u8; 4] = header[16..20].try_into().unwrap();
            Some((IpAddr::from(ip), port(24)).into())
        }
        (1, 2) => {
            let ip: [u8; 16] = header[16..32].try_into().unwrap();
            Some((IpAddr::from(ip), port(48)).into())
        }
        _ => None,
    }
}

/// Addresses that another library writes down are found again, and what follows is left alone.
fn built(version: u8, input: &[u8]) {
    let Some((seed, rest)) = input.split_first_chunk::<38>() else { return };
    let ports = [32, 34].map(|at| u16::from_be_bytes([seed[at], seed[at + 1]]));
    let six = seed[36] & 1 == 1;
    let ips = [0, 16].map(|at| -> IpAddr {
        if six {
            Ipv6Addr::from(<[u8; 16]>::try_from(&seed[at..at + 16]).unwrap()).into()
        } else {
            Ipv4Addr::from(<[u8; 4]>::try_from(&seed[at..at + 4]).unwrap()).into()
        }
    });
    let header = if version == b'1' {
        let family = if six { "TCP6" } else { "TCP4" };
        let [source, destination] = ips;
        format!("PROXY {family} {source} {destination} {} {}\r\n", ports[0], ports[1]).into_bytes()
    } else {
        written(ips, ports, usize::from(seed[37]))
    };
    let connection = [&header, rest].concat();
    let want = Some((Some(SocketAddr::new(ips[0], ports[0])), header.len()));
    for at_once in [1, 50, usize::MAX] {
        assert_eq!(proxy_header(&connection, at_once), want);
    }
}

/// A v2 header with an extension of so many bytes.
fn written(ips: [IpAddr; 2], ports: [u16; 2], extension: usize) -> Vec<u8> {
    let addresses: Addresses = match ips {
        [IpAddr::V4(from), IpAddr::V4(to)] => IPv4::new(from, to, ports[0], ports[1]).into(),
        [IpAddr::V6(from), IpAddr::V6(to)] => IPv6::new(from, to, ports[0], ports[1]).into(),
        _ => unreachable!("both are of one kind"),
    };
    let family = match addresses {
        Addresses::IPv6(_) => AddressFamily::IPv6,
        _ => AddressFamily::IPv4,
    };
    assert_eq!(addresses.address_family(), family);
    Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, addresses)
        .write_tlv(Type::NoOp, &vec![b'x'; extension])
        .unwrap()
        .build()
        .unwrap()
}

use std::fmt;
use std::net::Ipv6Addr;

use super::*;
use crate::config::Config;

fn configured(toml: &str) -> Admission {
    try_configured(toml, None).unwrap()
}

fn try_configured(
    toml: &str,
    before: Option<&Admission>,
) -> Result<Admission, Vec<(String, String)>> {
    Admission::new(&Config::from_text("t", toml).unwrap().config, before)
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn limit<T: fmt::Debug>(outcome: Result<T, Refusal>) -> Limit {
    outcome.unwrap_err().limit
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn connections_are_limited_in_all_per_listener_and_per_address() {
    let admission = configured(
        "[limits]\nconnections = 4\nconnections_per_listener = 3\nconnections_per_address = 2\n",
    );
    let (one, two) = (admission.listener(address(1)), admission.listener(address(2)));
    let mut seats: Vec<_> = (0..3).map(|_| admission.connect(&one).unwrap()).collect();
    assert_eq!(
        limit(admission.connect(&admission.listener(address(1)))),
        Limit::ListenerConnections
    );
    seats.push(admission.connect(&two).unwrap());
    assert_eq!(limit(admission.connect(&two)), Limit::Connections);
    for seat in seats.iter_mut().take(2) {
        admission.identify(seat, v4(1)).unwrap();
    }
    assert_eq!(limit(admission.identify(&mut seats[2], v4(1))), Limit::AddressConnections);
    admission.identify(&mut seats[2], v4(2)).unwrap();
    drop(seats);
    assert_eq!(admission.figures().connections, 0);
    let mut seat = admission.connect(&one).unwrap();
    admission.identify(&mut seat, v4(1)).unwrap();
    let refused = admission.figures().refused;
    assert!(refused.contains(&("connections", 1)) && refused.contains(&("address_connections", 1)));
}

#[test]
fn proxies_are_not_counted_as_clients() {
    let admission = configured(
        "[listen]\ntrusted_proxies = [\"192.0.2.1/32\"]\nproxy_protocol = [\"192.0.2.2/32\"]\n\
         [limits]\nconnections_per_address = 1\nexempt = [\"192.0.2.3/32\"]\n",
    );
    let listener = admission.listener(address(1));
    let seat = |client| {
        let mut seat = admission.connect(&listener).unwrap();
        admission.identify(&mut seat, client).map(|()| seat)
    };
    for last in 1..=3 {
        let _held: Vec<_> = (0..3).map(|_| seat(v4(last)).unwrap()).collect();
    }
    let mapped = IpAddr::V6(Ipv6Addr::from_bits(0xffff_c000_0201));
    let _held: Vec<_> = (0..3).map(|_| seat(mapped).unwrap()).collect();
    let _one = seat(v4(4)).unwrap();
    assert!(seat(v4(4)).is_err());
}

#[test]
fn an_ipv6_network_is_one_client() {
    let admission = configured("[limits]\nrequests_per_address = { per_minute = 1, burst = 10 }\n");
    let now = Instant::now();
    let network = 0x2001_0db8_0000_0001_u128 << 64;
    let ask = |bits| admission.request(Some(IpAddr::V6(Ipv6Addr::from_bits(bits))), now);
    assert!((0..10).all(|host| ask(network | host).is_ok()));
    assert_eq!(limit(ask(network | 0xffff_ffff)), Limit::AddressRequests);
    assert!(ask(network + (1 << 64)).is_ok());
}

#[test]
fn requests_come_as_fast_as_they_may_and_no_faster() {
    let admission = configured(
        "[limits]\nrequests_per_address = { per_minute = 60, burst = 2 }\n\
         requests_per_token = { per_minute = 30, burst = 1 }\n",
    );
    let now = Instant::now();
    let ask = |now| admission.request(Some(v4(1)), now);
    assert!(ask(now).is_ok() && ask(now).is_ok());
    assert_eq!(ask(now), Err(Refusal { limit: Limit::AddressRequests, after: 1 }));
    assert!(admission.request(Some(v4(2)), now).is_ok() && admission.request(None, now).is_ok());
    assert!(ask(now + Duration::from_secs(1)).is_ok());
    assert!(admission.token("a", now).is_ok() && admission.token("b", now).is_ok());
    assert_eq!(admission.token("a", now), Err(Refusal { limit: Limit::TokenRequests, after: 2 }));
}

#[test]
fn refused_tokens_are_answered_then_held_back_then_refused() {
    let admission = configured(
        "[limits]\nfailures = { per_minute = 60, burst = 3 }\nfailure_delay = \"900ms\"\n",
    );
    let now = Instant::now();
    for _ in 0..3 {
        assert!(matches!(admission.failure(Some(v4(1)), now), Ok(Failure::Told)));
    }
    for millis in [300, 600, 900] {
        let Ok(Failure::Delayed(delay, _)) = admission.failure(Some(v4(1)), now) else {
            panic!("not held back")
        };
        assert_eq!(delay.as_millis(), millis);
    }
    assert_eq!(limit(admission.failure(Some(v4(1)), now)), Limit::Failures);
    assert!(matches!(admission.failure(Some(v4(2)), now), Ok(Failure::Told)));
    assert_eq!(admission.figures().delayed, 3);
}

#[test]
fn no_more_answers_are_held_back_than_there_is_room_for() {
    let admission = configured("[limits]\nfailures = { per_minute = 1, burst = 1000 }\n");
    let now = Instant::now();
    let mut held = Vec::new();
    for _ in 0..1000 + SLEEPERS {
        held.push(admission.failure(Some(v4(1)), now).unwrap());
    }
    assert_eq!(limit(admission.failure(Some(v4(1)), now)), Limit::Failures);
    drop(held);
    assert!(matches!(admission.failure(Some(v4(1)), now), Ok(Failure::Delayed(..))));
}

#[test]
fn tunnels_are_limited_per_token_and_pod_and_in_their_pace() {
    let admission = configured(
        "[limits]\ntunnels_per_token = 2\ntunnels_per_pod = 3\n\
         new_tunnels = { per_minute = 60, burst = 4 }\n",
    );
    let now = Instant::now();
    let open = |token, pod| admission.tunnel(token, pod, now);
    let mut seats = vec![open("a", "p").unwrap(), open("a", "p").unwrap()];
    assert_eq!(limit(open("a", "p")), Limit::TokenTunnels);
    seats.push(open("b", "p").unwrap());
    assert_eq!(limit(open("c", "p")), Limit::PodTunnels);
    assert!(open("c", "q").is_ok());
    drop(seats);
    assert!(open("a", "p").is_ok() && open("a", "p").is_ok());
    assert_eq!(open("a", "p").unwrap_err(), Refusal { limit: Limit::NewTunnels, after: 1 });
    assert!(admission.tunnel("a", "p", now + Duration::from_secs(1)).is_ok());
}

#[test]
fn a_new_configuration_keeps_the_counts() {
    let before = configured("[limits]\nconnections = 2\n");
    let listener = before.listener(address(1));
    let _seats = [before.connect(&listener).unwrap(), before.connect(&listener).unwrap()];
    let after = try_configured("[limits]\nconnections = 3\n", Some(&before)).unwrap();
    let _seat = after.connect(&listener).unwrap();
    assert_eq!(limit(after.connect(&after.listener(address(1)))), Limit::Connections);
}

#[test]
fn memory_decides_on_tunnels_first_and_then_on_requests() {
    let admission = configured("");
    let at = |used| admission.note_memory(Some(Memory { used, limit: 100 }));
    assert_eq!(at(10), None);
    assert!(admission.tunnels().is_ok());
    assert_eq!(at(85), Some(Level::NoTunnels));
    assert_eq!(limit(admission.tunnels()), Limit::OverloadTunnels);
    assert!(admission.request(None, Instant::now()).is_ok());
    assert_eq!(at(99), Some(Level::NoRequests));
    assert_eq!(limit(admission.request(None, Instant::now())), Limit::OverloadRequests);
}

#[test]
fn what_makes_no_sense_is_named_by_its_key() {
    let faults = try_configured(
        "[limits]\nfailures = { burst = 0 }\nexempt = [\"::ffff:10.0.0.0/104\"]\n\
         [listen]\ntrusted_proxies = [\"::ffff:10.1.0.0/112\"]\n[overload]\nno_tunnels = 101\n\
         [origins]\nallow = [\"portal\"]\n",
        None,
    );
    let keys: Vec<_> = faults.unwrap_err().into_iter().map(|(key, _)| key).collect();
    let named = ["limits.failures.burst", "overload.no_tunnels"];
    let networks = ["limits.exempt", "listen.trusted_proxies"];
    assert_eq!(keys, [&named[..], &networks[..], &["origins.allow"]].concat());
}

#[test]
fn every_limit_has_a_name_of_its_own() {
    let mut names: Vec<_> = Limit::ALL.iter().map(|limit| limit.reason()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Limit::ALL.len());
    assert!(Limit::ALL.iter().enumerate().all(|(at, limit)| *limit as usize == at));
}

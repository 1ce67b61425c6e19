//! The text format, the bounds and the series.
#![allow(clippy::float_cmp, reason = "figures that are exact")]

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn metrics() -> Metrics {
    let metrics = Metrics::new(Build { version: "1.2.3", revision: "abc" });
    metrics.add_routes(["website", "websockify"]);
    metrics.add_reasons(Kind::Auth, ["expired", "missing"]);
    metrics.add_reasons(Kind::Upstream, ["connect"]);
    metrics.add_reasons(Kind::Failure, ["no_route"]);
    metrics
}

fn state() -> State {
    State {
        in_flight: 7,
        tunnels_open: vec![("websockify".into(), 3)],
        tunnels_closed: vec![("idle", 2)],
        keys: vec![("signing", "0123456789ab".to_owned(), 1)],
        revoked: (2, 1),
        discovery: Some(Discovery { age: Some(1.5), state: "live", states: &["live", "lost"] }),
        certificates: vec![("a \"quoted\"\nname\\".into(), 2e9)],
        ..State::default()
    }
}

/// What a text says: by name of the metric its type, and by series its value.
#[derive(Default)]
struct Parsed {
    types: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    values: BTreeMap<String, f64>,
}

/// A parser that refuses what it does not expect.
fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut family = String::new();
    let body = text.strip_suffix("# EOF\n").expect("the end");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, value) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match what {
                "HELP" => assert!(parsed.helped.insert(name.into()), "{name} twice"),
                "TYPE" => {
                    assert!(parsed.helped.contains(name), "{name} has no help");
                    assert!(parsed.types.insert(name.into(), value.into()).is_none());
                    family = name.to_owned();
                }
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{name}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let suffixes: &[&str] = match parsed.types[&family].as_str() {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "gauge" => &[""],
            other => panic!("{other}"),
        };
        assert!(
            suffixes.iter().any(|suffix| name == format!("{family}{suffix}")),
            "{name} is not of {family}"
        );
        let value: f64 = value.parse().unwrap();
        assert!(parsed.values.insert(series.into(), value).is_none(), "{series} twice");
    }
    parsed
}

#[test]
fn the_text_is_well_formed_and_complete() {
    let metrics = metrics();
    metrics.request("website", 200, 0.004, "");
    metrics.request("websockify", 101, 3600.0, "");
    metrics.request("websockify", 401, 0.001, "expired");
    metrics.request("website", 502, 0.3, "connect");
    metrics.upstream_retried("connect");
    metrics.token_accepted();
    metrics.tunnel_opened("websockify");
    metrics.tunnel_rtt(0.03);
    metrics.reloaded(true, 1000.5);
    metrics.reloaded(false, 2000.0);
    let parsed = parse(&metrics.exposition(state()));
    for (series, value) in [
        ("deskgate_build_info{version=\"1.2.3\",revision=\"abc\"}", 1.0),
        ("deskgate_requests_total{route=\"website\",class=\"2xx\"}", 1.0),
        ("deskgate_requests_total{route=\"websockify\",class=\"1xx\"}", 1.0),
        ("deskgate_request_duration_seconds_bucket{le=\"0.005\",route=\"website\"}", 1.0),
        ("deskgate_request_duration_seconds_bucket{le=\"+Inf\",route=\"website\"}", 2.0),
        ("deskgate_request_duration_seconds_count{route=\"websockify\"}", 1.0),
        ("deskgate_requests_failed_total{reason=\"expired\"}", 1.0),
        ("deskgate_auth_total{outcome=\"accepted\",reason=\"\"}", 1.0),
        ("deskgate_auth_total{outcome=\"refused\",reason=\"expired\"}", 1.0),
        ("deskgate_upstream_errors_total{reason=\"connect\"}", 2.0),
        ("deskgate_requests_in_flight", 7.0),
        ("deskgate_tunnels_open{route=\"websockify\"}", 3.0),
        ("deskgate_tunnels_opened_total{route=\"websockify\"}", 1.0),
        ("deskgate_tunnels_closed_total{reason=\"idle\"}", 2.0),
        ("deskgate_tunnel_bytes_total{direction=\"to_pod\"}", 0.0),
        ("deskgate_tunnel_rtt_seconds_count", 1.0),
        ("deskgate_tunnels_dropped_by_reload_total", 0.0),
        ("deskgate_config_reloads_total{outcome=\"taken\"}", 1.0),
        ("deskgate_config_reloads_total{outcome=\"refused\"}", 1.0),
        ("deskgate_config_last_reload_successful", 0.0),
        ("deskgate_config_last_reload_success_timestamp_seconds", 1000.5),
        ("deskgate_key_tokens_verified_total{kind=\"signing\",key=\"0123456789ab\"}", 1.0),
        ("deskgate_revoked{what=\"token\"}", 2.0),
        ("deskgate_token_cache_entries", 0.0),
        ("deskgate_token_cache_hits_total", 0.0),
        ("deskgate_discovery_age_seconds", 1.5),
        ("deskgate_discovery_state{state=\"live\"}", 1.0),
        ("deskgate_discovery_state{state=\"lost\"}", 0.0),
        ("deskgate_draining", 0.0),
        ("deskgate_log_lines_dropped_total", 0.0),
    ] {
        assert_eq!(parsed.values.get(series), Some(&value), "{series}");
    }
    assert!(parsed.values["process_resident_memory_bytes"] > 0.0);
    assert!(parsed.values.contains_key("process_cpu_seconds_total"));
    assert!(
        parsed
            .types
            .keys()
            .all(|name| name.starts_with("deskgate_") || name.starts_with("process_"))
    );
    let quoted =
        r#"deskgate_tls_certificate_not_after_timestamp_seconds{name="a \"quoted\"\nname\\"}"#;
    assert_eq!(parsed.values.get(quoted), Some(&2e9));
}

#[test]
fn names_that_nobody_knows_make_no_series() {
    let metrics = metrics();
    for number in 0..10_000 {
        let name = format!("name-{number}");
        metrics.request(&name, 404, 0.1, &name);
        metrics.tunnel_opened(&name);
        metrics.upstream_retried(&name);
    }
    let text = metrics.exposition(state());
    assert!(!text.contains("name-1"));
    let parsed = parse(&text);
    assert_eq!(parsed.values["deskgate_requests_total{route=\"other\",class=\"4xx\"}"], 10_000.0);
    assert_eq!(parsed.values["deskgate_requests_failed_total{reason=\"other\"}"], 10_000.0);
    // Names that are configured over and over have a bound too.
    for number in 0..1000 {
        let name = format!("name-{number}");
        metrics.add_routes([name.as_str()]);
        metrics.add_reasons(Kind::Failure, [name.as_str()]);
    }
    assert!(parse(&metrics.exposition(state())).values.len() < 4096);
}

#[test]
fn threads_lose_no_count() {
    let metrics = metrics();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| (0..1000).for_each(|_| metrics.request("website", 200, 0.1, "")));
        }
    });
    let parsed = parse(&metrics.exposition(State::default()));
    assert_eq!(parsed.values["deskgate_requests_total{route=\"website\",class=\"2xx\"}"], 20_000.0);
}

#[test]
fn series_are_sums_of_whole_steps() {
    let metrics = metrics();
    metrics.request("website", 200, 0.1, "");
    metrics.sample();
    for second in 0..13 {
        for _ in 0..=second {
            metrics.request("website", 200, 0.1, "");
        }
        metrics.request("websockify", 502, 0.1, "");
        metrics.sample();
    }
    let series = metrics.series(5, 8);
    assert_eq!((series.step, series.last, series.routes.len()), (5, 2, 2));
    assert_eq!(series.routes[0].route, "website");
    assert_eq!(series.routes[0].requests, [15, 40]);
    assert_eq!(series.routes[1].errors, [5, 5]);
    let series = metrics.series(5, 1);
    assert_eq!(series.routes[1].route, "other");
    assert_eq!(series.routes[1].requests, [5, 5]);
}

#[test]
fn series_have_a_bound_and_take_new_routes() {
    let metrics = metrics();
    for second in 0..1500 {
        if second == 1000 {
            metrics.add_routes(["new"]);
        }
        metrics.request("website", 200, 0.1, "");
        metrics.request("new", 200, 0.1, "");
        metrics.sample();
    }
    let series = metrics.series(1, 8);
    assert_eq!(series.last, 1499);
    let by_name = |name: &str| {
        series.routes.iter().find(|route| route.route == name).unwrap().requests.clone()
    };
    assert_eq!(by_name("website").len(), 600);
    assert_eq!(by_name("new").iter().sum::<u32>(), 500);
    assert_eq!(by_name("other").iter().sum::<u32>(), 100);
    assert!(metrics.series(0, 0).routes[0].requests.len() <= 600);
}

//! What every request pays: route, path, token; and what a start pays: the configuration.
#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up shall stop")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use deskgate::auth::mint::{KeySet, Minter};
use deskgate::auth::{
    Authenticator, CacheLimits, KeyFile, Now, PayloadKeys, SigningKeys, TargetPolicy, Token, token,
};
use deskgate::config::{Config, TokenPlace};
use deskgate::route::{NormalPath, Table};
use futures_util::FutureExt;

/// The benches' present, in Unix seconds.
const NOW: u64 = 1_700_000_000;
const DOMAIN: &str = "desktop.abcdesktop.svc.cluster.local";
const NAME: &str = "alice-0b1c2d.desktop.abcdesktop.svc.cluster.local";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let keys = [1024, 2048].map(|bits| (bits, KeySet::generate(bits).unwrap()));
    let [(_, small), _] = &keys;
    let token = mode_b(small).minter.mint(NAME, NOW, 3600).unwrap();

    paths(&mut criterion);
    routes(&mut criterion, &token);
    locations(&mut criterion, &token);
    for (bits, keys) in &keys {
        authentication(&mut criterion, *bits, keys);
    }
    configuration(&mut criterion);
    criterion.final_summary();
}

/// A plain path, as nearly all are, and one with all there is to normalise.
fn paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path");
    for (name, raw) in [
        ("plain", "/API/composer/getlaunchdesktop"),
        ("untidy", "/API//composer/./x/%2e%2e/get%6caunch%c3%a9"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| NormalPath::parse(black_box(raw.as_bytes())));
        });
    }
    group.finish();
}

/// An exact row, a pattern with captures, a prefix, and the last row, which takes the rest.
fn routes(criterion: &mut Criterion, token: &str) {
    let table = Table::new(&Config::from_text("bench", "").unwrap()).unwrap();
    let container = format!("/container/{token}/8080/socket.io/");
    let mut group = criterion.benchmark_group("route");
    for (name, raw) in [
        ("exact", "/websockify"),
        ("pattern", "/API/composer/getlaunchdesktop"),
        ("captures", container.as_str()),
        ("prefix", "/filer/home/alice/letter.odt"),
        ("last", "/js/main.js"),
    ] {
        let path = NormalPath::parse(raw.as_bytes()).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| table.find(black_box(&path)).map(|found| found.port()));
        });
    }
    group.finish();
}

/// The token found in a query, and the query as it is forwarded.
fn locations(criterion: &mut Criterion, token: &str) {
    let query = format!("width=1920&height=1080&jwt_token={token}&lang=en");
    let place = TokenPlace::Query;
    let mut group = criterion.benchmark_group("token");
    group.bench_function("locate", |bencher| {
        bencher.iter(|| token::locate(place, black_box(Some(&query)), None, None));
    });
    group.bench_function("without_token", |bencher| {
        bencher.iter(|| token::without_token(place, black_box(&query)));
    });
    group.finish();
}

/// A remembered token once, and a new one for each mode of sealing.
fn authentication(criterion: &mut Criterion, bits: usize, keys: &KeySet) {
    let mut group = criterion.benchmark_group("authenticate");
    for (name, installation, entries) in [
        ("cached", mode_b(keys), 64),
        ("cold mode A", mode_a(keys), 0),
        ("cold mode B", mode_b(keys), 0),
    ] {
        let gateway = installation.gateway(entries);
        let token = installation.minter.mint(NAME, NOW, 3600).unwrap();
        let token = Token::new(&token).unwrap();
        let now = Now { wall: Duration::from_secs(NOW), mono: Instant::now() };
        assert!(gateway.authenticate(token, now).now_or_never().unwrap().is_ok());
        group.bench_function(BenchmarkId::new(name, bits), |bencher| {
            bencher.iter(|| gateway.authenticate(black_box(token), now).now_or_never());
        });
    }
    group.finish();
}

/// The built-in configuration read and its routes compiled.
fn configuration(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("config");
    group.bench_function("load", |bencher| {
        bencher.iter(|| Config::from_text("bench", black_box("")));
    });
    let layered = Config::from_text("bench", "").unwrap();
    group.bench_function("routes", |bencher| bencher.iter(|| Table::new(black_box(&layered))));
    group.finish();
}

/// A minter and the gateway's side of its keys.
struct Installation<'a> {
    minter: Minter,
    signing: &'a str,
    payload: &'a str,
}

/// Sealed with the private payload key, as the documents say.
fn mode_a(keys: &KeySet) -> Installation<'_> {
    installation(keys, &keys.payload_private, &keys.payload_public)
}

/// Sealed with the public payload key, as pyos's code does.
fn mode_b(keys: &KeySet) -> Installation<'_> {
    installation(keys, &keys.payload_public, &keys.payload_private)
}

fn installation<'a>(keys: &'a KeySet, sealing: &str, payload: &'a str) -> Installation<'a> {
    let minter = Minter::new(keys.signing_private.as_bytes(), sealing.as_bytes()).unwrap();
    Installation { minter, signing: &keys.signing_public, payload }
}

impl Installation<'_> {
    fn gateway(&self, entries: usize) -> Authenticator {
        let [signing, payload] = [self.signing, self.payload]
            .map(|pem| KeyFile { name: "bench.pem", pem: pem.as_bytes() });
        Authenticator::new(
            SigningKeys::load(&[signing], false).unwrap(),
            PayloadKeys::load(&[payload], false).unwrap(),
            TargetPolicy::new(Some(DOMAIN), Vec::new()).unwrap(),
            CacheLimits { entries },
        )
    }
}

//! What every request pays: path, route, token, headers; what a tunnel pays: its frames; and what a start
//! pays: the configuration.
#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up shall stop")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput};
use deskgate::auth::mint::{KeySet, Minter};
use deskgate::auth::{
    Authenticator, CacheLimits, KeyFile, Now, PayloadKeys, SigningKeys, TargetPolicy, Token, token,
};
use deskgate::config::{Config, TokenPlace};
use deskgate::proxy::seam;
use deskgate::route::{NormalPath, Table};
use deskgate::tunnel::frames::{Pings, Side, Tracker};
use futures_util::FutureExt;
use pingora::http::RequestHeader;

/// The benches' present, in Unix seconds.
const NOW: u64 = 1_700_000_000;
const DOMAIN: &str = "desktop.abcdesktop.svc.cluster.local";
const NAME: &str = "alice-0b1c2d.desktop.abcdesktop.svc.cluster.local";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let keys = [1024, 2048, 4096].map(|bits| (bits, KeySet::generate(bits).unwrap()));
    let [(_, small), ..] = &keys;
    let token = mode_b(small).minter.mint(NAME, NOW, 3600).unwrap();

    paths(&mut criterion);
    routes(&mut criterion, &token);
    locations(&mut criterion, &token);
    for (bits, keys) in &keys {
        authentication(&mut criterion, *bits, keys);
    }
    side_by_side(&mut criterion, small);
    headers(&mut criterion);
    frames(&mut criterion);
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

/// A remembered token asked for by one thread, and by two at once: what they take of each other.
fn side_by_side(criterion: &mut Criterion, keys: &KeySet) {
    let installation = mode_b(keys);
    let gateway = installation.gateway(64);
    let token = installation.minter.mint(NAME, NOW, 3600).unwrap();
    let token = Token::new(&token).unwrap();
    let now = Now { wall: Duration::from_secs(NOW), mono: Instant::now() };
    let ask = |count| {
        for _ in 0..count {
            let found = gateway.authenticate(black_box(token), now).now_or_never();
            assert!(found.is_some_and(|found| found.is_ok()));
        }
    };
    let mut group = criterion.benchmark_group("cache");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(|| ask(count))));
                start.elapsed()
            });
        });
    }
    group.finish();
}

/// A browser's request head turned into the upstream's, with what making the head takes beside it.
fn headers(criterion: &mut Criterion) {
    let table = Table::new(&Config::from_text("bench", "").unwrap()).unwrap();
    let mut head = RequestHeader::build("GET", b"/API/composer/getlaunchdesktop", None).unwrap();
    for (name, value) in [
        ("Host", "desktops.example"),
        ("Connection", "keep-alive"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("Accept", "application/json, text/plain, */*"),
        ("Accept-Language", "en-GB,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Referer", "https://desktops.example/"),
        ("Cookie", "abcdesktop_host=0123456789abcdef; lang=en"),
        ("Sec-Fetch-Site", "same-origin"),
    ] {
        head.append_header(name, value).unwrap();
    }
    let mut group = criterion.benchmark_group("headers");
    for (name, path) in [("pyos", "/API/composer/getlaunchdesktop"), ("desktop", "/filer/home")] {
        let path = NormalPath::parse(path.as_bytes()).unwrap();
        let found = table.find(&path).unwrap();
        group.bench_function(BenchmarkId::new("write for upstream", name), |bencher| {
            bencher.iter(|| {
                let mut out = BytesMut::with_capacity(1024);
                seam::to_upstream(&mut out, black_box(&head), found.route, path.as_str()).unwrap();
                out
            });
        });
    }
    group.finish();
}

/// A chunk of a tunnel followed: one large message as it comes from a pod, and many small ones as
/// they come from a browser.
fn frames(criterion: &mut Criterion) {
    let mut large = vec![0x82, 126, 0x40, 0];
    large.resize(4 + 16 * 1024, 0x5a);
    let small = [&[0x82, 0x80 | 64, 1, 2, 3, 4][..], &[0x5a; 64]].concat().repeat(64);
    let mut group = criterion.benchmark_group("frames");
    for (name, side, chunk) in
        [("16 KiB message", Side::Server, large), ("64 messages of 64 bytes", Side::Client, small)]
    {
        let (mut tracker, mut pings) = (Tracker::new(side), Pings::new(7));
        let mut bytes = chunk.clone();
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| tracker.follow(black_box(&mut bytes), &mut pings));
        });
        assert!(tracker.data() > 0 && !tracker.lost());
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

//! The loads of our own client, each bounded in requests and in time.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::client::Resumption;

use crate::client::Client;
use crate::stand::{Proxy, Stand, header};
use crate::support::process::{Watch, settled};
use crate::support::report::{Measure, Sample};
use crate::support::{Outcome, percentile};
use crate::tools::{CPU, RATE, RSS};

/// Connections made at once.
const AT_ONCE: usize = 16;

/// Handshakes of a round.
const HANDSHAKES: usize = 1500;

/// Idle connections.
const IDLE: usize = 4000;

/// New connections with TLS, each for one request that the proxy answers itself.
pub(crate) async fn handshakes(
    stand: &Stand,
    proxy: &Proxy,
    resumed: bool,
) -> Outcome<Vec<Sample>> {
    let resumption = if resumed { Resumption::default() } else { Resumption::disabled() };
    let tls = stand.connector(resumption)?;
    let connect = async |expected: Option<HandshakeKind>| {
        let (mut client, kind) = Client::tls(proxy.https, &tls).await?;
        client.get("/healthz", "Connection: close\r\n").await?.ok()?;
        match expected {
            Some(expected) if kind != expected => Err(format!("a handshake was {kind:?}").into()),
            Some(_) | None => Outcome::Ok(()),
        }
    };
    if resumed {
        connect(None).await?;
    }
    let expected = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    let watch = Watch::start(&proxy.process);
    for _ in 0..HANDSHAKES {
        connect(Some(expected)).await?;
    }
    let (cpu, wall) = watch.stop();
    let count = HANDSHAKES as f64;
    Ok(vec![
        (Measure::new("CPU per connection", "µs", 1), cpu / count * 1e6),
        (Measure::new("connections per second", "", 0), count / wall),
    ])
}

/// Opens connections, each of which carries one request.
async fn open(stand: &Stand, proxy: &Proxy, tls: bool, count: usize) -> Outcome<Vec<Client>> {
    let tls = if tls { Some(stand.connector(Resumption::disabled())?) } else { None };
    let mut opening = JoinSet::new();
    let mut clients = Vec::with_capacity(count);
    let (http, https) = (proxy.http, proxy.https);
    let mut started = 0;
    while clients.len() < count {
        while started < count && opening.len() < AT_ONCE {
            let tls = tls.clone();
            started += 1;
            opening.spawn(async move {
                let mut client = match tls {
                    Some(tls) => Client::tls(https, &tls).await?.0,
                    None => Client::plain(http).await?,
                };
                client.get("/API/small", "").await?.ok()?;
                Outcome::Ok(client)
            });
        }
        clients.push(opening.join_next().await.ok_or("no connection is being opened")???);
    }
    Ok(clients)
}

/// Requests on so many open connections, a few at once, each connection in its turn.
pub(crate) async fn crowd(stand: &Stand, proxy: &Proxy, count: usize) -> Outcome<Vec<Sample>> {
    let mut clients = open(stand, proxy, false, count).await?;
    let watch = Watch::start(&proxy.process);
    let mut groups = JoinSet::new();
    let at_once = SIDE_BY_SIDE.min(count);
    while !clients.is_empty() {
        let mut group =
            clients.split_off(clients.len() - clients.len().div_ceil(at_once - groups.len()));
        groups.spawn(async move {
            let size = group.len();
            for index in 0..MANY / at_once {
                group[index % size].get("/API/small", "").await?.ok()?;
            }
            // They stay open until all are done.
            Outcome::Ok(group)
        });
    }
    let done = groups.join_all().await.into_iter().collect::<Outcome<Vec<_>>>()?;
    let (cpu, wall) = watch.stop();
    let requests = (MANY / at_once * done.len()) as f64;
    Ok(vec![
        (CPU, cpu / requests * 1e6),
        (RATE, requests / wall),
        (RSS, proxy.process.memory().rss / 1024.0),
    ])
}

/// Memory per idle connection that has carried one request.
pub(crate) async fn idle(stand: &Stand, proxy: &Proxy, tls: bool) -> Outcome<Vec<Sample>> {
    let before = settled(&proxy.process).await;
    let mut clients = open(stand, proxy, tls, IDLE).await?;
    let after = settled(&proxy.process).await;
    for client in clients.iter_mut().step_by(50) {
        client.get("/API/small", "").await?.ok()?;
    }
    let each = (after.pss - before.pss) / IDLE as f64;
    Ok(vec![
        (Measure::new("PSS per connection", "KiB", 2), each),
        (Measure::new("PSS before", "MiB", 1), before.pss / 1024.0),
    ])
}

/// New tokens, each the first of its kind: what each costs beyond one that was seen before, and how
/// long another request waits meanwhile. The proxy has just been started.
pub(crate) async fn cold(proxy: &Proxy, tokens: &[String]) -> Outcome<Vec<Sample>> {
    let (first, rest) = tokens.split_first().ok_or("no tokens")?;
    let (alone, beside) = rest.split_at(rest.len() / 2);
    let seen: Vec<_> = alone.iter().map(|_| first.clone()).collect();
    let mut client = Client::plain(proxy.http).await?;
    ask(&mut client, &seen).await?; // warms up
    let watch = Watch::start(&proxy.process);
    ask(&mut client, &seen).await?;
    let (cached, _) = watch.stop();
    let watch = Watch::start(&proxy.process);
    ask(&mut client, alone).await?;
    let (cold, _) = watch.stop();

    let mut other = Client::plain(proxy.http).await?;
    let mut quiet = waits(&mut other, ask(&mut client, &seen)).await?;
    let mut busy = waits(&mut other, ask(&mut client, beside)).await?;
    // What such waits come to when the proxy has nothing to compute, and this process computes as much.
    let work = Duration::from_secs_f64((cold - cached).max(0.0) / alone.len() as f64);
    let mut beside = waits(&mut other, ask_after(&mut client, &seen, work)).await?;
    let each = |cpu: f64| cpu / alone.len() as f64 * 1e6;
    Ok(vec![
        (COLD, each(cold)),
        (Measure::new("CPU beyond a token seen before", "µs", 0), each(cold - cached)),
        (Measure::new("longest wait beside seen tokens", "µs", 0), percentile(&mut quiet, 1000)),
        (
            Measure::new("longest wait beside as much work of another process", "µs", 0),
            percentile(&mut beside, 1000),
        ),
        (Measure::new("p99 beside new tokens", "µs", 0), percentile(&mut busy, 990)),
        (WAIT, percentile(&mut busy, 1000)),
    ])
}

pub(crate) const COLD: Measure = Measure::new("CPU per new token, all in", "µs", 0);
pub(crate) const WAIT: Measure = Measure::new("longest wait beside new tokens", "µs", 0);

/// What a token costs, from the figures of a route that wants none and of one that does. Both requests
/// carry it.
pub(crate) fn token(without: &[Sample], with: &[Sample]) -> Vec<Sample> {
    let cpu = |samples: &[Sample]| {
        samples.iter().find(|(measure, _)| *measure == CPU).map_or(f64::NAN, |(_, value)| *value)
    };
    vec![(TOKEN, cpu(with) - cpu(without))]
}

pub(crate) const TOKEN: Measure = Measure::new("CPU beyond a route without", "µs", 2);

/// Requests of the loads of many tokens and many connections.
const MANY: usize = 20_000;

/// As many of them at once.
const SIDE_BY_SIDE: usize = 8;

/// Tokens that were all seen before, as far as they are remembered, in no order.
pub(crate) async fn tokens(proxy: &Proxy, tokens: Vec<String>) -> Outcome<Vec<Sample>> {
    let tokens = Arc::new(tokens);
    visit(proxy, &tokens, tokens.len(), |index, _| index).await?;
    let watch = Watch::start(&proxy.process);
    // A step that shares no factor with their number; it visits them in no order.
    visit(proxy, &tokens, MANY, |index, count| index.wrapping_mul(0x9e37_79b1) % count).await?;
    let (cpu, wall) = watch.stop();
    Ok(vec![
        (CPU, cpu / MANY as f64 * 1e6),
        (RATE, MANY as f64 / wall),
        (RSS, proxy.process.memory().rss / 1024.0),
    ])
}

/// So many requests, the token of each chosen by its number.
async fn visit(
    proxy: &Proxy,
    tokens: &Arc<Vec<String>>,
    requests: usize,
    choose: fn(usize, usize) -> usize,
) -> Outcome<()> {
    let mut clients = JoinSet::new();
    for first in 0..SIDE_BY_SIDE {
        let (to, tokens) = (proxy.http, Arc::clone(tokens));
        clients.spawn(async move {
            let mut client = Client::plain(to).await?;
            for index in (first..requests).step_by(SIDE_BY_SIDE) {
                let token = &tokens[choose(index, tokens.len())];
                client.get("/filer/small", &header(token)).await?.ok()?;
            }
            Outcome::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// One request with each token.
async fn ask(client: &mut Client, tokens: &[String]) -> Outcome<()> {
    for token in tokens {
        client.get("/filer/small", &header(token)).await?.ok()?;
    }
    Ok(())
}

/// The same, each after so much work on a thread of this process.
async fn ask_after(client: &mut Client, tokens: &[String], work: Duration) -> Outcome<()> {
    for token in tokens {
        let spin = move || {
            let start = Instant::now();
            while start.elapsed() < work {
                std::hint::spin_loop();
            }
        };
        tokio::task::spawn_blocking(spin).await?;
        client.get("/filer/small", &header(token)).await?.ok()?;
    }
    Ok(())
}

/// How long requests of another connection take while something goes on.
async fn waits(
    client: &mut Client,
    meanwhile: impl Future<Output = Outcome<()>>,
) -> Outcome<Vec<Duration>> {
    let mut meanwhile = pin!(meanwhile);
    let mut waits = Vec::new();
    loop {
        let start = Instant::now();
        let mut answer = pin!(client.get("/API/small", ""));
        let answer = tokio::select! {
            done = &mut meanwhile => {
                done?;
                // The last answer, not to be counted.
                answer.await?.ok()?;
                return Ok(waits);
            }
            answer = &mut answer => answer,
        };
        waits.push(start.elapsed());
        answer?.ok()?;
    }
}

/// A long body to a pod, streamed.
pub(crate) async fn upload(proxy: &Proxy, token: &str, gib: u64) -> Outcome<Vec<Sample>> {
    let before = proxy.process.memory().rss;
    let mut client = Client::plain(proxy.http).await?;
    let watch = Watch::start(&proxy.process);
    let length = gib << 30;
    let mut put = pin!(client.put("/filer/upload", token, length));
    let mut most = before;
    let answer = loop {
        tokio::select! {
            answer = &mut put => break answer?,
            () = sleep(Duration::from_millis(50)) => most = most.max(proxy.process.memory().rss),
        }
    };
    answer.ok()?;
    let (cpu, wall) = watch.stop();
    let bytes = length as f64;
    Ok(vec![
        (Measure::new("CPU per GB", "s", 3), cpu / bytes * 1e9),
        (Measure::new("throughput", "MB/s", 0), bytes / wall / 1e6),
        (Measure::new("most RSS beyond the start", "MiB", 1), (most - before) / 1024.0),
    ])
}

/// A process that has just been started.
pub(crate) async fn start(proxy: &Proxy, program: &Path) -> Outcome<Vec<Sample>> {
    let memory = settled(&proxy.process).await;
    let size = std::fs::metadata(program)?.len() as f64;
    Ok(vec![
        (Measure::new("start to first answer", "ms", 1), proxy.ready.as_secs_f64() * 1e3),
        (Measure::new("RSS", "MiB", 1), memory.rss / 1024.0),
        (Measure::new("program", "MiB", 1), size / f64::from(1 << 20)),
    ])
}

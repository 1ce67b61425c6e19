//! Every fault of an API server, and what requests see of it: the last known pods, never fewer.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deskgate::discovery::{
    Condition, Fault, Host, Moment, Pods, Readiness, Server, Settings, Transport, Verdict,
};
use serde_json::Value;
use tokio::time::sleep;

use crate::support::fake_api::{Endpoint, FakeApi, Fault as Break};
use crate::support::free_port;

const SOON: Duration = Duration::from_secs(20);

fn settings(address: SocketAddr, transport: Transport) -> Settings {
    Settings {
        server: Server { host: address.ip().to_string(), port: address.port(), transport },
        namespace: "abcdesktop".to_owned(),
        service: "desktop".to_owned(),
        watch_timeout: Duration::from_secs(30),
        memory: Duration::from_secs(600),
        skew: Duration::from_secs(1),
    }
}

fn now() -> Moment {
    Moment { wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap(), mono: Instant::now() }
}

fn start_with(settings: Settings) -> Pods {
    Pods::start(settings, Arc::new(now))
}

fn start(api: &FakeApi) -> Pods {
    start_with(settings(api.address, Transport::Plain))
}

/// The moment of issue of a token that is older, or younger, than now.
fn issued(offset: i64) -> Option<u64> {
    now().wall.as_secs().checked_add_signed(offset)
}

fn address(text: &str) -> Host<'_> {
    Host::Address(text.parse::<IpAddr>().unwrap())
}

fn judge(pods: &Pods, host: &str) -> &'static str {
    pods.judge(address(host), issued(0), now()).reason()
}

fn names(pods: &Pods) -> Vec<String> {
    pods.list().iter().map(|pod| pod.name.to_string()).collect()
}

async fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let asked = Instant::now();
    while !ask() {
        assert!(asked.elapsed() < SOON, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn listed(pods: &Pods, name: &str) {
    eventually(name, || names(pods).iter().any(|known| known == name)).await;
}

fn synced(pods: &Pods) -> bool {
    matches!(pods.status().condition, Condition::Synced { .. })
}

/// Whether what is known was proved within the last second.
fn fresh(pods: &Pods) -> bool {
    matches!(pods.status().condition, Condition::Synced { age } if age.as_secs() < 1)
}

async fn started(api: &FakeApi) -> Pods {
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let pods = start(api);
    listed(&pods, "pod-a").await;
    eventually("a watch", || api.watches() > 0).await;
    pods
}

/// After a fault: the pods stayed, the fault was counted, and news is seen again soon.
async fn survives(fault: Break, expected: Fault) {
    let api = FakeApi::start();
    let token = issued(0);
    let pods = started(&api).await;
    api.fail(fault);
    eventually("the fault", || pods.status().counters.faults.contains_key(&expected)).await;
    api.set(Endpoint::ready("b", "10.0.0.2"));
    sleep(Duration::from_millis(300)).await;
    let verdict = pods.judge(address("10.0.0.1"), token, now());
    assert_eq!(verdict.reason(), "ambiguous", "known since the start only");
    assert_eq!(names(&pods), ["pod-a"]);
    // A watch that is slow to fail counts as one that works, until it does.
    eventually("degraded", || match pods.status().condition {
        Condition::Forbidden { age: Some(_) } => {
            matches!(expected, Fault::Forbidden | Fault::Unauthorized)
        }
        Condition::Degraded { reason, .. } => reason == expected,
        _ => false,
    })
    .await;
    api.fail(Break::None);
    listed(&pods, "pod-b").await;
    eventually("synced", || synced(&pods)).await;
}

#[tokio::test]
async fn a_new_pod_is_seen_at_once() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    for at in 2..20 {
        api.set(Endpoint::ready(&at.to_string(), &format!("10.0.0.{at}")));
        // Well before the end of the watch.
        listed(&pods, &format!("pod-{at}")).await;
    }
    assert_eq!(api.lists(), 1, "the watch tells");
    assert_eq!(judge(&pods, "10.0.0.99"), "not_found");
    assert!(matches!(pods.status().condition, Condition::Synced { age } if age < SOON));
    assert_eq!(pods.status().pods, 19);
}

#[tokio::test]
async fn nothing_is_known_before_the_first_list() {
    let api = FakeApi::start();
    api.fail(Break::Status(503));
    let pods = start(&api);
    assert_eq!(judge(&pods, "10.0.0.1"), "unsynced");
    eventually("a fault", || pods.status().last_fault == Some(Fault::Unavailable)).await;
    assert_eq!(pods.status().condition, Condition::Unsynced);
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let waiting = pods.clone();
    let wait = tokio::spawn(async move {
        waiting.wait_ready(address("10.0.0.1"), issued(0), SOON).await.reason()
    });
    api.fail(Break::None);
    assert_eq!(wait.await.unwrap(), "ambiguous");
}

#[tokio::test]
async fn dropped_connections() {
    survives(Break::Drop, Fault::Dropped).await;
}

#[tokio::test]
async fn half_a_line() {
    // Noticed at the next watch.
    survives(Break::HalfLine, Fault::Dropped).await;
}

#[tokio::test]
async fn no_json() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    api.fail(Break::Garbage);
    eventually("the fault", || pods.status().counters.faults.contains_key(&Fault::Invalid)).await;
    // A list still works, and so news arrives.
    api.set(Endpoint::ready("b", "10.0.0.2"));
    listed(&pods, "pod-b").await;
    api.fail(Break::None);
    eventually("synced", || synced(&pods)).await;
}

#[tokio::test]
async fn statuses() {
    tokio::join!(
        answers_with(503, Fault::Unavailable),
        answers_with(429, Fault::Unavailable),
        answers_with(403, Fault::Forbidden),
        answers_with(401, Fault::Unauthorized),
        answers_with(404, Fault::Rejected),
    );
}

/// To new requests; the open watch is broken by other means.
async fn answers_with(code: u16, expected: Fault) {
    let api = FakeApi::start();
    let pods = started(&api).await;
    api.fail(Break::WatchError(code));
    eventually("the error", || pods.status().counters.faults.contains_key(&expected)).await;
    drop(pods);
    let pods = started(&api).await;
    api.fail(Break::Drop);
    eventually("the end", || pods.status().last_fault.is_some()).await;
    api.fail(Break::Status(code));
    let forbidden = matches!(expected, Fault::Forbidden | Fault::Unauthorized);
    eventually("the status", || {
        let status = pods.status();
        status.last_fault == Some(expected)
            && matches!(status.condition, Condition::Forbidden { .. }) == forbidden
    })
    .await;
    assert_eq!(names(&pods), ["pod-a"]);
    api.fail(Break::None);
    eventually("synced", || synced(&pods)).await;
}

#[tokio::test]
async fn a_watch_that_may_not_be_opened_is_forbidden_though_lists_work() {
    let api = FakeApi::start();
    api.fail(Break::WatchStatus(403));
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let pods = start(&api);
    eventually("forbidden", || matches!(pods.status().condition, Condition::Forbidden { .. }))
        .await;
    assert_eq!(names(&pods), ["pod-a"]);
    // What a watch would tell, lists tell later.
    api.remove("a");
    api.set(Endpoint::ready("b", "10.0.0.2"));
    eventually("pod-b alone", || names(&pods) == ["pod-b"]).await;
    assert!(matches!(pods.status().condition, Condition::Forbidden { age: Some(_) }));
    api.fail(Break::None);
    eventually("synced", || synced(&pods)).await;
}

#[tokio::test]
async fn expired_versions_are_listed_anew() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    let lists = api.lists();
    // In the stream, as the real server does.
    api.fail(Break::Drop);
    eventually("the end", || pods.status().last_fault.is_some()).await;
    api.set(Endpoint::ready("b", "10.0.0.2"));
    api.compact();
    api.fail(Break::None);
    listed(&pods, "pod-b").await;
    assert!(api.lists() > lists && pods.status().counters.faults.contains_key(&Fault::Expired));
    eventually("synced", || synced(&pods)).await;
    // As a status.
    api.fail(Break::Drop);
    eventually("the end", || !synced(&pods)).await;
    api.fail(Break::WatchStatus(410));
    let lists = api.lists();
    api.set(Endpoint::ready("c", "10.0.0.3"));
    listed(&pods, "pod-c").await;
    assert!(api.lists() > lists);
    // Not a storm either.
    let (before, asked) = (api.requests().len(), Instant::now());
    sleep(Duration::from_secs(2)).await;
    let rate = (api.requests().len() - before) as f64 / asked.elapsed().as_secs_f64();
    assert!(rate < 10.0, "{rate}");
}

#[tokio::test]
async fn a_resumed_watch_misses_nothing_and_needs_no_list() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    let lists = api.lists();
    api.fail(Break::Drop);
    eventually("the end", || !synced(&pods)).await;
    api.set(Endpoint::ready("b", "10.0.0.2"));
    api.remove("a");
    api.fail(Break::None);
    listed(&pods, "pod-b").await;
    eventually("a is gone", || names(&pods) == ["pod-b"]).await;
    assert_eq!(api.lists(), lists);
}

#[tokio::test]
async fn silence_is_noticed_after_the_watch_time() {
    let api = FakeApi::start();
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let mut settings = settings(api.address, Transport::Plain);
    settings.watch_timeout = Duration::from_secs(1);
    let pods = start_with(settings);
    listed(&pods, "pod-a").await;
    api.fail(Break::Stall);
    eventually("stalled", || pods.status().last_fault == Some(Fault::Stalled)).await;
    assert_eq!(names(&pods), ["pod-a"]);
    api.set(Endpoint::ready("b", "10.0.0.2"));
    api.fail(Break::None);
    listed(&pods, "pod-b").await;
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_asked_for_without_end() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    api.fail(Break::Brief);
    let (before, begun) = (api.watches(), Instant::now());
    eventually("some watches", || api.watches() >= before + 8).await;
    // The first pauses are a tenth of a second long.
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(pods.status().counters.faults.is_empty());
    api.fail(Break::None);
    api.set(Endpoint::ready("b", "10.0.0.2"));
    listed(&pods, "pod-b").await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_noticed() {
    let api = FakeApi::start();
    api.fail(Break::Hang);
    let pods = start(&api);
    eventually("no answer", || pods.status().last_fault == Some(Fault::ResponseTimeout)).await;
    api.fail(Break::None);
    api.set(Endpoint::ready("a", "10.0.0.1"));
    listed(&pods, "pod-a").await;
}

#[tokio::test]
async fn nobody_listens() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let pods = start_with(settings(address, Transport::Plain));
    eventually("refused", || pods.status().last_fault == Some(Fault::ConnectFailed)).await;
    let api = FakeApi::start_at(address, None);
    api.set(Endpoint::ready("a", "10.0.0.1"));
    listed(&pods, "pod-a").await;
}

#[tokio::test]
async fn pieces_repetitions_and_slowness_change_nothing() {
    for fault in [Break::Split, Break::Duplicate, Break::Slow(Duration::from_millis(100))] {
        let api = FakeApi::start();
        api.fail(fault);
        let pods = started(&api).await;
        api.set(Endpoint::ready("b", "10.0.0.2"));
        listed(&pods, "pod-b").await;
        api.remove("a");
        eventually("a is gone", || names(&pods) == ["pod-b"]).await;
        assert!(pods.status().counters.faults.is_empty(), "{fault:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_watch_is_no_fault_and_bookmarks_prove_currency() {
    let api = FakeApi::start();
    api.bookmarks(Duration::from_millis(200));
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let mut settings = settings(api.address, Transport::Plain);
    settings.watch_timeout = Duration::from_secs(2);
    let pods = start_with(settings);
    let told = || api.watches() > 3 && pods.status().counters.bookmarks > 3;
    eventually("three watches", told).await;
    let status = pods.status();
    assert!(status.counters.faults.is_empty(), "{status:?}");
    // None after a watch, unless nothing was heard in it.
    assert!(status.counters.lists < status.counters.watches, "{status:?}");
    eventually("a proof of this moment", || fresh(&pods)).await;
    assert!(status.clock_offset_ms.unwrap().abs() < 10_000);
}

#[tokio::test]
async fn an_outage_of_any_length_keeps_the_state() {
    let api = FakeApi::start();
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let mut settings = settings(api.address, Transport::Plain);
    settings.watch_timeout = Duration::from_secs(1);
    let pods = start_with(settings);
    listed(&pods, "pod-a").await;
    api.set(Endpoint::ready("b", "10.0.0.2"));
    listed(&pods, "pod-b").await;
    let address = api.address;
    drop(api);
    eventually("a fault", || !synced(&pods)).await;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(judge_at(&pods, "10.0.0.1", 3), "allow");
        assert_eq!(names(&pods), ["pod-a", "pod-b"]);
        sleep(Duration::from_millis(20)).await;
    }
    let Condition::Degraded { age, .. } = pods.status().condition else { panic!("it is down") };
    assert!(age > Duration::from_secs(3), "{age:?}");
    // Its store was set back: the version to continue from does not exist yet.
    let api = FakeApi::start_at(address, None);
    api.set(Endpoint::ready("c", "10.0.0.3"));
    listed(&pods, "pod-c").await;
    assert_eq!(names(&pods), ["pod-c"]);
}

/// A token that will have been issued some seconds from now.
fn judge_at(pods: &Pods, host: &str, later: i64) -> &'static str {
    pods.judge(address(host), issued(later), after(10)).reason()
}

/// So many seconds from now, on both clocks.
fn after(seconds: u64) -> Moment {
    let (now, time) = (now(), Duration::from_secs(seconds));
    Moment { wall: now.wall + time, mono: now.mono + time }
}

#[tokio::test]
async fn without_news_only_new_tokens_open_what_was_known() {
    let api = FakeApi::start();
    api.bookmarks(Duration::from_millis(200));
    let passed = Arc::new(AtomicU64::new(0));
    let passes = Arc::clone(&passed);
    let clock = move || after(passes.load(Ordering::Relaxed));
    let pods = Pods::start(settings(api.address, Transport::Plain), Arc::new(clock));
    eventually("a watch", || api.watches() > 0).await;
    api.set(Endpoint::ready("a", "10.0.0.1"));
    listed(&pods, "pod-a").await;
    api.fail(Break::Drop);
    eventually("the end", || !synced(&pods)).await;
    let judge = |token, at| pods.judge(address("10.0.0.1"), token, after(at)).reason();
    let (old, later) = (issued(3), issued(40));
    assert_eq!(judge(old, 45), "allow", "what was true a moment ago");
    // Its pod may have ended, and its address be another user's.
    assert_eq!(judge(old, 120), "ambiguous");
    assert_eq!(
        judge(later, 120),
        "ambiguous",
        "issued since the last proof, and as doubtful by now"
    );
    assert_eq!(judge(issued(110), 120), "allow", "whoever issues tokens knows better");
    // But of a name it is only known whose address it was.
    let by_name = |token, at| pods.judge(Host::Name("pod-a"), token, after(at)).reason();
    assert_eq!((by_name(old, 45), by_name(issued(110), 120)), ("allow", "ambiguous"));
    // It is told again: nothing has changed meanwhile.
    passed.store(120, Ordering::Relaxed);
    api.fail(Break::None);
    eventually("a proof", || judge(old, 120) == "allow").await;
    assert_eq!(judge(later, 120), "allow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_list_replaces_the_set_as_a_whole() {
    let api = FakeApi::start();
    for at in 0..250 {
        api.set(Endpoint::ready(&at.to_string(), &format!("10.0.1.{at}")));
    }
    api.page(1);
    let pods = start(&api);
    eventually("all pods", || pods.status().pods == 250).await;
    assert_eq!(api.lists(), 3, "three pages");
    let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (reader, ended, looked) = (pods.clone(), Arc::clone(&stop), Arc::clone(&looks));
    let reading = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            assert_eq!(reader.status().pods, 250);
            assert_ne!(judge(&reader, "10.0.1.7"), "not_found");
            looked.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..5 {
        let (lists, before) = (pods.status().counters.lists, looks.load(Ordering::Relaxed));
        api.compact();
        api.fail(Break::Drop);
        eventually("the end", || !synced(&pods)).await;
        api.fail(Break::Split);
        eventually("a list", || pods.status().counters.lists > lists).await;
        let seen = || reading.is_finished() || looks.load(Ordering::Relaxed) > before + 20;
        eventually("looks", seen).await;
    }
    stop.store(true, Ordering::Relaxed);
    reading.join().unwrap();
}

#[tokio::test]
async fn waiting_is_released_by_the_event() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    sleep(Duration::from_millis(2_100)).await;
    api.set(Endpoint::not_ready("b", "10.0.0.2"));
    listed(&pods, "pod-b").await;
    assert_eq!(judge(&pods, "10.0.0.2"), "not_ready");
    let mut waits = Vec::new();
    for host in ["10.0.0.2", "10.0.0.3"] {
        let pods = pods.clone();
        waits.push(tokio::spawn(async move {
            let verdict = pods.wait_ready(address(host), issued(0), SOON).await;
            (verdict.reason(), Instant::now())
        }));
    }
    sleep(Duration::from_millis(500)).await;
    assert!(waits.iter().all(|wait| !wait.is_finished()));
    let changed = Instant::now();
    api.set(Endpoint::ready("b", "10.0.0.2"));
    let (verdict, released) = waits.remove(0).await.unwrap();
    assert_eq!(verdict, "allow");
    assert!(released - changed < SOON / 2, "{:?}", released - changed);
    // A pod that nobody had heard of.
    api.set(Endpoint::ready("c", "10.0.0.3"));
    assert_eq!(waits.remove(0).await.unwrap().0, "allow");
}

#[tokio::test]
async fn waiting_ends() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    let asked = Instant::now();
    let limit = Duration::from_millis(200);
    let fresh = pods.wait_ready(address("10.0.0.9"), issued(0), limit).await;
    assert!(fresh == Verdict::NotFound && asked.elapsed() >= limit);
    let asked = Instant::now();
    let stale = pods.wait_ready(address("10.0.0.9"), issued(-60), SOON).await;
    assert!(stale == Verdict::NotFound && asked.elapsed() < SOON / 2);
}

#[tokio::test]
async fn an_address_given_on_is_closed_to_the_old_token_and_its_connections() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&gone);
    pods.on_gone(move |uid| told.lock().unwrap().push(uid.to_string()));
    sleep(Duration::from_millis(2_100)).await;
    api.set(Endpoint::ready("ida", "10.0.0.7"));
    listed(&pods, "pod-ida").await;
    let token = issued(0);
    let judge = |token| {
        let verdict = pods.judge(address("10.0.0.7"), token, now());
        let uid = match &verdict {
            Verdict::Allow(endpoint) | Verdict::Ambiguous(endpoint) => endpoint.uid.to_string(),
            _ => String::new(),
        };
        format!("{} {uid}", verdict.reason())
    };
    assert_eq!(judge(token), "allow ida");
    api.set(Endpoint::terminating("ida", "10.0.0.7"));
    eventually("ending", || judge(token) == "ending ").await;
    assert!(pods.lists("ida") && gone.lock().unwrap().is_empty());
    // Longer than the controller may lag.
    sleep(Duration::from_millis(8_000)).await;
    api.set(Endpoint::ready("marker", "10.0.0.8"));
    listed(&pods, "pod-marker").await;
    api.set(Endpoint::ready("bob", "10.0.0.7"));
    eventually("bob", || judge(token) == "reused ").await;
    api.remove("ida");
    eventually("ida is gone", || *gone.lock().unwrap() == ["ida"]).await;
    assert_eq!(judge(token), "reused ");
    sleep(Duration::from_millis(2_100)).await;
    assert_eq!(judge(issued(0)), "allow bob");
    assert_eq!(pods.status().counters.departed, 1);
}

#[tokio::test]
async fn a_pod_that_is_only_moved_is_not_gone() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&gone);
    pods.on_gone(move |uid| told.lock().unwrap().push((uid.to_string(), Instant::now())));
    api.set(Endpoint::ready("b", "10.0.0.2"));
    listed(&pods, "pod-b").await;
    // The whole service, deleted and made anew; told together, so that no pod is late.
    let removed = Instant::now();
    api.fail(Break::Stall);
    api.remove_slice("desktop-00000");
    api.set(Endpoint::ready("a", "10.0.0.1"));
    api.fail(Break::None);
    eventually("b is gone", || !gone.lock().unwrap().is_empty()).await;
    assert_eq!(names(&pods), ["pod-a"]);
    let gone = gone.lock().unwrap();
    assert_eq!((gone.len(), gone[0].0.as_str()), (1, "b"));
    assert!(gone[0].1 - removed > Duration::from_millis(700));
}

#[tokio::test]
async fn a_clock_that_is_set_makes_older_tokens_ambiguous() {
    let api = FakeApi::start();
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let ahead = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&ahead);
    let clock = move || {
        let hour = Duration::from_secs(if set.load(Ordering::Relaxed) { 3_600 } else { 0 });
        Moment { wall: now().wall + hour, ..now() }
    };
    let pods = Pods::start(settings(api.address, Transport::Plain), Arc::new(clock));
    listed(&pods, "pod-a").await;
    assert_eq!(judge_at(&pods, "10.0.0.1", 3), "allow");
    ahead.store(true, Ordering::Relaxed);
    api.set(Endpoint::ready("b", "10.0.0.2"));
    listed(&pods, "pod-b").await;
    let ahead = after(10);
    let ahead = Moment { wall: ahead.wall + Duration::from_secs(3_600), ..ahead };
    let judge = |issued| pods.judge(address("10.0.0.1"), issued, ahead).reason();
    assert_eq!(judge(issued(3)), "ambiguous");
    assert_eq!(judge(issued(3_603)), "allow");
}

#[tokio::test]
async fn a_clock_that_is_set_is_noticed_without_news() {
    let api = FakeApi::start();
    let behind = Arc::new(AtomicU64::new(600));
    let clock = {
        let behind = Arc::clone(&behind);
        move |at: Moment| {
            let behind = Duration::from_secs(behind.load(Ordering::Relaxed));
            Moment { wall: at.wall - behind, ..at }
        }
    };
    let pods = {
        let clock = clock.clone();
        Pods::start(settings(api.address, Transport::Plain), Arc::new(move || clock(now())))
    };
    eventually("a watch", || api.watches() > 0).await;
    api.set(Endpoint::ready("ida", "10.0.0.1"));
    listed(&pods, "pod-ida").await;
    api.remove("ida");
    api.set(Endpoint::ready("bob", "10.0.0.1"));
    eventually("bob's pod", || names(&pods) == ["pod-bob"]).await;
    let judge = |issued, at| pods.judge(address("10.0.0.1"), issued, clock(after(at))).reason();
    assert_eq!(judge(issued(-597), 10), "allow");
    // Ida's token, ten seconds before the change by a clock that is right. By this one it was later.
    let ida = issued(-10);
    behind.store(0, Ordering::Relaxed);
    assert_eq!(judge(ida, 0), "ambiguous");
    eventually("new tokens count", || judge(issued(3), 10) == "allow").await;
    assert_eq!(judge(ida, 0), "ambiguous");
}

#[tokio::test]
async fn names_and_views() {
    let api = FakeApi::start();
    let pods = started(&api).await;
    sleep(Duration::from_millis(2_100)).await;
    let before = Instant::now();
    api.set(Endpoint { hostname: Some("desk".into()), ..Endpoint::ready("b", "10.0.0.2") });
    api.set(Endpoint::terminating("c", "10.0.0.3"));
    listed(&pods, "pod-c").await;
    for name in ["desk", "pod-b"] {
        match pods.judge(Host::Name(name), issued(0), now()) {
            Verdict::Allow(endpoint) => assert_eq!(endpoint.address.to_string(), "10.0.0.2"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let list = pods.list();
    assert_eq!(list[2].readiness, Readiness::Terminating);
    let second = Duration::from_secs(1);
    assert!(list[0].age >= list[1].age + 2 * second, "{list:?}");
    assert!(list[1].age < before.elapsed() + second, "{list:?}");
    assert!(!format!("{list:?}{pods:?}").contains("10.0.0."));
}

/// A certificate for this machine, and the authority that signed it, as PEM.
fn authority() -> (String, rustls::ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&server_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![server.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(server_key.serialize_der().into()),
        )
        .unwrap();
    (ca.pem(), config)
}

fn tls(folder: &Path, address: SocketAddr) -> Settings {
    let (ca, token) = (folder.join("ca.crt"), folder.join("token"));
    settings(address, Transport::Tls { ca, token })
}

#[tokio::test]
async fn tls_with_a_private_authority_and_a_credential_that_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, server) = authority();
    fs::write(folder.path().join("ca.crt"), ca).unwrap();
    fs::write(folder.path().join("token"), "first").unwrap();
    let api = FakeApi::start_at("127.0.0.1:0".parse().unwrap(), Some(Arc::new(server)));
    api.token("first");
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let pods = start_with(tls(folder.path(), api.address));
    listed(&pods, "pod-a").await;
    // The server takes only the new one, which is not there yet.
    api.token("second");
    api.fail(Break::Drop);
    eventually("the end", || !synced(&pods)).await;
    api.fail(Break::None);
    let forbidden = || matches!(pods.status().condition, Condition::Forbidden { .. });
    eventually("401", forbidden).await;
    assert_eq!(names(&pods), ["pod-a"]);
    fs::write(folder.path().join("token"), "second").unwrap();
    eventually("synced", || synced(&pods)).await;
}

#[tokio::test]
async fn another_authority_is_not_trusted_until_the_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, server) = authority();
    let ca_file = folder.path().join("ca.crt");
    fs::write(&ca_file, authority().0).unwrap();
    fs::write(folder.path().join("token"), "t").unwrap();
    let api = FakeApi::start_at("127.0.0.1:0".parse().unwrap(), Some(Arc::new(server)));
    api.set(Endpoint::ready("a", "10.0.0.1"));
    let pods = start_with(tls(folder.path(), api.address));
    eventually("TLS fault", || pods.status().last_fault == Some(Fault::Tls)).await;
    assert!(api.requests().is_empty(), "no credential for a stranger");
    fs::write(&ca_file, ca).unwrap();
    listed(&pods, "pod-a").await;
    fs::remove_file(&ca_file).unwrap();
    api.fail(Break::Drop);
    let fault = || pods.status().last_fault == Some(Fault::Credentials);
    eventually("no file", fault).await;
    assert_eq!(names(&pods), ["pod-a"]);
}

/// Every path of keys in a value, with the type at its end. Labels and managed fields are data.
fn shape(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !path.ends_with("fieldsV1") && !path.ends_with("labels") => {
            for (key, value) in map {
                shape(value, &format!("{path}.{key}"), into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| shape(value, path, into)),
        other => {
            let kind = match other {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                _ => "map",
            };
            into.insert(format!("{path} {kind}"));
        }
    }
}

fn shapes(lines: &str) -> BTreeSet<String> {
    let mut shapes = BTreeSet::new();
    for value in serde_json::Deserializer::from_str(lines).into_iter::<Value>() {
        let value = value.unwrap();
        let kind = value["type"].as_str().unwrap_or_default().replace("ADDED", "MODIFIED");
        shape(&value, &kind, &mut shapes);
    }
    // Only changes by some pods have it.
    shapes.retain(|path| !path.contains("annotations"));
    shapes
}

async fn get(api: &FakeApi, query: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    let query = format!("labelSelector=kubernetes.io%2Fservice-name%3Ddesktop&{query}");
    let head = format!("GET /x?{query} HTTP/1.0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn the_fake_api_answers_in_the_shape_of_the_recorded_one() {
    let api = FakeApi::start();
    api.set(Endpoint { hostname: Some("desk".into()), ..Endpoint::ready("a", "10.0.0.1") });
    api.set(Endpoint::terminating("b", "10.0.0.2"));
    let list = include_str!("fixtures/kubernetes/list.json");
    assert_eq!(shapes(&get(&api, "limit=500").await), shapes(list));
    let watch = include_str!("fixtures/kubernetes/watch.ndjson");
    // The only bookmark must not be one that falls together with the end.
    api.bookmarks(Duration::from_millis(100));
    let query = "watch=true&timeoutSeconds=3&resourceVersion=1000";
    assert_eq!(shapes(&get(&api, query).await), shapes(watch));
    api.compact();
    let expired = include_str!("fixtures/kubernetes/watch-410-expired.txt");
    let expired = expired.lines().find(|line| line.starts_with('{')).unwrap();
    assert_eq!(shapes(&get(&api, query).await), shapes(expired));
    for (code, recorded) in [
        (403, include_str!("fixtures/kubernetes/forbidden-403.json")),
        (401, include_str!("fixtures/kubernetes/unauthorized-401.json")),
    ] {
        api.fail(Break::Status(code));
        assert_eq!(shapes(&get(&api, "limit=500").await), shapes(recorded));
    }
}

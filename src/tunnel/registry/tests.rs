use super::*;
use std::thread;

fn info(pod: &str) -> Info {
    Info {
        route: "vnc".into(),
        token: Some("0123456789ab".into()),
        pod: pod.into(),
        uid: None,
        client: Some([192, 0, 2, 1].into()),
        deadline: None,
        grace: Duration::ZERO,
    }
}

fn waker() -> &'static Waker {
    Waker::noop()
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_listed_from_its_opening_to_its_drop() {
    let registry = Registry::default();
    let tunnel = registry.open(info("pod-1"));
    let other = registry.open(info("pod-2"));
    assert_eq!((tunnel.id(), other.id(), registry.len()), (1, 2, 2));
    tokio::time::advance(Duration::from_millis(1500)).await;
    tunnel.input(Instant::now());
    tunnel.carried(Flow { bytes: 10, frames: 2 }, Flow { bytes: 30, frames: 4 });
    tunnel.answered(Duration::from_millis(12));
    tokio::time::advance(Duration::from_secs(1)).await;
    let list = serde_json::to_value(registry.list()).unwrap();
    let first = serde_json::json!({
        "id": 1, "route": "vnc", "token": "0123456789ab", "pod": "pod-1", "client": "192.0.2.1",
        "age": 2.5, "to_pod": { "bytes": 10, "frames": 2 },
        "to_client": { "bytes": 30, "frames": 4 },
        "rtt": 0.012, "last_input": 1.0, "expires_in": null, "closing": null,
    });
    assert_eq!(list[0], first);
    assert_eq!(list[1]["rtt"], serde_json::Value::Null);
    drop(tunnel);
    assert!(registry.get(1).is_none() && registry.get(2).is_some());
    drop(other);
    assert!(registry.is_empty() && registry.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_told_to_end_once() {
    let registry = Registry::default();
    let tunnel = registry.open(info("pod"));
    assert_eq!(tunnel.poll_asked(waker()), None);
    assert!(registry.close(tunnel.id(), End::Revoked));
    assert!(!registry.close(tunnel.id(), End::Drain));
    assert!(!registry.close(99, End::Drain));
    assert_eq!(tunnel.poll_asked(waker()), Some(End::Revoked));
    assert_eq!(registry.get(1).unwrap().closing, Some("revoked"));
}

#[tokio::test(start_paused = true)]
async fn tunnels_are_chosen_by_what_they_are() {
    let registry = Registry::default();
    let tunnels: Vec<_> =
        (0..100).map(|n| registry.open(info(&format!("pod-{}", n % 4)))).collect();
    assert_eq!(registry.close_where(|info| *info.pod == *"pod-1", End::DesktopGone), 25);
    assert_eq!(registry.close_where(|_| true, End::Shutdown), 75);
    assert_eq!(registry.close_where(|_| true, End::Shutdown), 0);
    let ends = tunnels.iter().filter_map(|tunnel| tunnel.poll_asked(waker()));
    assert_eq!(ends.filter(|end| *end == End::DesktopGone).count(), 25);
}

#[tokio::test(start_paused = true)]
async fn deadlines_move_only_forward_and_only_where_there_is_one() {
    let registry = Registry::default();
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let limited = registry.open(Info { deadline: Some(at(60)), ..info("pod") });
    let free = registry.open(info("pod"));
    let other = registry.open(Info { deadline: Some(at(60)), ..info("another") });
    assert_eq!(registry.renew("pod", at(30)), 0);
    assert_eq!(registry.renew("pod", at(120)), 1);
    assert_eq!(limited.deadline(), Some(at(120)));
    assert_eq!((free.deadline(), other.deadline()), (None, Some(at(60))));
    assert_eq!(registry.renew("nobody", at(120)), 0);
    let grace = Duration::from_secs(5);
    let graceful = registry.open(Info { deadline: Some(at(60)), grace, ..info("graceful") });
    assert_eq!(registry.renew("graceful", at(55)), 0);
    assert_eq!(registry.renew("graceful", at(56)), 1);
    assert_eq!(graceful.deadline(), Some(at(61)));
    assert_eq!(registry.get(limited.id()).unwrap().expires_in, Some(120.0));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_opens_during_a_renewal_has_it_too() {
    let registry = Registry::default();
    let at = |seconds| Instant::now() + Duration::from_secs(seconds);
    let (grace, long) = (Duration::from_secs(5), Duration::from_secs(20));
    let limited = |pod, grace| Info { deadline: Some(at(60)), grace, ..info(pod) };
    let _first = registry.open(limited("pod", grace));
    assert_eq!(registry.renew("pod", at(300)), 1);
    // Its token was looked at before.
    assert_eq!(registry.open(limited("pod", long)).deadline(), Some(at(320)));
    assert_eq!(registry.open(limited("another", grace)).deadline(), Some(at(60)));
    assert_eq!(registry.open(info("pod")).deadline(), None);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_about_to_end_is_not_renewed() {
    let registry = Registry::default();
    let at = |seconds| Instant::now() + Duration::from_secs(seconds);
    let tunnel = registry.open(Info { deadline: Some(at(60)), ..info("pod") });
    tunnel.ending(End::TokenExpired);
    assert_eq!(registry.renew("pod", at(300)), 0);
    assert_eq!(registry.get(tunnel.id()).unwrap().closing, Some("token_expired"));
    assert!(!registry.close(tunnel.id(), End::Operator));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_has_ended_is_off_the_list() {
    let registry = Registry::default();
    let tunnel = registry.open(info("pod"));
    tunnel.ended(End::Idle);
    assert!(registry.is_empty() && registry.get(tunnel.id()).is_none());
    registry.emptied().await;
    drop(tunnel);
    assert_eq!(registry.totals().closed.iter().sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn sums_never_fall() {
    let registry = Registry::default();
    let first = registry.open(info("a"));
    let second = registry.open(info("b"));
    first.carried(Flow { bytes: 1, frames: 1 }, Flow { bytes: 2, frames: 1 });
    second.carried(Flow { bytes: 10, frames: 3 }, Flow::default());
    let before = registry.totals();
    first.ended(End::Idle);
    drop(first);
    let after = registry.totals();
    assert_eq!((before.to_pod, before.to_client), (after.to_pod, after.to_client));
    assert_eq!(after.to_pod, Flow { bytes: 11, frames: 4 });
    assert_eq!((after.opened, after.closed.iter().sum::<u64>()), (2, 1));
    assert_eq!(after.closed[End::Idle as usize - 1], 1);
    drop(second);
    assert_eq!(registry.totals().closed[End::Shutdown as usize - 1], 1, "dropped unfinished");
}

#[tokio::test(start_paused = true)]
async fn emptiness_is_announced() {
    let registry = Registry::default();
    registry.emptied().await;
    let tunnel = registry.open(info("pod"));
    let waiting = tokio::spawn({
        let registry = registry.clone();
        async move { registry.emptied().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    drop(tunnel);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_closed_tunnel_is_woken() {
    let registry = Registry::default();
    let tunnel = registry.open(info("pod"));
    let told = std::future::poll_fn(|cx| match tunnel.poll_asked(cx.waker()) {
        Some(end) => std::task::Poll::Ready(end),
        None => std::task::Poll::Pending,
    });
    let closer = registry.clone();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        closer.close(1, End::Operator)
    });
    assert_eq!(told.await, End::Operator);
    assert!(thread.join().unwrap());
}

#[test]
fn an_entry_is_small() {
    assert!(size_of::<Live>() <= 304, "{} bytes", size_of::<Live>());
}

/// Everything at once, from several threads: no tunnel is lost or counted twice.
#[tokio::test]
async fn threads_do_not_disturb_each_other() {
    let registry = Registry::default();
    thread::scope(|scope| {
        for thread in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for n in 0..500 {
                    let tunnel = registry.open(info(&format!("pod-{}", n % 7)));
                    tunnel.carried(Flow { bytes: 1, frames: 1 }, Flow::default());
                    if n % 50 == thread {
                        registry.close_where(|info| *info.pod == *"pod-3", End::Drain);
                        assert!(registry.totals().to_pod.bytes > 0);
                    }
                    tunnel.ended(End::ClientClose);
                }
            });
        }
    });
    let totals = registry.totals();
    assert_eq!((totals.opened, totals.to_pod.bytes, registry.len()), (2000, 2000, 0));
    assert_eq!(totals.closed[0], 2000);
}

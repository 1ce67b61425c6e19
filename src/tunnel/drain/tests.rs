use super::*;
use crate::tunnel::registry::{Info, Tunnel};
use proptest::prelude::*;
use std::future::poll_fn;
use std::task::Poll;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

proptest! {
    #[test]
    fn no_second_gets_more_than_a_tenth(
        count in 0..3000_usize,
        grace in 13_000..600_000_u64,
        seed in any::<u64>(),
    ) {
        let grace = Duration::from_millis(grace);
        let times = schedule(count, grace, &mut SplitMix::new(seed));
        prop_assert_eq!(times.len(), count);
        prop_assert!(times.is_sorted());
        prop_assert!(times.last().is_none_or(|last| *last <= grace - CLOSING));
        // Any second, not only those that begin on a full one; rounding to whole nanoseconds aside.
        let window = seconds(1) - Duration::from_nanos(2);
        for (n, time) in times.iter().enumerate() {
            let within = times[n..].iter().take_while(|other| **other - *time < window).count();
            prop_assert!(within <= count.div_ceil(10), "{} of {} within a second", within, count);
        }
        // The whole grace period is used.
        if count > 20 {
            prop_assert!(times[count - 1].as_secs_f64() > grace.as_secs_f64() * 0.8);
        }
    }

    #[test]
    fn short_graces_are_kept_too(count in 0..500_usize, grace in 0..13_000_u64) {
        let grace = Duration::from_millis(grace);
        let times = schedule(count, grace, &mut SplitMix::seeded());
        prop_assert_eq!(times.len(), count);
        prop_assert!(times.is_sorted());
        prop_assert!(times.last().is_none_or(|last| *last <= grace.saturating_sub(CLOSING)));
    }
}

#[test]
fn the_quietest_go_first() {
    let tunnels = vec![(1, seconds(0)), (2, seconds(90)), (3, seconds(6))];
    assert_eq!(order(tunnels), [2, 3, 1]);
}

fn open(registry: &Registry) -> Tunnel {
    registry.open(Info {
        route: "vnc".into(),
        token: None,
        pod: "pod".into(),
        uid: None,
        client: None,
        deadline: None,
        grace: Duration::ZERO,
    })
}

/// Waits until it is told to end; says when, and why.
async fn obey(tunnel: Tunnel) -> (u64, Instant, End) {
    let end = poll_fn(|cx| match tunnel.poll_asked(cx.waker()) {
        Some(end) => Poll::Ready(end),
        None => Poll::Pending,
    })
    .await;
    (tunnel.id(), Instant::now(), end)
}

#[tokio::test(start_paused = true)]
async fn users_at_work_are_the_last_to_be_cut() {
    let registry = Registry::default();
    let mut tunnels: Vec<_> = (0..100).map(|_| open(&registry)).collect();
    tokio::time::advance(seconds(100)).await;
    let busy = tunnels.split_off(60);
    busy.iter().for_each(|tunnel| tunnel.input(Instant::now()));
    // Nobody is asked to end while its user types, as long as others are there.
    let returned = tunnels.remove(0);
    let returned_id = returned.id();
    returned.input(Instant::now());
    let all: Vec<_> = tunnels
        .into_iter()
        .chain(busy)
        .chain([returned])
        .map(|tunnel| tokio::spawn(obey(tunnel)))
        .collect();
    let begun = Instant::now();
    assert_eq!(drain(&registry, seconds(60)).await, 0);
    assert!(begun.elapsed() <= seconds(60));
    let mut ended = Vec::new();
    for tunnel in all {
        ended.push(tunnel.await.unwrap());
    }
    ended.sort_by_key(|(_, at, _)| *at);
    assert!(ended.iter().all(|(_, _, end)| *end == End::Drain));
    let quiet = ended.iter().take(59);
    assert!(quiet.clone().all(|(id, ..)| *id <= 60 && *id != returned_id));
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_with_its_last_tunnel_or_its_time() {
    let registry = Registry::default();
    assert_eq!(drain(&registry, seconds(60)).await, 0);
    let begun = Instant::now();
    let deaf = open(&registry);
    let short = tokio::spawn({
        let tunnel = open(&registry);
        async move {
            tokio::time::sleep(seconds(3)).await;
            drop(tunnel);
        }
    });
    assert_eq!(drain(&registry, seconds(20)).await, 1);
    assert_eq!(begun.elapsed(), seconds(20));
    short.await.unwrap();
    drop(deaf);
}

#[tokio::test(start_paused = true)]
async fn late_comers_are_closed_as_well() {
    let registry = Registry::default();
    let first = tokio::spawn(obey(open(&registry)));
    let holds = open(&registry);
    let late = tokio::spawn({
        let registry = registry.clone();
        async move {
            tokio::time::sleep(seconds(1)).await;
            let late = open(&registry);
            let ends = tokio::join!(obey(holds), obey(late));
            ends.1.2
        }
    });
    assert_eq!(drain(&registry, seconds(30)).await, 0);
    assert_eq!(late.await.unwrap(), End::Drain);
    first.await.unwrap();
}

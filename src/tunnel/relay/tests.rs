use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const IDLE: Duration = Duration::from_secs(3600);

/// A running relay: the far ends of the client and of the pod.
fn start(early: Early, idle: Duration) -> (DuplexStream, DuplexStream, JoinHandle<Outcome>) {
    let (client, near_client) = duplex(64);
    let (pod, near_pod) = duplex(64);
    (client, pod, tokio::spawn(relay(near_client, near_pod, early, idle)))
}

async fn read_to_end(side: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    side.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test(start_paused = true)]
async fn bytes_glued_to_the_heads_come_first() {
    let early = Early { to_pod: Bytes::from_static(b"ab"), to_client: Bytes::from_static(b"xy") };
    let (mut client, mut pod, relay) = start(early, IDLE);
    client.write_all(b"cd").await.unwrap();
    pod.write_all(b"z").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut pod).await, b"abcd");
    pod.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"xyz");
    let outcome = relay.await.unwrap();
    assert_eq!(outcome, Outcome { to_pod: 4, to_client: 3, end: End::ClientClose });
}

#[tokio::test(start_paused = true)]
async fn a_side_that_closed_still_hears_the_other() {
    let (mut client, mut pod, relay) = start(Early::default(), IDLE);
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut pod).await, b"");
    pod.write_all(b"the rest").await.unwrap();
    drop(pod);
    assert_eq!(read_to_end(&mut client).await, b"the rest");
    assert_eq!(relay.await.unwrap().end, End::ClientClose);
}

#[tokio::test(start_paused = true)]
async fn the_pod_may_close_first() {
    let (mut client, mut pod, relay) = start(Early::default(), IDLE);
    pod.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"");
    drop(client);
    assert_eq!(relay.await.unwrap().end, End::PodClose);
}

#[tokio::test(start_paused = true)]
async fn large_streams_arrive_whole_both_ways() {
    let (client, pod, relay) = start(Early::default(), IDLE);
    let pattern: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let pump = |side: DuplexStream, pattern: Vec<u8>| async move {
        let (mut reader, mut writer) = tokio::io::split(side);
        let write = async {
            writer.write_all(&pattern).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut read = Vec::new();
        let (_, all) = tokio::join!(write, reader.read_to_end(&mut read));
        all.unwrap();
        read == pattern
    };
    let (up, down) = tokio::join!(pump(client, pattern.clone()), pump(pod, pattern));
    assert!(up && down);
    let outcome = relay.await.unwrap();
    assert_eq!((outcome.to_pod, outcome.to_client), (3_000_000, 3_000_000));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_tunnel_only_at_its_limit() {
    let (mut client, _pod, relay) = start(Early::default(), Duration::from_secs(300));
    let started = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(299)).await;
        client.write_all(b".").await.unwrap();
    }
    assert!(!relay.is_finished());
    assert_eq!(relay.await.unwrap().end, End::Idle);
    assert_eq!(started.elapsed().as_secs(), 2990 + 300);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_tunnel_ends_after_thirty_seconds() {
    let (mut client, _pod, relay) = start(Early::default(), IDLE);
    client.shutdown().await.unwrap();
    let started = Instant::now();
    assert_eq!(relay.await.unwrap().end, End::HalfClosed);
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_side_costs_one_buffer_and_the_other_direction_flows() {
    let (mut client, mut pod, _relay) = start(Early::default(), IDLE);
    // The client reads nothing: the pod can write one buffer and what the pipes hold.
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), pod.write(&[0; 4096])).await {
        taken += written.unwrap();
        assert!(taken <= LARGE + 128, "{taken} bytes held for a stalled client");
    }
    client.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    pod.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_broken_side_is_named() {
    let (client, mut pod, relay) = start(Early::default(), IDLE);
    drop(client);
    // The relay has passed the end on; what the pod still says has nowhere to go.
    assert_eq!(read_to_end(&mut pod).await, b"");
    pod.write_all(b"anyone?").await.unwrap();
    assert_eq!(relay.await.unwrap().end, End::ClientLost);
}

#[test]
fn an_idle_relay_is_small() {
    let (client, pod) = (duplex(1).0, duplex(1).0);
    let size = size_of_val(&relay(client, pod, Early::default(), IDLE));
    assert!(size < 1024, "{size} bytes");
}

use super::*;
use crate::tunnel::direction::LARGE;
use crate::tunnel::registry::{Info, Registry};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// No pings: for what is not about them.
const QUIET: Limits = Limits { idle: seconds(3600), ping: None };

/// A running relay, and the far ends of its client and pod.
struct Rig {
    client: DuplexStream,
    pod: DuplexStream,
    registry: Registry,
    begun: Instant,
    relay: JoinHandle<Outcome>,
}

fn info(deadline: Option<Instant>) -> Info {
    let grace = Duration::ZERO;
    let (route, pod) = ("vnc".into(), "pod".into());
    Info { route, token: None, pod, uid: None, client: None, deadline, grace }
}

fn start_with(early: Early, limits: Limits, deadline: Option<Instant>) -> Rig {
    let (client, near_client) = duplex(64);
    let (pod, near_pod) = duplex(64);
    let registry = Registry::default();
    let tunnel = registry.open(info(deadline));
    let relay = tokio::spawn(relay(near_client, near_pod, early, tunnel, limits));
    Rig { client, pod, registry, begun: Instant::now(), relay }
}

fn start(limits: Limits) -> Rig {
    start_with(Early::default(), limits, None)
}

/// A frame, masked as clients do.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut out = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

/// Reads one short frame: its first byte and its payload, unmasked.
async fn read_frame(side: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    side.read_exact(&mut head).await?;
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        side.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    side.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((head[0], payload))
}

async fn read_to_end(side: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    side.read_to_end(&mut all).await.unwrap();
    all
}

/// Nothing arrives for a while.
async fn assert_silent(side: &mut DuplexStream, time: Duration) {
    let mut byte = [0];
    assert!(timeout(time, side.read(&mut byte)).await.is_err(), "{byte:?} arrived");
}

/// Reads on, and answers pings as browsers do; gives back what else arrived.
fn browser(mut side: DuplexStream) -> JoinHandle<Vec<(u8, Vec<u8>)>> {
    tokio::spawn(async move {
        let mut others = Vec::new();
        while let Ok((first, payload)) = read_frame(&mut side).await {
            match first {
                0x89 => side.write_all(&masked(0x8a, &payload)).await.unwrap(),
                _ => others.push((first, payload)),
            }
        }
        others
    })
}

// Moving bytes

#[tokio::test(start_paused = true)]
async fn bytes_glued_to_the_heads_come_first_and_are_counted() {
    let early = Early {
        to_pod: Bytes::from(masked(0x82, b"ab")),
        to_client: Bytes::from_static(&[0x82, 3, b'x']),
    };
    let mut rig = start_with(early, QUIET, None);
    rig.client.write_all(&masked(0x82, b"cd")).await.unwrap();
    rig.pod.write_all(b"yz").await.unwrap();
    rig.client.shutdown().await.unwrap();
    let to_pod = [masked(0x82, b"ab"), masked(0x82, b"cd")].concat();
    assert_eq!(read_to_end(&mut rig.pod).await, to_pod);
    rig.pod.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await, plain(0x82, b"xyz"));
    let to_pod = Flow { bytes: 16, frames: 2 };
    let to_client = Flow { bytes: 5, frames: 1 };
    assert_eq!(rig.relay.await.unwrap(), Outcome { to_pod, to_client, end: End::ClientClose });
    let totals = rig.registry.totals();
    assert_eq!((totals.to_pod, totals.to_client, totals.closed[0]), (to_pod, to_client, 1));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_closed_still_hears_the_other() {
    let mut rig = start(Limits::default());
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.pod).await, b"");
    rig.pod.write_all(b"the rest").await.unwrap();
    drop(rig.pod);
    assert_eq!(read_to_end(&mut rig.client).await, b"the rest");
    assert_eq!(rig.relay.await.unwrap().end, End::ClientClose);
}

#[tokio::test(start_paused = true)]
async fn the_pod_may_close_first() {
    let mut rig = start(QUIET);
    rig.pod.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    rig.client.write_all(b"the rest").await.unwrap();
    drop(rig.client);
    assert_eq!(read_to_end(&mut rig.pod).await, b"the rest");
    assert_eq!(rig.relay.await.unwrap().end, End::PodClose);
}

#[tokio::test(start_paused = true)]
async fn large_streams_arrive_whole_both_ways() {
    let rig = start(QUIET);
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
    let (up, down) = tokio::join!(pump(rig.client, pattern.clone()), pump(rig.pod, pattern));
    assert!(up && down);
    let outcome = rig.relay.await.unwrap();
    assert_eq!((outcome.to_pod.bytes, outcome.to_client.bytes), (3_000_000, 3_000_000));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_side_costs_one_buffer_and_the_other_direction_flows() {
    let mut rig = start(QUIET);
    // The client reads nothing: the pod can write one buffer and what the pipes hold.
    let mut taken = 0;
    while let Ok(written) = timeout(seconds(1), rig.pod.write(&[0; 4096])).await {
        taken += written.unwrap();
        assert!(taken <= LARGE + 128, "{taken} bytes held for a stalled client");
    }
    rig.client.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    rig.pod.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_broken_side_is_named() {
    let mut rig = start(QUIET);
    drop(rig.client);
    // The relay has passed the end on; what the pod still says has nowhere to go.
    assert_eq!(read_to_end(&mut rig.pod).await, b"");
    rig.pod.write_all(b"anyone?").await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::ClientLost);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_breaks_after_a_close_frame_was_not_lost() {
    let mut rig = start(QUIET);
    rig.pod.write_all(&plain(0x88, &[3, 232])).await.unwrap();
    assert_eq!(read_frame(&mut rig.client).await.unwrap(), (0x88, vec![3, 232]));
    drop(rig.client);
    assert_eq!(read_to_end(&mut rig.pod).await, b"");
    rig.pod.write_all(b"anyone?").await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::PodClose);
}

/// A pod that has said something and is gone: writes fail before what it said can be read.
struct Gone(std::collections::VecDeque<&'static [u8]>);

impl AsyncRead for Gone {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.pop_front() {
            Some(b"") => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            said => space.put_slice(said.unwrap_or_default()),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gone {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_pod_that_hears_nothing_arrive() {
    for (last, end) in [(&[0x88, 2, 15, 161][..], End::PodClose), (&[0x82, 2, 1, 2], End::PodLost)]
    {
        let (mut client, near) = duplex(1000);
        let pod = Gone([&b""[..], b"", b"\x82\x01a", b"", last].into());
        let tunnel = Registry::default().open(info(None));
        let relay = tokio::spawn(relay(near, pod, Early::default(), tunnel, QUIET));
        client.write_all(&masked(0x82, b"key")).await.unwrap();
        assert_eq!(read_to_end(&mut client).await, [&b"\x82\x01a"[..], last].concat());
        assert_eq!(relay.await.unwrap().end, end);
    }
}

/// What a pod has said, in pieces: a frame of 400,000 bytes and a Close frame.
fn picture() -> Vec<&'static [u8]> {
    const PIECE: &[u8] = &[7; 10_000];
    let mut said = vec![b"\x82\x7f\0\0\0\0\0\x06\x1a\x80" as &[u8]];
    said.extend([PIECE; 40]);
    said.push(&[0x88, 2, 3, 232]);
    said
}

/// A running relay between a client that has typed, before or after its pipe was full, and a pod that
/// is gone.
async fn with_last_words(typed_before: bool) -> (DuplexStream, JoinHandle<Outcome>) {
    let (mut client, near) = duplex(1000);
    let tunnel = Registry::default().open(info(None));
    let pod = Gone(picture().into());
    let relay = tokio::spawn(relay(near, pod, Early::default(), tunnel, QUIET));
    if !typed_before {
        sleep(seconds(1)).await;
    }
    client.write_all(&masked(0x82, b"key")).await.unwrap();
    sleep(seconds(1)).await;
    (client, relay)
}

#[tokio::test(start_paused = true)]
async fn last_words_wait_for_a_client_that_takes_them_later() {
    for typed_before in [true, false] {
        let (mut client, relay) = with_last_words(typed_before).await;
        assert!(!relay.is_finished());
        sleep(HALF_CLOSED - seconds(2)).await;
        assert!(read_to_end(&mut client).await == picture().concat());
        assert_eq!(relay.await.unwrap().end, End::PodClose);
    }
}

#[tokio::test(start_paused = true)]
async fn last_words_arrive_at_the_pace_of_the_client() {
    for typed_before in [true, false] {
        let (mut client, relay) = with_last_words(typed_before).await;
        let (mut heard, mut piece) = (Vec::new(), [0; 1000]);
        while let count @ 1.. = client.read(&mut piece).await.unwrap() {
            heard.extend_from_slice(&piece[..count]);
            sleep(HALF_CLOSED - seconds(2)).await;
        }
        assert!(heard == picture().concat());
        assert_eq!(relay.await.unwrap().end, End::PodClose);
    }
}

#[tokio::test(start_paused = true)]
async fn last_words_do_not_wait_for_ever() {
    for typed_before in [true, false] {
        let begun = Instant::now();
        let (mut client, relay) = with_last_words(typed_before).await;
        let typing = tokio::spawn(async move {
            // Which shows that it is there, not that it takes anything.
            while client.write_all(&masked(0x82, b"key")).await.is_ok() {
                sleep(seconds(1)).await;
            }
        });
        let outcome = timeout(HALF_CLOSED * 2, relay).await.unwrap().unwrap();
        assert_eq!(outcome.end, End::HalfClosed);
        assert!((30..=31).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        typing.await.unwrap();
    }
}

// Silence

#[tokio::test(start_paused = true)]
async fn silence_ends_a_tunnel_only_at_its_limit() {
    let mut rig = start(Limits { idle: seconds(300), ping: None });
    for _ in 0..10 {
        sleep(seconds(299)).await;
        rig.client.write_all(b".").await.unwrap();
    }
    assert!(!rig.relay.is_finished());
    assert_eq!(rig.relay.await.unwrap().end, End::Idle);
    assert_eq!(rig.begun.elapsed().as_secs(), 2990 + 300);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_tunnel_ends_after_thirty_seconds() {
    let mut rig = start(Limits::default());
    rig.client.shutdown().await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::HalfClosed);
    assert_eq!(rig.begun.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_lost_after_two() {
    let mut rig = start(Limits::default());
    let mut payloads = Vec::new();
    for at in [25, 50] {
        let (first, payload) = read_frame(&mut rig.client).await.unwrap();
        assert_eq!((first, rig.begun.elapsed().as_secs()), (0x89, at));
        payloads.push(payload);
    }
    assert_ne!(payloads[0], payloads[1]);
    let outcome = rig.relay.await.unwrap();
    assert_eq!((outcome.end, rig.begun.elapsed().as_secs()), (End::ClientLost, 75));
    assert_eq!((outcome.to_client, outcome.to_pod), (Flow::default(), Flow::default()));
    // Both sides are free, and the pod was asked as often.
    let asked = read_to_end(&mut rig.pod).await;
    assert_eq!((asked.len(), asked[0], asked[1]), (2 * 14, 0x89, 0x88));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_was_held_up_gives_others_their_time() {
    let mut rig = start(Limits::default());
    // It has begun to wait.
    assert_silent(&mut rig.client, seconds(1)).await;
    tokio::time::advance(seconds(1000)).await;
    let (first, payload) = read_frame(&mut rig.client).await.unwrap();
    assert_eq!(first, 0x89);
    assert_silent(&mut rig.client, seconds(20)).await;
    rig.client.write_all(&masked(0x8a, &payload)).await.unwrap();
    assert_silent(&mut rig.client, seconds(20)).await;
    assert!(!rig.relay.is_finished());
}

#[tokio::test(start_paused = true)]
async fn any_byte_proves_a_client_alive() {
    let rig = start(Limits::default());
    let (mut reader, mut writer) = tokio::io::split(rig.client);
    let mut pod = rig.pod;
    let heard = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let _pod = tokio::spawn(async move { pod.read_to_end(&mut Vec::new()).await });
    for _ in 0..20 {
        sleep(seconds(70)).await;
        writer.write_all(&masked(0x82, b"")).await.unwrap();
    }
    assert!(!rig.relay.is_finished());
    assert_eq!(rig.relay.await.unwrap().end, End::ClientLost);
    assert_eq!(rig.begun.elapsed().as_secs(), 20 * 70 + 75);
    assert_eq!(heard.await.unwrap().unwrap(), 21 * 2 * 10);
}

#[tokio::test(start_paused = true)]
async fn a_silent_tunnel_lives_for_days_if_the_client_answers() {
    let mut rig = start(Limits::default());
    let browser = browser(rig.client);
    sleep(seconds(3 * 24 * 3600)).await;
    assert!(!rig.relay.is_finished());
    let tunnel = rig.registry.list().remove(0);
    assert!(tunnel.rtt.is_some_and(|rtt| rtt < 0.1));
    assert_eq!((tunnel.to_pod, tunnel.to_client), (Flow::default(), Flow::default()));
    assert_eq!(tunnel.last_input, None);
    // The pod, which answers no pings, saw the two that it was sent at first and nothing else.
    for _ in 0..2 {
        assert_eq!(read_frame(&mut rig.pod).await.unwrap().0, 0x89);
    }
    assert_silent(&mut rig.pod, seconds(100)).await;
    rig.pod.write_all(&plain(0x82, b"hello")).await.unwrap();
    drop(rig.pod);
    assert_eq!(browser.await.unwrap(), [(0x82, b"hello".to_vec())]);
    assert_eq!(rig.relay.await.unwrap().end, End::PodClose);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_lost_only_if_it_has_answered_before() {
    let mut rig = start(Limits::default());
    let _browser = browser(rig.client);
    let (first, payload) = read_frame(&mut rig.pod).await.unwrap();
    assert_eq!((first, rig.begun.elapsed().as_secs()), (0x89, 25));
    sleep(seconds(1)).await;
    rig.pod.write_all(&plain(0x8a, &payload)).await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::PodLost);
    assert_eq!(rig.begun.elapsed().as_secs(), 26 + 75);
}

/// As one does that was stopped for long. Its client never asked.
#[tokio::test(start_paused = true)]
async fn a_pod_that_answers_late_answers_us_alone() {
    let mut rig = start(Limits::default());
    let browser = browser(rig.client);
    let (_, first) = read_frame(&mut rig.pod).await.unwrap();
    let (_, second) = read_frame(&mut rig.pod).await.unwrap();
    sleep(seconds(1000)).await;
    for payload in [first, second] {
        rig.pod.write_all(&plain(0x8a, &payload)).await.unwrap();
    }
    rig.pod.write_all(&plain(0x82, b"hello")).await.unwrap();
    drop(rig.pod);
    assert_eq!(browser.await.unwrap(), [(0x82, b"hello".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn pongs_that_are_not_ours_pass() {
    let mut rig = start(Limits::default());
    assert_eq!(read_frame(&mut rig.client).await.unwrap().0, 0x89);
    assert_eq!(read_frame(&mut rig.pod).await.unwrap().0, 0x89);
    let unsolicited =
        [masked(0x8a, b""), masked(0x8a, b"12345678"), masked(0x8a, b"long as can be")];
    for byte in unsolicited.concat() {
        rig.client.write_all(&[byte]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let mut heard = vec![0; unsolicited.concat().len()];
    rig.pod.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, unsolicited.concat());
}

#[tokio::test(start_paused = true)]
async fn a_pong_cut_by_the_end_of_the_stream_passes() {
    let mut rig = start(Limits::default());
    let (_, payload) = read_frame(&mut rig.client).await.unwrap();
    assert_eq!(read_frame(&mut rig.pod).await.unwrap().0, 0x89);
    let mut pong = masked(0x8a, &payload);
    pong.pop();
    rig.client.write_all(&pong).await.unwrap();
    assert_silent(&mut rig.pod, seconds(1)).await;
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.pod).await, pong);
}

#[tokio::test(start_paused = true)]
async fn streams_without_frames_are_never_pinged() {
    let mut rig = start(Limits { idle: seconds(1000), ping: Some(seconds(25)) });
    rig.client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    rig.pod.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::Idle);
    assert_eq!(rig.begun.elapsed().as_secs(), 1000);
    assert_eq!(read_to_end(&mut rig.client).await, b"SSH-2.0-server\r\n");
    assert_eq!(read_to_end(&mut rig.pod).await, b"SSH-2.0-client\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_the_end_of_a_frame() {
    let mut rig = start(Limits::default());
    rig.pod.write_all(&[0x82, 6, 1, 2, 3]).await.unwrap();
    // A client that was not asked is not lost, however long the frame takes.
    sleep(seconds(200)).await;
    rig.pod.write_all(&[4, 5]).await.unwrap();
    sleep(seconds(10)).await;
    rig.pod.write_all(&[6, 0x82, 1, 7]).await.unwrap();
    assert_eq!(read_frame(&mut rig.client).await.unwrap(), (0x82, vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(read_frame(&mut rig.client).await.unwrap().0, 0x89);
    assert_eq!(read_frame(&mut rig.client).await.unwrap(), (0x82, vec![7]));
    assert_eq!(rig.begun.elapsed().as_secs(), 210);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_client_is_lost_though_its_ping_could_not_go() {
    let mut rig = start(Limits::default());
    rig.pod.write_all(&plain(0x82, &[0; 125])).await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::ClientLost);
    assert_eq!(rig.begun.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_read_because_the_pod_stalls_is_not_lost() {
    let mut rig = start(Limits { idle: seconds(1000), ping: Some(seconds(25)) });
    let flood = tokio::spawn(async move {
        while rig.client.write_all(&masked(0x82, &[0; 100])).await.is_ok() {}
    });
    assert_eq!(rig.relay.await.unwrap().end, End::Idle);
    assert_eq!(rig.begun.elapsed().as_secs(), 1000);
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_after_a_close_frame_of_the_others() {
    let mut rig = start(Limits { idle: seconds(600), ping: Some(seconds(25)) });
    rig.pod.write_all(&plain(0x88, &[3, 232])).await.unwrap();
    sleep(seconds(300)).await;
    rig.client.write_all(&masked(0x88, &[3, 232])).await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::Idle);
    assert_eq!(read_to_end(&mut rig.client).await, plain(0x88, &[3, 232]));
    let to_pod = read_to_end(&mut rig.pod).await;
    assert_eq!(to_pod[28..], masked(0x88, &[3, 232]), "behind two pings");
}

#[tokio::test(start_paused = true)]
async fn user_input_is_a_data_frame_of_the_client() {
    let mut rig = start(QUIET);
    rig.client.write_all(&masked(0x82, b"key")).await.unwrap();
    sleep(seconds(10)).await;
    rig.client.write_all(&masked(0x89, b"")).await.unwrap();
    rig.pod.write_all(&plain(0x82, b"picture")).await.unwrap();
    sleep(seconds(10)).await;
    let tunnel = rig.registry.list().remove(0);
    assert_eq!(tunnel.last_input.map(f64::round), Some(20.0));
    assert_eq!(tunnel.to_pod, Flow { bytes: 15, frames: 2 });
}

// Ends of our own

#[tokio::test(start_paused = true)]
async fn each_end_is_told_to_both_sides() {
    for end in End::ALL {
        let mut rig = start(QUIET);
        rig.pod.write_all(&plain(0x82, b"before")).await.unwrap();
        sleep(seconds(1)).await;
        let asked = Instant::now();
        assert!(rig.registry.close(1, end));
        let text = end.close_text();
        let payload = |code: u16| [&code.to_be_bytes(), text.as_bytes()].concat();
        let to_client = payload(end.close_code().unwrap_or(1001));
        let (mut near, mut far) = (rig.client, rig.pod);
        assert_eq!(read_frame(&mut near).await.unwrap(), (0x82, b"before".to_vec()));
        assert_eq!(read_frame(&mut near).await.unwrap(), (0x88, to_client.clone()));
        assert_eq!(read_frame(&mut far).await.unwrap(), (0x88, payload(1001)));
        // What the pod still says is dropped, and the answer of the client is enough.
        far.write_all(&plain(0x82, b"after")).await.unwrap();
        near.write_all(&masked(0x88, &to_client)).await.unwrap();
        let outcome = rig.relay.await.unwrap();
        assert_eq!((outcome.end, asked.elapsed()), (end, Duration::ZERO));
        assert_eq!(outcome.to_client, Flow { bytes: 8, frames: 2 });
        assert_eq!(read_to_end(&mut near).await, b"");
        assert_eq!(read_to_end(&mut far).await, b"");
        assert_eq!(rig.registry.totals().closed[end as usize - 1], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn frames_on_their_way_are_completed_before_the_end() {
    let mut rig = start(QUIET);
    rig.pod.write_all(&[0x82, 4, 1, 2]).await.unwrap();
    let key = masked(0x82, b"key");
    let (start_of_key, rest_of_key) = key.split_at(3);
    rig.client.write_all(start_of_key).await.unwrap();
    sleep(seconds(1)).await;
    assert!(rig.registry.close(1, End::Drain));
    sleep(Duration::from_millis(500)).await;
    rig.pod.write_all(&[3, 4, 0x82, 1, 9]).await.unwrap();
    rig.client.write_all(rest_of_key).await.unwrap();
    rig.client.write_all(&masked(0x82, b"lost")).await.unwrap();
    assert_eq!(read_frame(&mut rig.client).await.unwrap(), (0x82, vec![1, 2, 3, 4]));
    assert_eq!(read_frame(&mut rig.client).await.unwrap().0, 0x88);
    assert_eq!(read_frame(&mut rig.pod).await.unwrap(), (0x82, b"key".to_vec()));
    assert_eq!(read_frame(&mut rig.pod).await.unwrap().0, 0x88);
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    assert_eq!(rig.relay.await.unwrap().end, End::Drain);
    // It did not answer, so it had a second from when it was told.
    assert_eq!(rig.begun.elapsed(), Duration::from_millis(2500));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_delays_an_end_by_two_seconds_at_most() {
    let mut rig = start(QUIET);
    let flood =
        tokio::spawn(
            async move { while rig.pod.write_all(&plain(0x82, &[0; 100])).await.is_ok() {} },
        );
    sleep(seconds(5)).await;
    let asked = Instant::now();
    assert!(rig.registry.close(1, End::Revoked));
    assert_eq!(rig.relay.await.unwrap().end, End::Revoked);
    assert!(asked.elapsed() <= seconds(2), "{:?}", asked.elapsed());
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_floods_does_not_keep_the_client_from_being_told() {
    let mut rig = start(QUIET);
    let flood =
        tokio::spawn(
            async move { while rig.pod.write_all(&plain(0x82, &[7; 100])).await.is_ok() {} },
        );
    let reader = tokio::spawn(async move {
        loop {
            let frame = read_frame(&mut rig.client).await.unwrap();
            if frame != (0x82, vec![7; 100]) {
                return frame;
            }
        }
    });
    tokio::task::yield_now().await;
    assert!(rig.registry.close(1, End::DesktopGone));
    let (first, payload) = reader.await.unwrap();
    assert_eq!((first, &payload[..2]), (0x88, &4404_u16.to_be_bytes()[..]));
    assert_eq!(rig.relay.await.unwrap().end, End::DesktopGone);
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_even_if_the_pod_is_gone() {
    let mut rig = start(QUIET);
    // The client was told to wait; the pod's end is noticed in the same moment.
    rig.client.write_all(&masked(0x82, b"to whom?")).await.unwrap();
    assert!(rig.registry.close(1, End::DesktopGone));
    drop(rig.pod);
    let (first, payload) = read_frame(&mut rig.client).await.unwrap();
    assert_eq!((first, &payload[..2]), (0x88, &4404_u16.to_be_bytes()[..]));
    rig.client.write_all(&masked(0x88, &payload)).await.unwrap();
    assert_eq!(rig.relay.await.unwrap().end, End::DesktopGone);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_frames_is_only_cut() {
    let mut rig = start(QUIET);
    rig.client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    rig.pod.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    sleep(seconds(1)).await;
    assert!(rig.registry.close(1, End::Shutdown));
    assert_eq!(read_to_end(&mut rig.client).await, b"SSH-2.0-server\r\n");
    assert_eq!(read_to_end(&mut rig.pod).await, b"SSH-2.0-client\r\n");
    assert_eq!(rig.relay.await.unwrap().end, End::Shutdown);
    assert_eq!(rig.begun.elapsed(), seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_its_tunnel_unless_it_is_renewed() {
    let at = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
    let mut rig = start_with(Early::default(), QUIET, at(60));
    sleep(seconds(59)).await;
    assert_eq!(rig.registry.renew("pod", Instant::now() + seconds(600)), 1);
    let (first, payload) = read_frame(&mut rig.client).await.unwrap();
    assert_eq!((first, &payload[..2]), (0x88, &4401_u16.to_be_bytes()[..]));
    assert_eq!(&payload[2..], br#"{"reason":"token_expired"}"#);
    assert_eq!(rig.begun.elapsed().as_secs(), 659);
    assert_eq!(rig.relay.await.unwrap().end, End::TokenExpired);
    assert_eq!(rig.begun.elapsed().as_secs(), 660);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_tunnels_end_at_once() {
    let registry = Registry::default();
    let mut far = Vec::new();
    let mut relays = Vec::new();
    for _ in 0..10_000 {
        let (client, near_client) = duplex(64);
        let (pod, near_pod) = duplex(64);
        far.push((client, pod));
        let tunnel = registry.open(info(None));
        let relay = relay(near_client, near_pod, Early::default(), tunnel, Limits::default());
        relays.push(tokio::spawn(relay));
    }
    sleep(seconds(1)).await;
    let begun = std::time::Instant::now();
    assert_eq!(registry.close_where(|info| *info.pod == *"pod", End::Drain), 10_000);
    assert!(begun.elapsed() < seconds(1), "{:?}", begun.elapsed());
    registry.emptied().await;
    assert!(begun.elapsed() < seconds(10), "{:?}", begun.elapsed());
    for relay in relays {
        assert_eq!(relay.await.unwrap().end, End::Drain);
    }
}

#[tokio::test]
async fn a_close_frame_survives_a_real_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pair = async || {
        let far = tokio::net::TcpStream::connect(address).await.unwrap();
        (far, listener.accept().await.unwrap().0)
    };
    let ((mut client, near_client), (mut pod, near_pod)) = (pair().await, pair().await);
    let registry = Registry::default();
    let tunnel = registry.open(info(None));
    let relay = relay(near_client, near_pod, Early::default(), tunnel, Limits::default());
    let relay = tokio::spawn(relay);
    let flood =
        tokio::spawn(async move { while pod.write_all(&plain(0x82, &[7; 100])).await.is_ok() {} });
    for _ in 0..10_000 {
        assert_eq!(read_frame(&mut client).await.unwrap(), (0x82, vec![7; 100]));
    }
    assert!(registry.close(1, End::Drain));
    let payload = loop {
        match read_frame(&mut client).await.unwrap() {
            (0x88, payload) => break payload,
            (first, payload) => assert_eq!((first, payload), (0x82, vec![7; 100])),
        }
    };
    assert_eq!(&payload[..2], &1012_u16.to_be_bytes());
    client.write_all(&masked(0x88, &payload)).await.unwrap();
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    let outcome = relay.await.unwrap();
    assert_eq!((outcome.end, outcome.to_client.bytes % 102), (End::Drain, 0));
    flood.await.unwrap();
}

// Sharing a thread

/// Always has something to read, and takes everything.
struct Flood;

impl AsyncRead for Flood {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = space.remaining();
        space.initialize_unfilled().fill(0);
        space.advance(size);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_flood_does_not_starve_its_neighbours() {
    let mut rig = start(QUIET);
    let registry = Registry::default();
    let tunnel = registry.open(info(None));
    let flood = tokio::spawn(relay(Flood, Flood, Early::default(), tunnel, QUIET));
    for _ in 0..100 {
        rig.client.write_all(b"key").await.unwrap();
        let mut key = [0; 3];
        timeout(seconds(5), rig.pod.read_exact(&mut key)).await.unwrap().unwrap();
    }
    // It runs for ever, and still hears that it has to end.
    assert!(registry.get(1).unwrap().to_pod.bytes > 0);
    assert!(registry.close(1, End::Operator));
    assert_eq!(timeout(seconds(10), flood).await.unwrap().unwrap().end, End::Operator);
}

#[test]
fn an_idle_relay_is_small() {
    let (client, pod) = (duplex(1).0, duplex(1).0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let tunnel = Registry::default().open(info(None));
    let streams = 2 * size_of::<DuplexStream>();
    let size = size_of_val(&relay(client, pod, Early::default(), tunnel, QUIET)) - streams;
    assert!(size <= 640, "{size} bytes beside the streams");
}

// Anything at any time

/// A stream that is cut and delayed anywhere, as `script` says.
struct Choppy<S> {
    inner: S,
    script: Vec<u8>,
    reads: usize,
    writes: usize,
}

impl<S> Choppy<S> {
    fn new(inner: S, mut script: Vec<u8>) -> Self {
        // One of nothing but pauses would never end.
        script.push(7);
        Self { inner, script, reads: 0, writes: 0 }
    }

    /// How many bytes may go in the given step; 0 for a pause.
    fn most(&self, step: usize) -> usize {
        let step = self.script[step % self.script.len()];
        match step % 8 {
            0 => 0,
            1 | 2 => 1,
            3 => 2,
            4 => usize::from(step),
            _ => usize::MAX,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Choppy<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        let most = self.most(self.reads);
        if most == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut part = space.take(most);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let filled = part.filled().len();
        space.advance(filled);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Choppy<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        let most = self.most(self.writes);
        if most == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(most)];
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What a side does: writes a part of a frame, after a pause.
type Script = Vec<(u16, Vec<u8>)>;

/// Speaks frames with pauses anywhere, and answers pings between them. Gives back the frames that
/// it heard, pings not among them, and the number of pings.
async fn endpoint(side: DuplexStream, script: Script, mask: bool) -> (Vec<(u8, Vec<u8>)>, usize) {
    let (mut reader, mut writer) = tokio::io::split(side);
    let (pongs, mut due) = mpsc::unbounded_channel::<Vec<u8>>();
    let frame = if mask { masked } else { plain };
    let write = tokio::spawn(async move {
        for (pause, payload) in script {
            while let Ok(pong) = due.try_recv() {
                writer.write_all(&frame(0x8a, &pong)).await.unwrap();
            }
            let frame = frame(0x82, &payload);
            let (start, end) = frame.split_at(usize::from(pause) % frame.len());
            writer.write_all(start).await.unwrap();
            writer.flush().await.unwrap();
            sleep(Duration::from_millis(pause.into())).await;
            writer.write_all(end).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let (mut heard, mut pings) = (Vec::new(), 0);
    while let Ok((first, payload)) = read_frame(&mut reader).await {
        match first {
            0x89 => {
                pings += 1;
                let _: Result<_, _> = pongs.send(payload);
            }
            _ => heard.push((first, payload)),
        }
    }
    write.await.unwrap();
    (heard, pings)
}

fn script() -> impl Strategy<Value = Script> {
    let pause = prop_oneof![3 => Just(0_u16), 1 => 0..29_000_u16];
    vec((pause, vec(any::<u8>(), 0..=125)), 0..60)
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Frames arrive as they were sent, with pings put in and their pongs taken out, however the
    /// streams are cut.
    #[test]
    fn frames_arrive_whole_under_pings(
        client_script in script(),
        pod_script in script(),
        chops in (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..40)),
        pipe in 1..300_usize,
    ) {
        paused().block_on(async {
            let (client, near_client) = duplex(pipe);
            let (pod, near_pod) = duplex(pipe);
            let tunnel = Registry::default().open(info(None));
            // Pauses are longer than this, and the two pings in the middle of a frame are answered
            // after it.
            let limits = Limits { idle: seconds(3600), ping: Some(seconds(10)) };
            let relay = relay(
                Choppy::new(near_client, chops.0),
                Choppy::new(near_pod, chops.1),
                Early::default(),
                tunnel,
                limits,
            );
            let relay = tokio::spawn(relay);
            let data = |script: &Script| -> Vec<(u8, Vec<u8>)> {
                script.iter().map(|(_, payload)| (0x82, payload.clone())).collect()
            };
            let sent = (data(&client_script), data(&pod_script));
            let (at_client, at_pod) = tokio::join!(
                endpoint(client, client_script, true),
                endpoint(pod, pod_script, false),
            );
            let outcome = relay.await.unwrap();
            assert!(matches!(outcome.end, End::ClientClose | End::PodClose), "{outcome:?}");
            assert!(at_pod.0 == sent.0 && at_client.0 == sent.1);
        });
    }

    #[test]
    fn any_bytes_arrive_as_they_were_sent(
        up in vec(any::<u8>(), 0..3000),
        down in vec(any::<u8>(), 0..3000),
        chops in (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..40)),
        early in 0..100_usize,
        pipe in 1..300_usize,
    ) {
        paused().block_on(async {
            let (client, near_client) = duplex(pipe);
            let (pod, near_pod) = duplex(pipe);
            let (early_up, rest_up) = up.split_at(early.min(up.len()));
            let (early_down, rest_down) = down.split_at(early.min(down.len()));
            let early = Early {
                to_pod: Bytes::copy_from_slice(early_up),
                to_client: Bytes::copy_from_slice(early_down),
            };
            let (near, far) = (Choppy::new(near_client, chops.0), Choppy::new(near_pod, chops.1));
            let tunnel = Registry::default().open(info(None));
            let relay = tokio::spawn(relay(near, far, early, tunnel, Limits::default()));
            let pump = |side: DuplexStream, bytes: Vec<u8>| async move {
                let (mut reader, mut writer) = tokio::io::split(side);
                let mut heard = Vec::new();
                let write = async {
                    writer.write_all(&bytes).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let _ = tokio::join!(write, reader.read_to_end(&mut heard));
                heard
            };
            let (at_client, at_pod) =
                tokio::join!(pump(client, rest_up.to_vec()), pump(pod, rest_down.to_vec()));
            assert!(at_client == down && at_pod == up);
            let outcome = relay.await.unwrap();
            assert_eq!(outcome.to_pod.bytes, up.len() as u64);
            assert_eq!(outcome.to_client.bytes, down.len() as u64);
        });
    }
}

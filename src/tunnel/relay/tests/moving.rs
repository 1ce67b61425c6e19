//! Bytes go through, whoever ends when.

use super::*;

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

/// A pod that has said something, and then is reset.
struct Reset(Gone);

impl AsyncRead for Reset {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.0.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.0).poll_read(cx, space)
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_pod_is_reset_has_time_to_receive_its_last_words() {
    let (mut client, near) = duplex(1000);
    let tunnel = Registry::default().open(info(None));
    let pod = tokio::io::join(Reset(Gone(picture().into())), Taker);
    let relay = super::super::relay(near, pod, Early::default(), tunnel, QUIET);
    let reading = async {
        let mut heard = vec![0; picture().concat().len()];
        client.read_exact(&mut heard).await.unwrap();
        heard
    };
    let ((outcome, unheard), heard) = tokio::join!(relay, reading);
    assert!(heard == picture().concat());
    assert_eq!(outcome.end, End::PodClose);
    // Closed at once, it would be reset as soon as its user types.
    assert!(unheard.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_client_that_takes_nothing_arrive() {
    let (mut pod, near) = duplex(1000);
    let said = [masked(0x82, &[7; 100]).repeat(50), masked(0x88, &[3, 232])].concat();
    let pieces: Vec<&'static [u8]> =
        said.chunks(100).map(|piece| &*piece.to_vec().leak()).collect();
    let tunnel = Registry::default().open(info(None));
    let relay = tokio::spawn(relay(Gone(pieces.into()), near, Early::default(), tunnel, QUIET));
    pod.write_all(&plain(0x82, b"a picture")).await.unwrap();
    sleep(seconds(1)).await;
    assert!(!relay.is_finished(), "the pod is behind");
    assert!(read_to_end(&mut pod).await == said);
    drop(pod);
    assert_eq!(relay.await.unwrap().end, End::ClientClose);
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

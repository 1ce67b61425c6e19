//! Who is asked when nothing is said, and who is given up.

use super::*;

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

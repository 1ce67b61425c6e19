//! What both sides are told when the relay ends.

use super::*;

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

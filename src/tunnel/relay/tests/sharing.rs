//! Tunnels beside each other on a thread.

use super::*;

/// Always has something to read.
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

#[tokio::test(flavor = "current_thread")]
async fn a_flood_does_not_starve_its_neighbours() {
    let mut rig = start(QUIET);
    let registry = Registry::default();
    let tunnel = registry.open(info(None));
    let flood = || tokio::io::join(Flood, Taker);
    let flood = tokio::spawn(relay(flood(), flood(), Early::default(), tunnel, QUIET));
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
    let size =
        size_of_val(&super::super::relay(client, pod, Early::default(), tunnel, QUIET)) - streams;
    assert!(size <= 640, "{size} bytes beside the streams");
}

//! Frames, pauses and cuts in any order.

use super::*;

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

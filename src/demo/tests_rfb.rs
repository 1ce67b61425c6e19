//! Looks at the desktops as a VNC viewer does; assumes the loopback addresses of the demo are local.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail loudly"
)]

use bytes::{Buf, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::Standins;
use super::frame::{HEIGHT, TILE, WIDTH};
use super::tests::{PATIENCE, dial, started};

/// A viewer that keeps the picture it was sent.
struct Viewer {
    socket: WebSocketStream<TcpStream>,
    inbox: BytesMut,
    pixels: Vec<u32>,
}

impl Viewer {
    async fn join(standins: &Standins, desktop: usize) -> Self {
        let (socket, chosen) =
            dial(standins.desktops[desktop].address, standins.ports.vnc, "/any", None).await;
        assert_eq!(chosen, None);
        let mut viewer = Self { socket, inbox: BytesMut::new(), pixels: vec![0; WIDTH * HEIGHT] };
        assert_eq!(viewer.take(12).await, b"RFB 003.008\n"[..]);
        viewer.send(b"RFB 003.008\n").await;
        assert_eq!(viewer.take(2).await, [1, 1][..]);
        viewer.send(&[1]).await;
        assert_eq!(viewer.take(4).await, [0; 4][..]);
        viewer.send(&[1]).await;
        let mut init = viewer.take(24).await;
        assert_eq!((usize::from(init.get_u16()), usize::from(init.get_u16())), (WIDTH, HEIGHT));
        let length = (&init[16..]).get_u32();
        viewer.take(length as usize).await;
        viewer.send(&[2, 0, 0, 1, 0, 0, 0, 0]).await;
        viewer
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    async fn take(&mut self, length: usize) -> BytesMut {
        while self.inbox.len() < length {
            let message = timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap();
            if message.is_binary() {
                self.inbox.extend_from_slice(&message.into_data());
            }
        }
        self.inbox.split_to(length)
    }

    /// Asks for and draws one update; the rectangles as x, y, width, height.
    async fn update(&mut self, incremental: u8) -> Vec<[usize; 4]> {
        self.send(&[3, incremental, 0, 0, 0, 0, 3, 32, 2, 88]).await;
        let mut head = self.take(4).await;
        let mut areas = Vec::new();
        for _ in 0..head.get_u32() {
            let mut head = self.take(12).await;
            let [x, y, width, height] = [(); 4].map(|()| usize::from(head.get_u16()));
            let mut data = self.take(width * height * 4).await;
            for row in y..y + height {
                self.pixels[row * WIDTH + x..][..width].fill_with(|| data.get_u32_le());
            }
            areas.push([x, y, width, height]);
        }
        areas
    }

    async fn key(&mut self, keysym: u8) {
        self.send(&[4, 1, 0, 0, 0, 0, 0, keysym]).await;
    }
}

#[tokio::test]
async fn each_user_sees_their_own_colour() {
    let standins = started().await;
    let mut pictures = Vec::new();
    for (desktop, colour) in [(0, 0x1d5f8a), (1, 0x8a4b1d)] {
        let mut viewer = Viewer::join(&standins, desktop).await;
        let areas = viewer.update(0).await;
        assert_eq!(
            areas.iter().map(|[_, _, width, height]| width * height).sum::<usize>(),
            WIDTH * HEIGHT
        );
        for (x, y) in [(10, 10), (30, 30), (49, 49)] {
            assert_eq!(viewer.pixels[y * WIDTH + x], colour);
        }
        pictures.push(viewer.pixels);
    }
    assert_ne!(pictures[0], pictures[1]);
}

#[tokio::test]
async fn a_key_shows_in_the_next_update_of_every_viewer() {
    let standins = started().await;
    let mut first = Viewer::join(&standins, 0).await;
    let mut second = Viewer::join(&standins, 0).await;
    first.update(0).await;
    second.update(0).await;
    let typed = |viewer: &Viewer| {
        (150..170).flat_map(|y| viewer.pixels[y * WIDTH + 34..][..10].to_vec()).collect::<Vec<_>>()
    };
    let before = typed(&first);
    assert_eq!(before, typed(&second));
    first.key(b'W').await;
    let areas = first.update(1).await;
    assert!(areas.iter().any(|[x, y, ..]| *x <= 34 && (140..170).contains(y)), "{areas:?}");
    assert_ne!(before, typed(&first));
    second.update(0).await;
    assert_eq!(typed(&first), typed(&second));
}

#[tokio::test]
async fn without_input_only_moving_parts_are_sent() {
    let standins = started().await;
    let mut viewer = Viewer::join(&standins, 1).await;
    viewer.update(0).await;
    for _ in 0..10 {
        for [x, y, width, height] in viewer.update(1).await {
            let ball = x >= 420 && x + width <= 780 && y >= 140 && y + height <= 420;
            assert!((ball || y >= 560) && height == TILE, "{x},{y} {width}x{height}");
        }
    }
}

#[tokio::test]
async fn pixel_format_is_honoured() {
    let standins = started().await;
    let mut viewer = Viewer::join(&standins, 0).await;
    // Red in the lowest byte, as noVNC asks.
    viewer.send(&[0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0]).await;
    viewer.update(0).await;
    assert_eq!(viewer.pixels[30 * WIDTH + 30], 0x8a5f1d);
}

#[tokio::test]
async fn the_sub_protocol_is_named_only_if_offered() {
    let standins = started().await;
    let (_, chosen) =
        dial(standins.desktops[0].address, standins.ports.vnc, "/", Some("binary")).await;
    assert_eq!(chosen.as_deref(), Some("binary"));
}

#[tokio::test]
async fn everything_ends_with_the_value() {
    let standins = started().await;
    let mut viewer = Viewer::join(&standins, 0).await;
    let pyos = standins.pyos;
    drop(standins);
    let gone =
        timeout(PATIENCE, async { while let Some(Ok(_)) = viewer.socket.next().await {} }).await;
    assert!(gone.is_ok());
    assert!(TcpStream::connect(pyos).await.is_err());
}

//! A pod that answers with given bytes, and a client that looks what became of them.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Client, Exchange, Response, Site};

/// What the pod answers to this target; anything else gets one that is harmless.
const HOSTILE: &str = "/filer/hostile";

/// A site whose pod answers `/filer/hostile` with these bytes, then closes if told so.
pub(super) fn answering(bytes: impl AsRef<[u8]> + Send + Sync + 'static, close: bool) -> Site {
    serving("", move |exchange| {
        exchange.write(&bytes);
        if close {
            exchange.close();
        }
    })
}

/// A site whose pod does this for `/filer/hostile`.
pub(super) fn serving(toml: &str, handler: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Site {
    Site::configured_serving(toml, move |exchange| {
        if exchange.body().is_err() {
            return;
        }
        if exchange.target() == HOSTILE {
            handler(exchange);
        } else {
            exchange.answer("200 OK", "X-Harmless: 1\r\n", exchange.target());
        }
    })
}

/// The head of a request to the hostile address.
pub(super) fn request(method: &str, headers: &str) -> String {
    let bearer = Site::bearer();
    format!("{method} {HOSTILE} HTTP/1.1\r\nHost: desk.example\r\n{bearer}{headers}\r\n")
}

/// Asks the hostile address.
pub(super) fn ask(site: &Site) -> std::io::Result<Response> {
    crate::support::raw(site.address(), request("GET", ""))
}

/// Asks the same pod for something harmless, several times: whatever the hostile answer left on a kept
/// connection would come now.
pub(super) fn others_are_served(site: &Site) {
    let mut client = site.client();
    for count in 0..4 {
        let target = format!("/filer/harmless{count}");
        let head = format!("GET {target} HTTP/1.1\r\nHost: desk.example\r\n{}\r\n", Site::bearer());
        let answer = client.ask(head);
        assert_eq!((answer.status, answer.text()), (200, target), "{answer:?}");
        assert_eq!(answer.header("x-harmless").as_deref(), Some("1"), "{answer:?}");
    }
}

/// Writes this again and again until nobody takes it, or the limit is reached; returns how many bytes
/// were taken.
pub(super) fn flood(exchange: &Exchange, piece: &[u8], limit: usize) -> usize {
    drop(exchange.stream().set_write_timeout(Some(Duration::from_secs(5))));
    let mut taken = 0;
    while taken < limit && exchange.stream().write_all(piece).is_ok() {
        taken += piece.len();
    }
    taken
}

/// Writes this byte for byte, one each 20 ms, until nobody takes it or the time is over.
pub(super) fn drip(exchange: &Exchange, bytes: impl Iterator<Item = u8>, time: Duration) {
    let start = Instant::now();
    for byte in bytes {
        if start.elapsed() > time || exchange.stream().write_all(&[byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads a response by the letter, to the end of the connection.
pub(super) fn everything(client: &mut Client) -> String {
    String::from_utf8_lossy(&client.rest()).into_owned()
}

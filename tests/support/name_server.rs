//! A name server on loopback that knows what it is told: addresses and names of addresses.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Types of questions (RFC 1035 section 3.2.2).
const A: u8 = 1;
const PTR: u8 = 12;

type Zone = Arc<Mutex<HashMap<(String, u8), Vec<Vec<u8>>>>>;

/// The running server; dropping it ends it.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Zone,
    mute: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, stop) = (Zone::default(), Arc::new(AtomicBool::new(false)));
        let mute = Arc::new(AtomicBool::new(false));
        let (known, ends, silent) = (Arc::clone(&zone), Arc::clone(&stop), Arc::clone(&mute));
        let thread = thread::spawn(move || {
            let mut packet = [0; 512];
            while !ends.load(Ordering::SeqCst) {
                let Ok((length, peer)) = socket.recv_from(&mut packet) else { continue };
                let reply = reply(&packet[..length], &known);
                if !silent.load(Ordering::SeqCst) {
                    drop(socket.send_to(&reply, peer));
                }
            }
        });
        Self { address, zone, mute, stop, thread: Some(thread) }
    }

    /// Whether it answers nothing.
    pub(crate) fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    /// The addresses of a name.
    pub(crate) fn name(&self, name: &str, addresses: &[&str]) {
        let parse = |text: &&str| text.parse::<Ipv4Addr>().unwrap().octets().to_vec();
        self.put(name, A, addresses.iter().map(parse).collect());
    }

    /// The names of an address.
    pub(crate) fn reverse(&self, address: &str, names: &[&str]) {
        let [a, b, c, d] = address.parse::<Ipv4Addr>().unwrap().octets();
        let wire = |name: &&str| {
            let labels = name
                .split('.')
                .map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
            [labels.collect::<Vec<_>>().concat(), vec![0]].concat()
        };
        let question = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
        self.put(&question, PTR, names.iter().map(wire).collect());
    }

    fn put(&self, name: &str, kind: u8, data: Vec<Vec<u8>>) {
        self.zone.lock().unwrap().insert((name.to_owned(), kind), data);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The records of a name, none of the asked type, or "no such name" (RFC 1035 section 4.1).
fn reply(packet: &[u8], zone: &Zone) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_lowercase());
        at = end;
    }
    let (name, kind, question) = (labels.join("."), packet[at + 2], &packet[12..at + 5]);
    let zone = zone.lock().unwrap();
    let exists = [A, PTR].iter().any(|kind| zone.contains_key(&(name.clone(), *kind)));
    let records = zone.get(&(name, kind)).cloned().unwrap_or_default();
    let code = if exists { 0x80 } else { 0x83 };
    let count = u8::try_from(records.len()).unwrap();
    let mut reply = [&packet[..2], &[0x85, code, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
    for data in records {
        let length = u8::try_from(data.len()).unwrap();
        // The question's name, its type, class IN, one minute.
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length]);
        reply.extend(data);
    }
    reply
}

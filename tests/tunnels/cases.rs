//! The gateway changes nothing about what a peer answers to a stream, right or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::families::{Case, Raw, Step, all};
use super::peers::{Library, url};
use super::rig::{CLOSE, MASK, Program, frame, try_raw, with_port};
use crate::support::{Client, Gateway, PODS, SOON, Site, pod_listeners};

/// How long a library may take for all cases.
const ALL_WITHIN: Duration = Duration::from_secs(240);

/// What one side heard, as first bytes and payloads. A library may answer a ping before or after it
/// answers the message that came before.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    extension: String,
    data: Vec<(u8, Vec<u8>)>,
    control: Vec<(u8, Vec<u8>)>,
}

impl Heard {
    fn hear(&mut self, from: &mut impl Read) -> bool {
        let Ok((first, _, payload)) = try_raw(from) else { return false };
        let frames = if first & 8 == 0 { &mut self.data } else { &mut self.control };
        frames.push((first, payload));
        true
    }

    /// How many have come whole.
    fn messages(&self) -> usize {
        self.data.iter().filter(|(first, _)| first & 0x80 != 0).count()
    }

    fn close(&self) -> Option<&[u8]> {
        let close = self.control.iter().find(|(first, _)| first & 0x0f == CLOSE);
        close.map(|(_, payload)| payload.as_slice())
    }

    /// In short: payloads are long.
    fn told(&self) -> String {
        let tell = |frames: &[(u8, Vec<u8>)]| {
            let short =
                |payload: &[u8]| payload.get(..40).unwrap_or(payload).escape_ascii().to_string();
            let each = frames.iter().map(|(first, payload)| {
                format!("{first:#x} {} bytes {}", payload.len(), short(payload))
            });
            each.collect::<Vec<_>>().join(", ")
        };
        format!("{:?}; {}; {}", self.extension, tell(&self.data), tell(&self.control))
    }
}

/// Carries out a case and hears the other side to its end.
fn act(case: &Case, stream: &mut BufReader<TcpStream>, mask: Option<[u8; 4]>, heard: &mut Heard) {
    let say = |stream: &TcpStream, frames: &[Raw]| {
        let bytes = |raw: &Raw| frame(raw.first & 0x80 != 0, raw.first & 0x7f, &raw.payload, mask);
        let bytes: Vec<_> = frames.iter().flat_map(bytes).collect();
        for piece in bytes.chunks(case.piece.min(bytes.len().max(1))) {
            // Who has heard enough ends the connection.
            if (&mut &*stream).write_all(piece).is_err() {
                break;
            }
        }
    };
    let mut said_goodbye = false;
    for step in &case.steps {
        match step {
            Step::Say(frames) => {
                said_goodbye |= frames.iter().any(|raw| raw.first & 0x0f == CLOSE);
                say(stream.get_ref(), frames);
            }
            Step::Hear => drop(heard.hear(stream)),
        }
    }
    let goodbye = [Raw { first: 0x80 | CLOSE, payload: 1000_u16.to_be_bytes().into() }];
    if case.good && !said_goodbye {
        // Who has heard a goodbye need not answer what came before it.
        let messages = whole_messages(case).count();
        while heard.messages() < messages && heard.hear(stream) {}
        say(stream.get_ref(), &goodbye);
        said_goodbye = true;
    }
    while heard.close().is_none() && heard.hear(stream) {}
    if !said_goodbye {
        say(stream.get_ref(), &goodbye);
    }
    drop(stream.get_ref().shutdown(Shutdown::Write));
    while heard.hear(stream) {}
}

/// The payloads of the messages that come to their end before a goodbye.
fn whole_messages(case: &Case) -> impl Iterator<Item = Vec<u8>> {
    let said = case.steps.iter().filter_map(|step| match step {
        Step::Say(frames) => Some(frames),
        Step::Hear => None,
    });
    let said = said.flatten().take_while(|raw| raw.first & 0x0f != CLOSE);
    let mut begun = Vec::new();
    said.filter(|raw| raw.first & 8 == 0).filter_map(move |raw| {
        begun.extend(&raw.payload);
        (raw.first & 0x80 != 0).then(|| std::mem::take(&mut begun))
    })
}

/// That a library does what the standard asks, so that being the same means something.
fn judge(case: &Case, heard: &Heard) {
    let told = || format!("{}: {}", case.name, heard.told());
    let normal = heard.close().is_some_and(|close| close.starts_with(&1000_u16.to_be_bytes()));
    if case.good {
        let close = heard.close();
        assert!(close.is_some(), "{}", told());
        if case.extension.is_none() {
            let heard = heard.data.iter().flat_map(|(_, payload)| payload);
            assert!(
                heard.eq(whole_messages(case).flatten().collect::<Vec<_>>().iter()),
                "{}",
                told()
            );
        } else {
            assert!(heard.extension.starts_with("permessage-deflate"), "{}", told());
        }
    } else {
        assert!(!normal, "{}", told());
    }
}

fn same(case: &Case, direct: &Heard, through: &Heard) {
    let told = || format!("{}:\ndirect  {}\nthrough {}", case.name, direct.told(), through.told());
    assert!(direct == through, "{}", told());
    judge(case, direct);
}

/// The client says it, to a library that is the pod.
fn to_pod(library: Library) {
    let (_pod, port) = library.pod();
    let gateway = Gateway::start(&with_port("", port));
    for case in all() {
        let ask = |address, target: &str| {
            let mut client = Client::connect(address);
            let mut request = Site::upgrade(target);
            if let Some(extension) = case.extension {
                request.truncate(request.len() - 2);
                request += &format!("Sec-WebSocket-Extensions: {extension}\r\n\r\n");
            }
            client.send(request);
            let answer = client.head().unwrap();
            assert_eq!(answer.status, 101, "{}: {answer:?}", case.name);
            let extension = answer.header("sec-websocket-extensions").unwrap_or_default();
            let mut heard = Heard { extension, ..Heard::default() };
            act(&case, &mut client.from, Some(MASK), &mut heard);
            heard
        };
        let direct = ask(format!("{}:{port}", PODS[0]).parse().unwrap(), "/");
        let through = ask(gateway.address(), &Site::screen());
        same(&case, &direct, &through);
    }
}

/// The pod says it, to a library that is the client.
fn to_client(library: Library) {
    let ([listener, _second], port) = pod_listeners();
    let gateway = Gateway::start(&with_port("", port));
    let cases = all();
    let ask = |url: &str| -> Vec<Heard> {
        let count = cases.len().to_string();
        let client = Program::start("client", library.command().args(["echo", url, &count]));
        let heard = cases.iter().map(|case| heard_by_pod(case, &listener)).collect();
        assert_eq!(client.line(ALL_WITHIN), "done");
        heard
    };
    let direct = ask(&format!("ws://{}:{port}/", PODS[0]));
    let through = ask(&url(&gateway));
    for ((case, direct), through) in cases.iter().zip(&direct).zip(&through) {
        same(case, direct, through);
    }
}

fn heard_by_pod(case: &Case, listener: &TcpListener) -> Heard {
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    let mut stream = BufReader::new(stream);
    let mut key = String::new();
    for line in stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("sec-websocket-key") => {
                key = derive_accept_key(value.as_bytes());
            }
            _ => {}
        }
    }
    let extension = case.extension.map(|e| format!("Sec-WebSocket-Extensions: {e}\r\n"));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {key}\r\n{}\r\n",
        extension.unwrap_or_default()
    );
    stream.get_mut().write_all(answer.as_bytes()).unwrap();
    let extension = case.extension.unwrap_or_default().to_owned();
    let mut heard = Heard { extension, ..Heard::default() };
    act(case, &mut stream, None, &mut heard);
    heard
}

#[test]
fn a_pod_in_python_hears_and_answers_every_case_as_without_a_gateway() {
    to_pod(Library::Python);
}

#[test]
fn a_pod_in_node_hears_and_answers_every_case_as_without_a_gateway() {
    to_pod(Library::Node);
}

#[test]
fn a_client_in_python_hears_and_answers_every_case_as_without_a_gateway() {
    to_client(Library::Python);
}

#[test]
fn a_client_in_node_hears_and_answers_every_case_as_without_a_gateway() {
    to_client(Library::Node);
}

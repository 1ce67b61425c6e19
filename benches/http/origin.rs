//! The server behind every proxy, in a process of its own: as little work per request as can be.
//!
//! The end of a path says what is wanted: `/64k` 64 KiB, anything else a small JSON document. A body
//! is read to its end and its length answered.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Outcome;
use crate::support::process::end_with_input;

/// Longest head of a request: tokens of 4096-bit keys are long.
const MAX_HEAD: usize = 64 * 1024;

/// How much is read at once.
const AT_ONCE: usize = 64 * 1024;

/// What the small document is like: an answer of pyos.
const SMALL: &str = r#"{"status":200,"message":"ok","result":{"desktop":"alice-0b1c2d","state":"running","plan":[{"name":"vnc","port":6081},{"name":"filer","port":29783},{"name":"spawner","port":29786}]}}"#;

static LARGE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// Whole answers, by kind and by whether the connection ends with them.
static SMALL_ANSWERS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| answers(SMALL.as_bytes()));
static LARGE_ANSWERS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| answers(&LARGE));

fn answers(body: &[u8]) -> [Vec<u8>; 2] {
    ["", "Connection: close\r\n"].map(|connection| answer(connection, body))
}

fn answer(connection: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Content-Type: application/json\r\n{connection}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    answer
}

/// Serves until standard input ends, and says first on which port.
pub(crate) fn main() -> Outcome<()> {
    end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        loop {
            // A connection that breaks is the proxy's to report.
            let (stream, _) = listener.accept().await?;
            drop(tokio::spawn(serve(stream)));
        }
    })
}

async fn serve(mut stream: TcpStream) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        let Some(request) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let received = match request.body {
            0 => None,
            length => Some(read_body(&mut stream, &mut buffer, length).await?),
        };
        let close = usize::from(request.close);
        match received {
            Some(length) => {
                let connection = if request.close { "Connection: close\r\n" } else { "" };
                stream.write_all(&answer(connection, length.to_string().as_bytes())).await?;
            }
            None if request.large => stream.write_all(&LARGE_ANSWERS[close]).await?,
            None => stream.write_all(&SMALL_ANSWERS[close]).await?,
        }
        if request.close {
            return Ok(stream.shutdown().await?);
        }
    }
}

struct Request {
    large: bool,
    close: bool,
    body: u64,
}

/// The next request, unless the connection ended before it.
async fn read_head(stream: &mut TcpStream, buffer: &mut BytesMut) -> Outcome<Option<Request>> {
    loop {
        if let Some((length, request)) = parse(buffer)? {
            buffer.advance(length);
            return Ok(Some(request));
        }
        if buffer.len() > MAX_HEAD {
            return Err("a head without end".into());
        }
        buffer.reserve(4096);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse(bytes: &[u8]) -> Outcome<Option<(usize, Request)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
    let mut close = request.version == Some(0);
    let mut body = 0;
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            body = std::str::from_utf8(header.value)?.parse()?;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let large = request.path.is_some_and(|path| path.ends_with("/64k"));
    Ok(Some((length, Request { large, close, body })))
}

async fn read_body(stream: &mut TcpStream, buffer: &mut BytesMut, length: u64) -> Outcome<u64> {
    let mut received = buffer.len() as u64;
    buffer.clear();
    while received < length {
        buffer.reserve(AT_ONCE);
        match stream.read_buf(buffer).await? {
            0 => return Err("a body that ends early".into()),
            count => received += count as u64,
        }
        buffer.clear();
    }
    Ok(received)
}

//! Bytes of HTTP and of WebSockets, and what pods and pyos say.

use std::io;

use flate2::Crc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub(super) type Stream = BufReader<TcpStream>;

const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub(super) fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// Size and checksum of a body.
pub(super) fn sum(body: &[u8]) -> String {
    let mut crc = Crc::new();
    crc.update(body);
    format!("{} {:08x}", body.len(), crc.sum())
}

/// A pod, or pyos: a name for a GET, a checksum for a POST, every message back with the name before it.
pub(super) async fn answer(mut stream: Stream, name: &'static str) -> io::Result<()> {
    loop {
        let head = head(&mut stream).await?;
        let lower = head.to_lowercase();
        if lower.contains("\r\nupgrade: websocket\r\n") {
            stream.write_all(ACCEPT.as_bytes()).await?;
            break;
        }
        let body = body(&mut stream, &lower).await?;
        let said = if body.is_empty() { name.to_owned() } else { sum(&body) };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        stream.write_all(answer.as_bytes()).await?;
    }
    loop {
        let (code, payload) = read_frame(&mut stream).await?;
        match code {
            8 => return stream.write_all(&frame(8, &payload, false)).await,
            9 => stream.write_all(&frame(10, &payload, false)).await?,
            _ => {
                let back = [name.as_bytes(), &payload].concat();
                stream.write_all(&frame(code, &back, false)).await?;
            }
        }
    }
}

pub(super) async fn head(stream: &mut Stream) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// A body with a length, or in chunks.
async fn body(stream: &mut Stream, head: &str) -> io::Result<Vec<u8>> {
    let field = |name: &str| head.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
    let mut body = Vec::new();
    if let Some(length) = field("content-length:") {
        body.resize(length.parse().map_err(|_| wrong("a length"))?, 0);
        stream.read_exact(&mut body).await?;
    } else if field("transfer-encoding:").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| wrong("a chunk"))?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            stream.read_exact(&mut body[start..]).await?;
            body.truncate(start + size);
            if size == 0 {
                break;
            }
        }
    }
    Ok(body)
}

/// Status, body, and whether another request may follow.
pub(super) async fn response(stream: &mut Stream) -> io::Result<(u16, Vec<u8>, bool)> {
    let head = head(stream).await?.to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = body(stream, &head).await?;
    Ok((status.unwrap_or_default(), body, !head.contains("\r\nconnection: close")))
}

pub(super) fn frame(code: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut out = vec![0x80 | code];
    match payload.len() {
        short @ ..126 => out.push(bit | short as u8),
        long => {
            out.push(bit | 126);
            out.extend((long as u16).to_be_bytes());
        }
    }
    if masked {
        out.extend([0; 4]);
    }
    out.extend(payload);
    out
}

pub(super) async fn read_frame(stream: &mut Stream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let length = match head[1] & 127 {
        126 => usize::from(stream.read_u16().await?),
        short => usize::from(short),
    };
    if head[1] & 0x80 != 0 {
        stream.read_u32().await?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((head[0] & 15, payload))
}

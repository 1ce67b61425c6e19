//! The head of an answer: judged as it is parsed, and written for a client.
//!
//! A pod belongs to its user, who may make it say anything: a megabyte of head for as long as it drips,
//! folded lines, bare LF, two lengths that agree, a length beside chunks. What two readers could frame in
//! two ways, or only a hostile pod would send, is no answer.

use std::io;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{StatusCode, Version};

use super::body::Length;
use super::request::{number, put_name};
use super::{date, ends_lines_with_crlf, invalid};

/// Largest head of an answer, and most lines of it.
pub(super) const HEAD: usize = 64 * 1024;
const LINES: usize = 128;

/// A reason phrase that is not its status's own.
#[derive(Clone, Debug)]
pub(super) struct Reason(Bytes);

/// An answer as its head tells.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) head: Parts,
    /// How long the body is that its headers tell of; its status may forbid any.
    pub(super) length: Length,
}

/// The answer at the start of what was read, and the length of its head; none if that is not all there.
pub(super) fn parse(read: &[u8]) -> io::Result<Option<(Response, usize)>> {
    let mut headers = [const { MaybeUninit::uninit() }; LINES];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let end = match parser.parse_response_with_uninit_headers(&mut response, read, &mut headers) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if read.len() > HEAD => return Err(invalid()),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(invalid()),
    };
    // A second line of either kind, or one beside the other, is a second way to read the message.
    let mut length = None;
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let said = match header.name.len() {
            14 if is("content-length") => number(header.value.trim_ascii()).map(Length::Known),
            17 if is("transfer-encoding") => {
                let chunked = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                chunked.then_some(Length::Chunks)
            }
            _ => continue,
        };
        if length.replace(said.ok_or_else(invalid)?).is_some() {
            return Err(invalid());
        }
    }
    let status = response.code.unwrap_or_default();
    // HTTP/1.0 knows neither chunks nor interim answers.
    let old = response.version == Some(0) && (length == Some(Length::Chunks) || status < 200);
    let head = read.get(..end).unwrap_or_default();
    let small = end <= HEAD && !head.starts_with(b"\r\n");
    if status < 100 || old || !small || !ends_lines_with_crlf(head) {
        return Err(invalid());
    }
    let response = Response { head: parts(&response)?, length: length.unwrap_or(Length::UntilEnd) };
    Ok(Some((response, end)))
}

fn parts(parsed: &httparse::Response<'_, '_>) -> io::Result<Parts> {
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| invalid())?;
        headers.append(name, value);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.headers = headers;
    parts.status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| invalid())?;
    parts.version = match parsed.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let reason = parsed.reason.unwrap_or_default();
    if !reason.is_empty() && parts.status.canonical_reason() != Some(reason) {
        parts.extensions.insert(Reason(Bytes::copy_from_slice(reason.as_bytes())));
    }
    Ok(parts)
}

/// Memory for a head and a small body: what leaves together.
const USUAL: usize = 2048;

/// Writes a head for a client. `keep` says whether another request may follow; nothing is said of that, nor
/// of the time, in an interim answer or an upgrade.
pub fn put(out: &mut BytesMut, head: &Parts, keep: Option<bool>) {
    out.reserve(USUAL);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let own = || head.status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = head.extensions.get::<Reason>();
    out.extend_from_slice(reason.map_or_else(own, |reason| &reason.0));
    out.extend_from_slice(b"\r\n");
    for (name, value) in &head.headers {
        if keep.is_some() && (*name == header::DATE || *name == header::CONNECTION) {
            continue;
        }
        put_name(out, name.as_str());
        put_value(out, value.as_bytes());
    }
    if let Some(keep) = keep {
        out.extend_from_slice(b"Date");
        date::with_now(|now| put_value(out, now.as_bytes()));
        out.extend_from_slice(b"Connection");
        // What may be upgraded is this connection (RFC 9110 section 7.8).
        let upgrade = head.status == StatusCode::UPGRADE_REQUIRED
            && head.headers.contains_key(header::UPGRADE);
        let options: &[u8] = match (keep, upgrade) {
            (true, false) => b"keep-alive",
            (false, false) => b"close",
            (true, true) => b"keep-alive, upgrade",
            (false, true) => b"close, upgrade",
        };
        put_value(out, options);
    }
    out.extend_from_slice(b"\r\n");
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_framed_in_one_way_or_refused() {
        for (good, length) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", Length::Known(1)),
            ("HTTP/1.1 200\r\n\r\nuntil the end\n\n", Length::UntilEnd),
            ("HTTP/1.0 200 OK\r\n\r\n", Length::UntilEnd),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding:CHUNKED\r\n\r\n0\r\n\r\n", Length::Chunks),
            ("HTTP/1.1 103 Early\r\n\r\nHTTP", Length::UntilEnd),
            ("HTTP/1.1 101 Yes\r\n\r\nx", Length::UntilEnd),
        ] {
            let (response, end) = parse(good.as_bytes()).unwrap().unwrap();
            assert_eq!((response.length, end), (length, good.find("\r\n\r\n").unwrap() + 4));
        }
        assert!(parse(b"HTTP/1.1 2").unwrap().is_none());
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 101 Yes\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(LINES + 1)),
            &format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD)),
            &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(HEAD)),
        ] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:.60?}");
        }
    }

    /// A head read and written again.
    fn written(head: &str, keep: Option<bool>) -> String {
        let (response, _) = parse(head.as_bytes()).unwrap().unwrap();
        let mut out = BytesMut::new();
        put(&mut out, &response.head, keep);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_head_is_written_with_its_reason_and_all_its_lines() {
        let head = "HTTP/1.1 404 Nowhere\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX-B: \r\n\r\n";
        assert_eq!(written(head, None), head);
        assert_eq!(
            written("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", None).lines().nth(1),
            Some("Link: x")
        );
    }

    #[test]
    fn the_connection_and_the_time_are_ours() {
        let head = "HTTP/1.0 200 OK\r\nDate: never\r\nConnection: close\r\n\r\n";
        let kept = written(head, Some(true));
        assert!(kept.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{kept}");
        assert!(
            kept.ends_with(" GMT\r\nConnection: keep-alive\r\n\r\n") && !kept.contains("never")
        );
        assert!(written(head, Some(false)).ends_with("Connection: close\r\n\r\n"));
    }
}

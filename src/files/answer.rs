//! One form of a file as a response: status, header fields, pieces of content.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::body::{FileBody, Piece};
use super::encoding::Coding;
use super::precondition::{Validators, Verdict, field};
use super::range::{self, Cut, Spec};
use super::{Body, Response};

/// Where the content is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In an open file.
    File(Arc<File>),
    /// Here.
    Memory(Bytes),
}

/// The selected representation (RFC 9110 §3.2).
#[derive(Clone, Debug)]
pub(super) struct Representation {
    pub(super) validators: Validators,
    pub(super) mime: &'static str,
    pub(super) coding: Option<Coding>,
    /// Whether another client might have got another form.
    pub(super) varies: bool,
    /// Whether the name changes with the content.
    pub(super) lasting: bool,
    pub(super) length: u64,
    pub(super) content: Content,
}

impl Representation {
    /// Answers a GET; a HEAD is the same without the content.
    pub(super) fn answer(self, headers: &HeaderMap, ranges: Option<&[Spec]>) -> Response {
        let validators = &self.validators;
        let cut = match (validators.judge(headers), ranges) {
            (Verdict::Failed, _) => return self.refuse(StatusCode::PRECONDITION_FAILED),
            (Verdict::NotModified, _) => return self.not_modified(),
            (Verdict::Proceed, Some(ranges)) if validators.allow_range(headers) => {
                range::cut(ranges, self.length)
            }
            (Verdict::Proceed, _) => Cut::Whole,
        };
        match cut {
            Cut::Whole => self.whole(),
            Cut::Unsatisfiable => self.refuse(StatusCode::RANGE_NOT_SATISFIABLE),
            Cut::Parts(parts) => self.parts(&parts),
        }
    }

    fn whole(self) -> Response {
        let mut headers = self.fields();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.mime));
        if let Some(coding) = self.coding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
        }
        headers.insert(CONTENT_LENGTH, self.length.into());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let body = match self.content {
            _ if self.length == 0 => Body::Empty,
            Content::Memory(bytes) => Body::Whole(bytes),
            Content::File(file) => {
                Body::Stream(FileBody::new(file, VecDeque::from([Piece::Span(0..self.length)])))
            }
        };
        Response { status: StatusCode::OK, headers, body }
    }

    /// 206: one part as it is, several as `multipart/byteranges` (RFC 9110 §15.3.7).
    fn parts(self, parts: &[Range<u64>]) -> Response {
        let mut headers = self.fields();
        let pieces = if let [part] = parts {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.mime));
            headers.insert(CONTENT_RANGE, field(self.content_range(part)));
            VecDeque::from([Piece::Span(part.clone())])
        } else {
            let boundary = boundary();
            let kind = format!("multipart/byteranges; boundary={boundary}");
            headers.insert(CONTENT_TYPE, field(kind));
            self.multipart(parts, &boundary)
        };
        let length: u64 = pieces.iter().map(Piece::length).sum();
        headers.insert(CONTENT_LENGTH, length.into());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let body = match self.content {
            Content::File(file) => Body::Stream(FileBody::new(file, pieces)),
            // Ranges select the plain file, which is never held in memory.
            Content::Memory(_) => return self.refuse(StatusCode::RANGE_NOT_SATISFIABLE),
        };
        Response { status: StatusCode::PARTIAL_CONTENT, headers, body }
    }

    fn multipart(&self, parts: &[Range<u64>], boundary: &str) -> VecDeque<Piece> {
        let mut pieces = VecDeque::with_capacity(parts.len() * 2 + 1);
        for (number, part) in parts.iter().enumerate() {
            let line = if number == 0 { "" } else { "\r\n" };
            let text = format!(
                "{line}--{boundary}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
                self.mime,
                self.content_range(part)
            );
            pieces.push_back(Piece::Text(text.into()));
            pieces.push_back(Piece::Span(part.clone()));
        }
        pieces.push_back(Piece::Text(format!("\r\n--{boundary}--\r\n").into()));
        pieces
    }

    fn content_range(&self, part: &Range<u64>) -> String {
        format!("bytes {}-{}/{}", part.start, part.end.saturating_sub(1), self.length)
    }

    /// 304, with the fields that update the client's copy (RFC 9110 §15.4.5).
    fn not_modified(&self) -> Response {
        let status = StatusCode::NOT_MODIFIED;
        Response { status, headers: self.fields(), body: Body::Empty }
    }

    /// 412 or 416.
    fn refuse(&self, status: StatusCode) -> Response {
        let mut headers = self.fields();
        // A lifetime would make even these cacheable (RFC 9111 §3).
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_LENGTH, 0_u64.into());
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            headers.insert(CONTENT_RANGE, field(format!("bytes */{}", self.length)));
        }
        Response { status, headers, body: Body::Empty }
    }

    /// The fields of every response.
    fn fields(&self) -> HeaderMap {
        let lifetime =
            if self.lasting { "public, max-age=31536000, immutable" } else { "no-cache" };
        let mut headers = HeaderMap::with_capacity(12);
        self.validators.put(&mut headers);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(lifetime));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.varies {
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        headers
    }
}

/// A line that no file contains, because none could know it: random for every response.
fn boundary() -> String {
    let state = RandomState::new();
    format!("{:016x}{:016x}", state.hash_one(0), state.hash_one(1))
}

//! Fills a request's access log record.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Version, header};

use super::context::Context;
use super::headers;
use super::trail::Trail;
use crate::auth::Now;
use crate::redact;
use crate::session::Session;
use crate::telemetry::METHODS;
use crate::telemetry::access_log::{Entered, Record};

/// Longest field of the client's that is kept, in bytes: what is logged has a bound.
const MAX_FIELD: usize = 2048;

/// Opens the record of a request.
pub(super) fn open(
    session: &Session,
    client: Option<IpAddr>,
    trail: &Trail,
    under_way: Entered,
    now: Now,
) -> Record {
    let head = session.request();
    let field = |name| {
        head.headers.get(name).map(|value| kept(&text(value.as_bytes()))).unwrap_or_default()
    };
    let host = headers::host_of(head);
    let mut record = Record::empty(client, Arc::clone(&trail.id), under_way, now.mono);
    record.trace = trail.trace;
    record.method = method(&head.method);
    record.target = kept(&text(head.raw_path()));
    record.version = match head.version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/0.9",
    };
    record.host = host.map(|host| kept(&text(host.as_bytes()))).unwrap_or_default();
    record.referer = field(header::REFERER);
    record.user_agent = field(header::USER_AGENT);
    record
}

/// A method as text. Nearly every request has one of a few.
fn method(method: &Method) -> Cow<'static, str> {
    let known = METHODS.into_iter().find(|known| *known == method.as_str());
    known.map_or_else(|| String::from(kept(method.as_str())).into(), Cow::Borrowed)
}

/// Notes the route of a request that is not planned.
pub(super) fn note_route(ctx: &mut Context, route: Arc<str>) {
    if let Some(record) = &mut ctx.record {
        record.route = Some(route);
    }
}

/// Notes why a request failed.
pub(super) fn note(ctx: &mut Context, reason: &'static str) {
    if let Some(record) = &mut ctx.record {
        record.reason = reason;
    }
}

/// Notes the status of an answer that the session does not know of.
pub(super) fn note_status(ctx: &mut Context, status: u16) {
    if let Some(record) = &mut ctx.record {
        record.status = status;
    }
}

/// Adds what became of the request.
pub(super) fn close(record: &mut Record, session: &Session) {
    if let Some(status) = session.answered() {
        record.status = status.as_u16();
    }
    record.received = session.received();
    record.sent = session.sent();
}

/// Bytes as text. Nearly all are.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Text without tokens, cut to what is kept.
fn kept(text: &str) -> Box<str> {
    let scrubbed = redact::scrub(text);
    let mut end = scrubbed.len().min(MAX_FIELD);
    while !scrubbed.is_char_boundary(end) {
        end -= 1;
    }
    scrubbed.get(..end).unwrap_or_default().into()
}

//! Builds the answers of the stand-ins and reads request bodies within bounds; assumes nothing
//! about the client, neither that it sends what it announced nor that it ever finishes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Reply = Response<Body>;

/// The longest silence within a request body.
const STALL_LIMIT: Duration = Duration::from_secs(60);
const COLLECT_LIMIT: Duration = Duration::from_secs(30);

/// Why a request body was not read to its end.
#[derive(Debug)]
pub(super) enum BodyFault {
    TooLarge,
    TooSlow,
    Broken,
}

impl From<BodyFault> for Reply {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::TooLarge => refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            BodyFault::TooSlow => {
                refusal(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
            }
            BodyFault::Broken => refusal(StatusCode::BAD_REQUEST, "the body is incomplete"),
        }
    }
}

pub(super) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Reply {
    streamed(status, content_type, Full::new(body.into()).boxed_unsync())
}

pub(super) fn streamed(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    bytes(status, "application/json", value.to_string())
}

/// An error in the form the abcdesktop client knows how to show.
pub(super) fn refusal(status: StatusCode, message: &str) -> Reply {
    let error = status.canonical_reason().unwrap_or("error");
    json(status, &json!({"status": status.as_u16(), "error": error, "message": message}))
}

pub(super) fn cached(mut reply: Reply, policy: &'static str) -> Reply {
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(policy));
    reply
}

/// Reads a small body whole.
pub(super) async fn collect(body: Incoming, limit: usize) -> Result<Bytes, BodyFault> {
    match timeout(COLLECT_LIMIT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyFault::TooLarge),
        Ok(Err(_)) => Err(BodyFault::Broken),
        Err(_) => Err(BodyFault::TooSlow),
    }
}

/// Counts a body while dropping it, so that its size costs no memory.
pub(super) async fn count(mut body: Incoming, limit: u64) -> Result<u64, BodyFault> {
    let mut total: u64 = 0;
    loop {
        let frame = match timeout(STALL_LIMIT, body.frame()).await {
            Ok(None) => return Ok(total),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(BodyFault::Broken),
            Err(_) => return Err(BodyFault::TooSlow),
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        total = total.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if total > limit {
            return Err(BodyFault::TooLarge);
        }
    }
}

/// What a service says about a request, so that one can see what the gateway made of it.
pub(super) fn echo(service: &str, user: &str, parts: &http::request::Parts) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("service".to_owned(), service.into());
    map.insert("user".to_owned(), user.into());
    map.insert("method".to_owned(), parts.method.as_str().into());
    map.insert("path".to_owned(), parts.uri.path().into());
    map.insert("query".to_owned(), parts.uri.query().into());
    map.insert("headers".to_owned(), headers_json(&parts.headers));
    map
}

fn headers_json(headers: &HeaderMap) -> Value {
    let mut map = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        map.insert(name.as_str().to_owned(), values.join(", ").into());
    }
    Value::Object(map)
}

/// The raw value of a query parameter.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) if key == name => Some(value),
        Some(_) | None => None,
    })
}

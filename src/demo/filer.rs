//! Plays the file service of a desktop without keeping any file; assumes uploads of any size up to
//! the gateway's own bound.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::Value;

use super::reply::{Reply, collect, count, echo, json, parameter, refusal};

const UPLOAD_LIMIT: u64 = 8 * 1024 * 1024 * 1024;
const DELETE_LIMIT: usize = 64 * 1024;

/// Echoes reads and deletions and counts uploads.
pub(super) async fn answer(user: &'static str, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let mut answer = echo("filer", user, &parts);
    match parts.method {
        Method::GET | Method::HEAD => {
            answer.insert("file".to_owned(), parameter(parts.uri.query(), "file").into());
        }
        Method::POST | Method::PUT => match count(body, UPLOAD_LIMIT).await {
            Ok(received) => {
                answer.insert("body_bytes".to_owned(), received.into());
            }
            Err(fault) => return fault.into(),
        },
        Method::DELETE => match collect(body, DELETE_LIMIT).await {
            Ok(body) => {
                answer.insert("body_bytes".to_owned(), body.len().into());
                answer.insert(
                    "body".to_owned(),
                    serde_json::from_slice(&body).unwrap_or(Value::Null),
                );
            }
            Err(fault) => return fault.into(),
        },
        _ => return refusal(StatusCode::METHOD_NOT_ALLOWED, "GET, POST or DELETE"),
    }
    json(StatusCode::OK, &Value::Object(answer))
}

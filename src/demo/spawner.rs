//! Plays the spawner of a desktop: tells what it was asked, headers and all; assumes that whoever
//! reaches it may see what they sent.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::reply::{Reply, count, echo, json};

/// The same bound as the gateway has for this service.
const BODY_LIMIT: u64 = 8 * 1024 * 1024;

/// Answers any method on any path, because the gateway also routes whole ports here.
pub(super) async fn answer(user: &'static str, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let received = match count(body, BODY_LIMIT).await {
        Ok(received) => received,
        Err(fault) => return fault.into(),
    };
    let mut answer = echo("spawner", user, &parts);
    answer.insert("body_bytes".to_owned(), received.into());
    json(StatusCode::OK, &Value::Object(answer))
}

//! Plays the backend of the HTML5 speed test; assumes its paths arrive with or without the
//! `/speedtest` prefix, since gateways differ in that.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::reply::{Reply, cached, count, json, parameter, refusal, streamed};
use super::serve::Peer;

const CHUNK: usize = 64 * 1024;
const CHUNKS_PER_MIB: usize = 1024 * 1024 / CHUNK;
const DEFAULT_MIB: usize = 4;
const MAX_MIB: usize = 100;
const UPLOAD_LIMIT: u64 = 256 * 1024 * 1024;
const UNCACHED: &str = "no-store, no-cache, must-revalidate, max-age=0, s-maxage=0";

/// Answers download, upload, ping and address questions.
pub(super) async fn answer(request: Request<Incoming>) -> Reply {
    let path = request.uri().path().trim_start_matches('/');
    let path = path.strip_prefix("speedtest").map_or(path, |rest| rest.trim_start_matches('/'));
    let reply = match (path, request.method()) {
        ("garbage.php", &Method::GET) => {
            let wanted =
                parameter(request.uri().query(), "ckSize").and_then(|size| size.parse().ok());
            garbage(wanted.unwrap_or(DEFAULT_MIB).clamp(1, MAX_MIB))
        }
        ("empty.php", &Method::GET | &Method::HEAD | &Method::POST) => {
            match count(request.into_body(), UPLOAD_LIMIT).await {
                Ok(_) => super::reply::bytes(StatusCode::OK, "text/html", ""),
                Err(fault) => return fault.into(),
            }
        }
        ("getIP.php", &Method::GET) => {
            json(StatusCode::OK, &json!({"processedString": client(&request)}))
        }
        _ => refusal(StatusCode::NOT_FOUND, "no such part of the speed test"),
    };
    cached(reply, UNCACHED)
}

/// Bytes that do not compress, made as they are sent.
fn garbage(mebibytes: usize) -> Reply {
    // Never zero, from which xorshift would not move.
    let seed = RandomState::new().hash_one(mebibytes) | 1;
    let chunks =
        stream::unfold((seed, mebibytes * CHUNKS_PER_MIB), |(mut seed, left)| async move {
            let left = left.checked_sub(1)?;
            let mut chunk = Vec::with_capacity(CHUNK);
            while chunk.len() < CHUNK {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                chunk.extend_from_slice(&seed.to_le_bytes());
            }
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))), (seed, left)))
        });
    streamed(StatusCode::OK, "application/octet-stream", StreamBody::new(chunks).boxed_unsync())
}

/// The client as the gateway names it, else the peer.
fn client(request: &Request<Incoming>) -> String {
    let named = |name: &str| {
        let first = request.headers().get(name)?.to_str().ok()?.split(',').next()?.trim();
        (!first.is_empty()).then(|| first.to_owned())
    };
    let peer = || request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_string());
    named("x-forwarded-for").or_else(|| named("x-real-ip")).or_else(peer).unwrap_or_default()
}

//! Which responses are compressed on their way to the client. How is pingora's business.

use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::compression::ResponseCompressionCtx as Compression;

/// zstd, brotli and gzip level: nginx's `gzip_comp_level` of the incumbent.
const LEVEL: u32 = 5;

/// Shorter bodies gain nothing, as in the incumbent.
const MIN_LENGTH: u64 = 2048;

/// The incumbent's types.
const TYPES: [&str; 12] = [
    "application/javascript",
    "application/json",
    "application/x-javascript",
    "application/xml",
    "application/xml+rss",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/javascript",
    "text/plain",
    "text/xml",
    "application/manifest+json",
];

/// Codings we make, the preferred one first.
const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// Prepares to compress a response, where the row allows it, the response gains by it and the client
/// takes it; its head is changed accordingly.
pub(super) fn start(
    request: &RequestHeader,
    head: &mut Parts,
    allowed: bool,
) -> Result<Option<Compression>> {
    if !allowed || !is_eligible(head) {
        return Ok(None);
    }
    vary(head);
    let codings = match text(&request.headers, header::ACCEPT_ENCODING) {
        // A client of HTTP/1.0 could not read the chunks of a body whose length is not known.
        Some(said) if request.version != Version::HTTP_10 => accepted(said),
        Some(_) | None => return Ok(None),
    };
    if codings.is_empty() {
        return Ok(None);
    }
    // pingora's reading of the header knows no weights and takes the first coding.
    let mut offer = RequestHeader::build(Method::GET, b"/", Some(1))?;
    offer.insert_header(header::ACCEPT_ENCODING, codings.join(", "))?;
    let mut compression = Compression::new(LEVEL, false, false);
    compression.request_filter(&offer);
    let mut changed = ResponseHeader::from(std::mem::replace(head, nothing()));
    compression.response_header_filter(&mut changed, false);
    *head = changed.into();
    Ok(head.headers.contains_key(header::CONTENT_ENCODING).then_some(compression))
}

/// The codings of ours that are accepted, best first (RFC 9110 section 12.5.3).
fn accepted(text: &str) -> Vec<&'static str> {
    let mut weights = Vec::new();
    let mut others = None;
    for entry in text.split(',') {
        let (name, weight) = entry.split_once(';').unwrap_or((entry, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
        let weight = weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
        match name.trim() {
            "*" => others = Some(weight),
            name => weights.push((name.to_ascii_lowercase(), weight)),
        }
    }
    let weight = |coding: &str| {
        let named = weights.iter().find(|(name, _)| name == coding).map(|(_, weight)| *weight);
        named.or(others).unwrap_or(0.0)
    };
    let mut codings: Vec<_> = CODINGS.into_iter().filter(|coding| weight(coding) > 0.0).collect();
    codings.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    codings
}

/// Whether another client might get this response compressed. `text/event-stream` is not among the
/// types: an event must not wait for the next one.
fn is_eligible(head: &Parts) -> bool {
    let value = |name| text(&head.headers, name);
    let length = value(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length < MIN_LENGTH) {
        return false;
    }
    let content_type = value(header::CONTENT_TYPE).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let whole = head.status.is_success()
        && head.status != StatusCode::PARTIAL_CONTENT
        && head.status != StatusCode::NO_CONTENT
        || head.status.is_client_error()
        || head.status.is_server_error();
    whole
        && TYPES.iter().any(|known| known.eq_ignore_ascii_case(content_type))
        && !head.headers.contains_key(header::CONTENT_ENCODING)
        && !value(header::CACHE_CONTROL)
            .is_some_and(|value| value.to_ascii_lowercase().contains("no-transform"))
}

/// Says that the response depends on what the client accepts, compressed or not (RFC 9110
/// section 12.5.5).
fn vary(head: &mut Parts) {
    let named = head.headers.get_all(header::VARY).iter().any(|line| {
        let line = line.to_str().unwrap_or_default().to_ascii_lowercase();
        line.split(',').map(str::trim).any(|name| name == "*" || name == "accept-encoding")
    });
    if !named {
        head.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

fn nothing() -> Parts {
    http::Response::new(()).into_parts().0
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_our_preference_choose_the_coding() {
        for (said, want) in [
            ("gzip", &["gzip"][..]),
            ("gzip, deflate, br, zstd", &["zstd", "br", "gzip"]),
            ("gzip;q=1.0, br;q=0.5", &["gzip", "br"]),
            ("gzip;q=0", &[]),
            ("gzip;q=0, br", &["br"]),
            ("*", &["zstd", "br", "gzip"]),
            ("*;q=0.5, gzip;q=0", &["zstd", "br"]),
            ("GZIP; q=0.001", &["gzip"]),
            ("identity", &[]),
            ("gzip;q=nonsense", &[]),
            ("", &[]),
        ] {
            assert_eq!(accepted(said), want, "{said}");
        }
    }

    #[test]
    fn a_client_gets_the_coding_it_likes_best_and_one_of_http_1_0_none() {
        for (version, said, want) in [
            (Version::HTTP_11, "gzip;q=0.3, br;q=0.9", Some("br")),
            (Version::HTTP_2, "gzip", Some("gzip")),
            (Version::HTTP_11, "identity", None),
            (Version::HTTP_10, "gzip", None),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.set_version(version);
            request.insert_header("accept-encoding", said).unwrap();
            let mut head = nothing();
            head.headers.insert("content-type", HeaderValue::from_static("text/html"));
            head.headers.insert("content-length", HeaderValue::from_static("4096"));
            let started = start(&request, &mut head, true).unwrap();
            assert_eq!(started.is_some(), want.is_some(), "{version:?} {said}");
            let coding = head.headers.get("content-encoding");
            assert_eq!(coding.map(|value| value.to_str().unwrap()), want);
            assert_eq!(head.headers["vary"], "Accept-Encoding");
        }
    }

    #[test]
    fn only_whole_long_texts_that_nobody_forbids_are_compressed() {
        let judge = |status: u16, headers: &[(&'static str, &str)]| {
            let mut head = nothing();
            head.status = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                head.headers.insert(*name, HeaderValue::from_str(value).unwrap());
            }
            is_eligible(&head)
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert!(judge(200, &[json]));
        assert!(judge(200, &[json, ("content-length", "2048")]));
        assert!(judge(404, &[("content-type", "text/html")]));
        assert!(!judge(200, &[json, ("content-length", "2047")]));
        assert!(!judge(200, &[("content-type", "text/event-stream")]));
        assert!(!judge(200, &[("content-type", "image/png")]));
        assert!(!judge(200, &[]));
        assert!(!judge(206, &[json]));
        assert!(!judge(304, &[json]));
        assert!(!judge(200, &[json, ("content-encoding", "br")]));
        assert!(!judge(200, &[json, ("cache-control", "private, no-transform")]));
    }
}

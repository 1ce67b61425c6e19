//! Which responses are compressed on their way to the client. How is pingora's business.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode, Version, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::compression::{Algorithm, ResponseCompressionCtx};
use tokio::sync::{Semaphore, SemaphorePermit};

/// brotli and gzip level: nginx's `gzip_comp_level` of the incumbent.
const LEVEL: u32 = 5;

/// zstd level. The fifth takes 4.7 MiB for each response, this one less than one.
const ZSTD_LEVEL: u32 = 1;

/// Responses that are compressed at a time: an encoder takes up to some MiB for as long as its client takes to
/// read. One that comes when all places are taken goes out as it is.
static PLACES: Semaphore = Semaphore::const_new(32);

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

/// An empty last metablock (RFC 7932 section 9.2). pingora-core 0.9.1 flushes what it encodes with brotli, up to a
/// whole byte, and does not end it: a strict decoder takes that for a body that was cut off.
const BROTLI_END: &[u8] = &[0b11];

/// A response that is being compressed.
pub(super) struct Packing {
    how: ResponseCompressionCtx,
    /// What the encoder leaves out at the end.
    missing: &'static [u8],
    _place: SemaphorePermit<'static>,
}

impl Packing {
    /// What is to be sent for a piece: often nothing yet. None if the encoder fails.
    pub(super) fn pack(&mut self, piece: &Bytes) -> Option<Bytes> {
        self.how.response_body_filter(Some(piece), false)
    }

    /// What is to be sent at the end.
    pub(super) fn end(mut self) -> Option<Bytes> {
        let rest = self.how.response_body_filter(None, true);
        if self.missing.is_empty() {
            return rest;
        }
        Some([rest.as_deref().unwrap_or_default(), self.missing].concat().into())
    }
}

/// Prepares to compress a response, where the row allows it, the response gains by it and the client
/// takes it; its head is changed accordingly.
pub(super) fn start(
    request: &RequestHeader,
    head: &mut Parts,
    allowed: bool,
) -> Result<Option<Packing>> {
    if !allowed || !is_eligible(head) {
        return Ok(None);
    }
    vary(head);
    // A client of HTTP/1.0 could not read the chunks of a body whose length is not known.
    if request.version == Version::HTTP_10 {
        return Ok(None);
    }
    let said: Vec<_> = lines(&request.headers, header::ACCEPT_ENCODING).collect();
    let codings = accepted(&said.join(","));
    if codings.is_empty() {
        return Ok(None);
    }
    let Ok(place) = PLACES.try_acquire() else { return Ok(None) };
    // pingora's reading of the header knows no weights and takes the first coding.
    let mut offer = RequestHeader::build(Method::GET, b"/", Some(1))?;
    offer.insert_header(header::ACCEPT_ENCODING, codings.join(", "))?;
    let mut how = ResponseCompressionCtx::new(LEVEL, false, false);
    how.adjust_algorithm_level(Algorithm::Zstd, ZSTD_LEVEL);
    how.request_filter(&offer);
    let mut changed = ResponseHeader::from(std::mem::replace(head, nothing()));
    how.response_header_filter(&mut changed, false);
    *head = changed.into();
    let Some(coding) = head.headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
    let missing = if coding == "br" { BROTLI_END } else { &[] };
    Ok(Some(Packing { how, missing, _place: place }))
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
/// types, and a response of a length that nobody has told is none: what comes bit by bit must not wait
/// for what comes later.
fn is_eligible(head: &Parts) -> bool {
    let value = |name| lines(&head.headers, name).next();
    let length = value(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_none_or(|length| length < MIN_LENGTH) {
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
        && !lines(&head.headers, header::CACHE_CONTROL)
            .any(|line| line.to_ascii_lowercase().contains("no-transform"))
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

/// The lines of a header that are text.
fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok())
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
                head.headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            is_eligible(&head)
        };
        let json = ("content-type", "application/json; charset=utf-8");
        let long = ("content-length", "2048");
        assert!(judge(200, &[json, long]));
        assert!(judge(404, &[("content-type", "text/html"), long]));
        assert!(!judge(200, &[json]), "it may come bit by bit");
        assert!(!judge(200, &[json, ("content-length", "2047")]));
        assert!(!judge(200, &[("content-type", "text/event-stream"), long]));
        assert!(!judge(200, &[("content-type", "image/png"), long]));
        assert!(!judge(200, &[long]));
        assert!(!judge(206, &[json, long]));
        assert!(!judge(304, &[json, long]));
        assert!(!judge(200, &[json, long, ("content-encoding", "br")]));
        let private = ("cache-control", "private");
        assert!(judge(200, &[json, long, private]));
        assert!(!judge(200, &[json, long, ("cache-control", "private, no-transform")]));
        assert!(!judge(200, &[json, long, private, ("cache-control", "no-transform")]));
    }

    #[test]
    fn no_more_responses_are_compressed_than_there_are_places_for() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("accept-encoding", "br;q=0").unwrap();
        request.append_header("accept-encoding", "gzip").unwrap();
        let begin = || {
            let mut head = nothing();
            head.headers.insert("content-type", HeaderValue::from_static("text/html"));
            head.headers.insert("content-length", HeaderValue::from_static("4096"));
            let packing = start(&request, &mut head, true).unwrap();
            let coding = head.headers.get("content-encoding").cloned();
            assert_eq!(packing.is_some(), coding.is_some_and(|coding| coding == "gzip"));
            packing
        };
        // Other tests may hold some.
        let mut packed: Vec<_> = (0..40).map(|_| begin()).collect();
        let count = packed.iter().flatten().count();
        assert!((16..=32).contains(&count), "{count}");
        packed.clear();
        assert!(begin().is_some());
    }
}

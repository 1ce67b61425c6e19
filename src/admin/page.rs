//! The page and the description of the interface, both part of the program.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use sha2::{Digest, Sha256};

use super::answer::{Answer, with_type};

const PAGE: &str = include_str!("dashboard.html");
const DESCRIPTION: &str = include_str!("openapi.json");

/// The page with a policy that allows its own script and style and no other.
#[derive(Debug)]
pub(super) struct Page {
    policy: HeaderValue,
}

impl Page {
    pub(super) fn new() -> Self {
        let (script, style) = (hash("<script>", "</script>"), hash("<style>", "</style>"));
        let policy = format!(
            "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let closed = HeaderValue::from_static("default-src 'none'");
        Self { policy: HeaderValue::try_from(policy).unwrap_or(closed) }
    }

    pub(super) fn answer(&self) -> Answer {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        let mut answer = with_type(StatusCode::OK, html, Bytes::from_static(PAGE.as_bytes()));
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        answer
    }
}

/// The hash of what stands between two tags of the page, as a policy names it.
fn hash(open: &str, close: &str) -> String {
    let inner = PAGE.split_once(open).and_then(|(_, rest)| rest.split_once(close));
    let digest = Sha256::digest(inner.map_or("", |(inner, _)| inner));
    format!("sha256-{}", STANDARD.encode(digest))
}

/// The description of the interface.
pub(super) fn description() -> Answer {
    let json = HeaderValue::from_static("application/json");
    with_type(StatusCode::OK, json, Bytes::from_static(DESCRIPTION.as_bytes()))
}

//! Answers: JSON, text or the page, with the headers that every one has.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Headers of every answer. The page replaces the policy by its own.
const HEADERS: [(HeaderName, &str); 8] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    BadRequest(&'static str),
    Unauthorized,
    NoToken,
    CrossSite,
    NotFound,
    Method(&'static str),
    SlowBody,
    TooLarge,
    MediaType,
    Host,
    Timeout,
}

impl Problem {
    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoToken | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest(message) => ("bad_request", message),
            Self::Unauthorized => ("unauthorized", "The admin token is missing or wrong."),
            Self::NoToken => ("no_token", "No admin token is configured; this needs one."),
            Self::CrossSite => ("cross_site", "Requests of other sites are refused."),
            Self::NotFound => ("not_found", "There is nothing here."),
            Self::Method(_) => ("method_not_allowed", "This method is not for this address."),
            Self::SlowBody => ("body_timeout", "The body did not arrive in time."),
            Self::TooLarge => ("body_too_large", "The body is larger than 64 KiB."),
            Self::MediaType => ("media_type", "The body must be application/json."),
            Self::Host => ("host", "This name is not one of the server's; configure it."),
            Self::Timeout => ("timeout", "This took too long."),
        }
    }

    pub(super) fn answer(self) -> Answer {
        let (error, message) = self.words();
        let status = self.status();
        let mut answer =
            json(status, &Refusal { status: status.as_u16(), error, message, faults: None });
        let headers = answer.headers_mut();
        if let Self::Method(allow) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self == Self::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"deskgate\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        answer
    }
}

#[derive(Serialize)]
struct Refusal<'a> {
    status: u16,
    error: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    faults: Option<&'a [String]>,
}

/// The answer to a reload that was refused.
pub(super) fn faults(faults: &[String]) -> Answer {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let refusal = Refusal {
        status: status.as_u16(),
        error: "configuration_refused",
        message: "The configuration was refused; the old one stays in use.",
        faults: Some(faults),
    };
    json(status, &refusal)
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // Our own types have no keys but text and no numbers but finite ones or none.
    let text = serde_json::to_vec(value).unwrap_or_default();
    with_type(status, JSON, text.into())
}

pub(super) fn with_type(status: StatusCode, media: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, media);
    answer
}

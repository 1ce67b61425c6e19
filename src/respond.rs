//! Error to response: the only room that chooses a status or a body.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error as PingoraError, ErrorSource, ErrorType, Result};

use tokio::time::timeout;

use crate::error::Error;
use crate::upstream;

/// Longest wait for a client to take an answer of ours.
const WRITE: Duration = Duration::from_secs(30);

/// Longest time, and most bytes, for which the rest of a refused upload is taken.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Seconds after which a client should try again that met a 502, 503 or 504, where nothing better is known.
const RETRY_AFTER: u32 = 2;

/// What `Allow` says where the address was not looked at yet.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What every answer to one request bears, whoever makes it.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The request's id.
    pub id: HeaderValue,
    /// The value of `Strict-Transport-Security`.
    pub hsts: Option<HeaderValue>,
}

/// Keeps the stamp of a request until it is answered.
pub fn prepare(request: &mut RequestHeader, stamp: Stamp) {
    request.extensions_mut().insert(stamp);
}

/// Puts the stamp of a request on its answer.
///
/// # Errors
/// Never: names and values are valid.
pub fn stamp(answer: &mut ResponseHeader, request: &RequestHeader) -> Result<()> {
    let Some(stamp) = request.extensions.get::<Stamp>() else { return Ok(()) };
    if let Some(hsts) = &stamp.hsts {
        answer.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts.clone())?;
    }
    answer.insert_header("X-Request-Id", stamp.id.clone())
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Status of the response.
    pub status: StatusCode,
    /// Fixed name of the failure for logs and metrics.
    pub reason: &'static str,
    /// Fixed name for the client. One word for every refused token: why is nobody's business.
    pub error: &'static str,
    /// A sentence for the user; never an internal detail.
    pub message: &'static str,
    /// Seconds after which the client should try again; 0 for an answer that stays as it is.
    pub after: u32,
}

const fn problem(status: StatusCode, reason: &'static str, message: &'static str) -> Problem {
    Problem { status, reason, error: reason, message, after: 0 }
}

/// The problem behind an error of the proxy, or nothing if nobody is left to answer.
#[must_use]
pub fn classify(error: &PingoraError) -> Option<Problem> {
    match error.root_cause().downcast_ref::<Error>() {
        Some(ours) => Some(of(*ours)),
        None => of_pingora(error),
    }
}

/// Every failure of ours. No wildcard: a new failure does not compile until someone chooses here.
fn of(error: Error) -> Problem {
    let reason = error.reason();
    let (status, message) = match error {
        // A token of an address's former owner is as good as expired: pyos gives another.
        Error::Auth(_)
        | Error::Upstream(upstream::Error::DesktopReused | upstream::Error::DesktopAmbiguous) => (
            StatusCode::UNAUTHORIZED,
            "The desktop token is missing, invalid or expired. Please reload the page.",
        ),
        Error::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request is too large."),
        Error::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "This server is busy. Please try again in a moment.")
        }
        Error::BodyTooSlow | Error::HeadTimeout => {
            (StatusCode::REQUEST_TIMEOUT, "The request took too long.")
        }
        Error::Draining => (
            StatusCode::SERVICE_UNAVAILABLE,
            "This server is being replaced. Please try again in a moment.",
        ),
        Error::FileForbidden => (StatusCode::FORBIDDEN, "This file may not be read."),
        Error::FileUnreadable => (StatusCode::INTERNAL_SERVER_ERROR, "This file cannot be read."),
        Error::Foreign(_) => {
            (StatusCode::FORBIDDEN, "This page may not connect to a desktop of this server.")
        }
        Error::HeadTooLarge => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "The headers of the request are too large.",
        ),
        Error::InvalidRequest => (StatusCode::BAD_REQUEST, "The request is not valid."),
        Error::TargetTooLong => (StatusCode::URI_TOO_LONG, "The address is too long."),
        Error::InvalidPath(_) => (StatusCode::BAD_REQUEST, "The address is not valid."),
        Error::InvalidUpgrade => {
            (StatusCode::BAD_REQUEST, "This is not a valid WebSocket request.")
        }
        Error::Limited(refusal) if refusal.limit.is_of_the_server() => {
            (StatusCode::SERVICE_UNAVAILABLE, "This server is busy. Please try again in a moment.")
        }
        Error::Limited(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "That is too much at once. Please try again later.")
        }
        Error::MethodNotAllowed => {
            (StatusCode::METHOD_NOT_ALLOWED, "This address can only be read.")
        }
        Error::PostOnly => (StatusCode::METHOD_NOT_ALLOWED, "This address takes only POST."),
        Error::MethodRefused => (StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed."),
        Error::NoFile | Error::NoRoute => {
            (StatusCode::NOT_FOUND, "There is nothing at this address.")
        }
        Error::PortRefused => (StatusCode::FORBIDDEN, "This port of the desktop is not open."),
        Error::Upstream(upstream) => of_upstream(upstream),
    };
    let word = if status == StatusCode::UNAUTHORIZED { "unauthorized" } else { reason };
    let after = if let Error::Limited(refusal) = error {
        refusal.after
    } else if matches!(status.as_u16(), 502..=504) {
        RETRY_AFTER
    } else {
        0
    };
    Problem { status, reason, error: word, message, after }
}

fn of_upstream(error: upstream::Error) -> (StatusCode, &'static str) {
    match error {
        upstream::Error::ConnectTimeout
        | upstream::Error::NameTimeout
        | upstream::Error::ResponseTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "The service behind this address does not answer.")
        }
        upstream::Error::DesktopGone => {
            (StatusCode::NOT_FOUND, "This desktop does not exist any more.")
        }
        upstream::Error::DesktopNotReady
        | upstream::Error::DesktopEnding
        | upstream::Error::DesktopsUnknown => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The desktop is not ready yet. This page tries again by itself.",
        ),
        upstream::Error::Exhausted => {
            (StatusCode::SERVICE_UNAVAILABLE, "Too much is going on here just now.")
        }
        upstream::Error::DesktopReused
        | upstream::Error::DesktopAmbiguous
        | upstream::Error::ConnectFailed
        | upstream::Error::InvalidResponse
        | upstream::Error::NoSuchName
        | upstream::Error::NameFailed => {
            (StatusCode::BAD_GATEWAY, "The service behind this address cannot be reached.")
        }
    }
}

/// What a WebSocket is closed with that was accepted only to say why it is refused.
#[must_use]
pub fn close_of(problem: &Problem) -> (u16, String) {
    let code = match (problem.status.as_u16(), problem.reason) {
        (401, "expired" | "desktop_reused" | "desktop_ambiguous") => 4401,
        (401 | 403, _) => 4403,
        (_, "no_such_name" | "desktop_gone") => 4404,
        (_, "connect_failed" | "connect_timeout" | "desktop_not_ready" | "desktops_unknown") => {
            4408
        }
        (_, "desktop_ending") => 4404,
        (429, _) => 4429,
        (_, "draining") => 1012,
        (_, "overload_tunnels" | "overload_requests" | "exhausted") => 1013,
        _ => 1011, // RFC 6455 section 7.4.1: what was asked for cannot be fulfilled.
    };
    (code, serde_json::json!({ "reason": problem.error }).to_string())
}

/// Failures that pingora found, by whose side they are on.
fn of_pingora(error: &PingoraError) -> Option<Problem> {
    let problem = match (error.esource(), error.etype()) {
        (_, ErrorType::HTTPStatus(413)) => of(Error::BodyTooLarge),
        (ErrorSource::Upstream, ErrorType::ConnectTimedout) => {
            of(upstream::Error::ConnectTimeout.into())
        }
        (ErrorSource::Upstream, _) => of(upstream::fault(error).into()),
        (ErrorSource::Downstream, ErrorType::ReadError) if is_invalid(error) => {
            of(Error::InvalidRequest)
        }
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => {
            problem(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request took too long.")
        }
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ConnectionClosed,
        ) => return None,
        (ErrorSource::Downstream, _) => {
            problem(StatusCode::BAD_REQUEST, "bad_request", "The request is not valid.")
        }
        (ErrorSource::Internal | ErrorSource::Unset, _) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong. Please try again.",
        ),
    };
    Some(problem)
}

/// Whether what was read is not what it should be.
fn is_invalid(error: &PingoraError) -> bool {
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::InvalidData)
}

/// Answers a request with a problem. The connection stays open for another request unless something of
/// this one is left unread. False if half of another answer went out before.
///
/// # Errors
/// If the client is gone, or does not take the answer.
pub async fn write(session: &mut Session, problem: &Problem) -> Result<bool> {
    if session.response_written().is_some_and(|written| !written.status.is_informational()) {
        // Half of an answer went out: only closing tells the client that it is incomplete.
        return Ok(false);
    }
    let unread = !session.is_body_done();
    if unread || problem.status == StatusCode::BAD_REQUEST {
        session.set_keepalive(None);
    }
    let (content_type, body) = if navigates(session.req_header()) {
        ("text/html; charset=utf-8", page(problem))
    } else {
        ("application/json", json(problem))
    };
    let mut head = ResponseHeader::build(problem.status, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, content_type)?;
    own_headers(&mut head)?;
    if session.req_header().headers.contains_key(header::UPGRADE) {
        // RFC 6455 section 4.4; also how one sees from outside that the upgrade came this far.
        head.insert_header(header::SEC_WEBSOCKET_VERSION, "13")?;
    }
    if problem.status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = match problem.reason {
            "method_refused" => METHODS,
            "post_only" => "POST",
            _ => "GET, HEAD",
        };
        head.insert_header(header::ALLOW, allowed)?;
    }
    if problem.after > 0 {
        head.insert_header(header::RETRY_AFTER, problem.after.to_string())?;
    }
    write_whole(session, head, body.into()).await?;
    if unread {
        linger(session).await;
    }
    Ok(true)
}

/// Takes some of the body that nobody wants: a close with unread bytes would reset the connection
/// and take the answer back (RFC 9112 section 9.6).
async fn linger(session: &mut Session) {
    if session.req_header().headers.contains_key(header::EXPECT) {
        return; // The client waits for a word before it sends anything.
    }
    let mut taken = 0;
    let rest = async {
        while taken < LINGER_BYTES
            && let Ok(Some(bytes)) = session.read_request_body().await
        {
            taken += bytes.len();
        }
    };
    // In time or not, the connection ends now.
    drop(timeout(LINGER, rest).await);
}

/// Status and whole response for a request that was refused before it was one: there is no session
/// to write to, and the connection ends.
#[must_use]
pub fn raw(error: Error, id: &str) -> (u16, Bytes) {
    let problem = of(error);
    let body = json(&problem);
    let not_allowed = problem.status == StatusCode::METHOD_NOT_ALLOWED;
    let allow = if not_allowed { format!("Allow: {METHODS}\r\n") } else { String::new() };
    let again = match problem.after {
        0 => String::new(),
        after => format!("Retry-After: {after}\r\n"),
    };
    let text = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{allow}{again}\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         X-Frame-Options: SAMEORIGIN\r\nReferrer-Policy: no-referrer\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n{body}",
        problem.status.as_u16(),
        problem.status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    (problem.status.as_u16(), text.into())
}

/// Answers a request with a text of the configuration.
///
/// # Errors
/// If the client is gone.
pub async fn write_text(session: &mut Session, text: &str) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, "text/plain")?;
    own_headers(&mut head)?;
    write_whole(session, head, Bytes::copy_from_slice(text.as_bytes())).await
}

/// Sends a request to another address, for good and with its method.
///
/// # Errors
/// If the client is gone.
pub async fn write_redirect(session: &mut Session, address: &str) -> Result<()> {
    let unread = !session.is_body_done();
    if unread {
        session.set_keepalive(None);
    }
    let mut head = ResponseHeader::build(StatusCode::PERMANENT_REDIRECT, Some(6))?;
    head.insert_header(header::LOCATION, address)?;
    own_headers(&mut head)?;
    write_whole(session, head, Bytes::new()).await?;
    if unread {
        linger(session).await;
    }
    Ok(())
}

/// Answers a request with a JSON text.
///
/// # Errors
/// If the client is gone.
pub async fn write_json(session: &mut Session, text: &str) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    own_headers(&mut head)?;
    write_whole(session, head, Bytes::copy_from_slice(text.as_bytes())).await
}

/// Headers of every answer that deskgate itself makes.
fn own_headers(head: &mut ResponseHeader) -> Result<()> {
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
    head.insert_header(header::X_FRAME_OPTIONS, "SAMEORIGIN")?;
    head.insert_header(header::REFERRER_POLICY, "no-referrer")
}

async fn write_whole(session: &mut Session, mut head: ResponseHeader, body: Bytes) -> Result<()> {
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    stamp(&mut head, session.req_header())?;
    let bodyless = session.req_header().method == Method::HEAD;
    let write = async {
        session.write_response_header(Box::new(head)).await?;
        if !bodyless {
            session.write_response_body(body, true).await?;
        }
        session.finish_body().await
    };
    // pingora limits the writing of a body, not of a head, nor the last flush.
    match timeout(WRITE, write).await {
        Ok(written) => written,
        Err(_) => PingoraError::e_explain(ErrorType::WriteTimedout, "answer not taken"),
    }
}

/// Whether a person looks at the answer: browsers say so (Fetch Metadata), older ones ask for HTML.
fn navigates(request: &RequestHeader) -> bool {
    let value = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    match value("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => {
            request.method == Method::GET
                && value("accept").is_some_and(|accept| accept.contains("text/html"))
        }
    }
}

/// The shape that the web client reads: `status`, `error`, `message`.
fn json(problem: &Problem) -> String {
    serde_json::json!({
        "status": problem.status.as_u16(),
        "error": problem.error,
        "message": problem.message,
    })
    .to_string()
}

/// A page without external parts; all its text is fixed, so nothing needs escaping.
fn page(problem: &Problem) -> String {
    let status = problem.status.as_u16();
    let title = problem.status.canonical_reason().unwrap_or("Error");
    let message = problem.message;
    let again = match problem.status {
        StatusCode::SERVICE_UNAVAILABLE => {
            format!("<meta http-equiv=\"refresh\" content=\"{}\">", problem.after)
        }
        _ => String::new(),
    };
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">{again}<title>{status} {title}</title>\
         <style>body{{font:1.1rem/1.5 system-ui,sans-serif;margin:15vh auto;max-width:34rem;\
         padding:0 1rem;color:#223}}h1{{font-size:1.4rem}}small{{color:#667}}</style>\
         <h1>{title}</h1><p>{message}</p><small>{status} {error}</small></html>",
        error = problem.error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth;
    use crate::route::InvalidPath;

    fn classify_ours(error: Error) -> Problem {
        classify(&Box::<PingoraError>::from(error)).unwrap()
    }

    #[test]
    fn our_errors_survive_their_way_through_pingora() {
        let wrapped: Box<PingoraError> = Error::from(auth::Error::Expired).into();
        let wrapped = wrapped.more_context("while proxying").into_down();
        assert_eq!(classify(&wrapped).unwrap().status, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn each_failure_has_its_status() {
        for (error, status) in [
            (Error::Auth(auth::Error::Missing), 401),
            (Error::Auth(auth::Error::OutsidePolicy), 401),
            (Error::BodyTooLarge, 413),
            (Error::InvalidPath(InvalidPath::LeavesRoot), 400),
            (Error::InvalidUpgrade, 400),
            (Error::NoRoute, 404),
            (Error::PortRefused, 403),
            (Error::Upstream(upstream::Error::ConnectFailed), 502),
            (Error::Upstream(upstream::Error::Exhausted), 503),
            (Error::Upstream(upstream::Error::ConnectTimeout), 504),
            (Error::Upstream(upstream::Error::InvalidResponse), 502),
            (Error::Upstream(upstream::Error::NoSuchName), 502),
            (Error::Upstream(upstream::Error::NameFailed), 502),
            (Error::Upstream(upstream::Error::NameTimeout), 504),
            (Error::Upstream(upstream::Error::ResponseTimeout), 504),
        ] {
            assert_eq!(classify_ours(error).status.as_u16(), status, "{error:?}");
        }
    }

    #[test]
    fn every_refused_token_gets_the_same_body() {
        let of = |error| classify_ours(Error::Auth(error));
        assert_eq!(json(&of(auth::Error::BadSeal)), json(&of(auth::Error::Expired)));
        assert_eq!(page(&of(auth::Error::BadSeal)), page(&of(auth::Error::Expired)));
        assert_ne!(of(auth::Error::BadSeal).reason, of(auth::Error::Expired).reason);
    }

    #[test]
    fn nobody_is_answered_once_the_client_is_gone() {
        let gone = PingoraError::new_down(ErrorType::ConnectionClosed);
        assert_eq!(classify(&gone), None);
    }

    #[test]
    fn json_has_the_fields_the_web_client_reads() {
        let value: serde_json::Value =
            serde_json::from_str(&json(&classify_ours(Error::NoRoute))).unwrap();
        assert_eq!(value["status"], 404);
        assert_eq!(value["error"], "no_route");
        assert!(value["message"].is_string());
    }

    #[test]
    fn browsers_that_navigate_get_a_page() {
        let request = |headers: &[(&'static str, &str)]| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for (name, value) in headers {
                request.insert_header(*name, *value).unwrap();
            }
            navigates(&request)
        };
        assert!(request(&[("sec-fetch-mode", "navigate")]));
        assert!(request(&[("accept", "text/html,*/*;q=0.8")]));
        assert!(!request(&[("sec-fetch-mode", "cors"), ("accept", "text/html")]));
        assert!(!request(&[("accept", "*/*")]));
        assert!(!request(&[]));
    }
}

//! Answers of our own. This room alone chooses a status (`problem`) or a body for a failure.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error as PingoraError, ErrorType, Result};
use tokio::time::timeout;

use crate::error::Error;

mod problem;

pub use problem::{Problem, classify, close_of};

use problem::of;

/// Longest wait for a client to take an answer of ours.
const WRITE: Duration = Duration::from_secs(30);

/// Longest time, and most bytes, for which the rest of a refused upload is taken.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

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

    fn classify_ours(error: Error) -> Problem {
        classify(&Box::<PingoraError>::from(error)).unwrap()
    }

    #[test]
    fn every_refused_token_gets_the_same_body() {
        let of = |error| classify_ours(Error::Auth(error));
        assert_eq!(json(&of(auth::Error::BadSeal)), json(&of(auth::Error::Expired)));
        assert_eq!(page(&of(auth::Error::BadSeal)), page(&of(auth::Error::Expired)));
        assert_ne!(of(auth::Error::BadSeal).reason, of(auth::Error::Expired).reason);
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

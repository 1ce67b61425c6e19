//! Answers of our own. This room alone chooses a status (`problem`) or a body for a failure.

use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora::{Error as PingoraError, ErrorType, Result};
use tokio::time::timeout;

use crate::error::Error;
use crate::session::Session;

mod problem;

pub use problem::{Problem, classify, close_of};

use problem::of;

/// Longest wait for a client to take an answer of ours.
const WRITE: Duration = Duration::from_secs(30);

/// What `Allow` says where the address was not looked at yet.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Answers a request with a problem. The connection stays open for another request unless something of
/// this one is left unread. False if half of another answer went out before.
///
/// # Errors
/// If the client is gone, or does not take the answer.
pub async fn write(session: &mut Session, problem: &Problem) -> Result<bool> {
    if session.answered().is_some_and(|status| !status.is_informational()) {
        // Half of an answer went out: only closing tells the client that it is incomplete.
        return Ok(false);
    }
    let upgrade = session.request().headers.contains_key(header::UPGRADE);
    let is_bad = problem.status == StatusCode::BAD_REQUEST;
    // What follows an upgrade to something else may be no HTTP.
    let is_other = problem.status == StatusCode::UPGRADE_REQUIRED && upgrade;
    if !session.is_body_over() || is_bad || is_other {
        session.close_after();
    }
    let (content_type, body) = if navigates(session.request()) {
        ("text/html; charset=utf-8", page(problem, session.id()))
    } else {
        ("application/json", json(problem))
    };
    let mut head = own_head(problem.status);
    let headers = &mut head.headers;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if upgrade {
        // RFC 6455 section 4.4; also how one sees from outside that the upgrade came this far.
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if problem.status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = match problem.reason {
            "method_refused" => METHODS,
            "post_only" => "POST",
            _ => "GET, HEAD",
        };
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    // HTTP/2 forbids the field (RFC 9113 section 8.2.2), and 1.0 knows no upgrade.
    let may_upgrade = session.request().version == Version::HTTP_11;
    if problem.status == StatusCode::UPGRADE_REQUIRED && may_upgrade {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if problem.after > 0 {
        headers.insert(header::RETRY_AFTER, problem.after.into());
    }
    write_whole(session, head, body.into()).await?;
    Ok(true)
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
    let mut head = own_head(StatusCode::OK);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    write_whole(session, head, Bytes::copy_from_slice(text.as_bytes())).await
}

/// Sends a request to another address, for good and with its method.
///
/// # Errors
/// If the client is gone.
pub async fn write_redirect(session: &mut Session, address: &str) -> Result<()> {
    if !session.is_body_over() {
        session.close_after();
    }
    let mut head = own_head(StatusCode::PERMANENT_REDIRECT);
    // What came in a header and a request line fits into a header.
    let address = HeaderValue::from_str(address).map_err(|_| Error::InvalidRequest)?;
    head.headers.insert(header::LOCATION, address);
    write_whole(session, head, Bytes::new()).await
}

/// Answers a request with a JSON text.
///
/// # Errors
/// If the client is gone.
pub async fn write_json(session: &mut Session, text: &str) -> Result<()> {
    let mut head = own_head(StatusCode::OK);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    write_whole(session, head, Bytes::copy_from_slice(text.as_bytes())).await
}

/// A head with what every answer bears that deskgate itself makes.
fn own_head(status: StatusCode) -> Parts {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = status;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    head
}

async fn write_whole(session: &mut Session, mut head: Parts, body: Bytes) -> Result<()> {
    head.headers.insert(header::CONTENT_LENGTH, body.len().into());
    session.stamp(&mut head);
    let bodyless = session.request().method == Method::HEAD;
    let write = async {
        session.write_head(head).await?;
        if !bodyless {
            session.write_body(body).await?;
        }
        session.finish_body().await
    };
    // All of it has one limit, whoever takes it piece by piece.
    match timeout(WRITE, write).await {
        Ok(written) => written,
        Err(_) => Err(PingoraError::new_down(ErrorType::WriteTimedout)),
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

/// A page without external parts; all its text is fixed, and the id holds nothing that needs escaping: what a
/// user can tell whoever reads the log.
fn page(problem: &Problem, id: &str) -> String {
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
         <h1>{title}</h1><p>{message}</p><small>{status} {error}<br>{id}</small></html>",
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
        assert_eq!(page(&of(auth::Error::BadSeal), "1"), page(&of(auth::Error::Expired), "1"));
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

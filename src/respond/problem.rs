//! Which failure is which status, and what the client is told of it: nobody else chooses.

use std::io;

use http::StatusCode;
use pingora::{Error as PingoraError, ErrorSource, ErrorType};

use crate::error::Error;
use crate::upstream;

/// Seconds after which a client should try again that met a 502, 503 or 504, where nothing better is known.
const RETRY_AFTER: u32 = 2;

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
        None => of_connection(error),
    }
}

/// Every failure of ours. No wildcard: a new failure does not compile until someone chooses here.
pub(super) fn of(error: Error) -> Problem {
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
        Error::Foreign(_) => (StatusCode::FORBIDDEN, "Another site may not open this desktop."),
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
        Error::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "This address is a WebSocket."),
        Error::WorkerRefused => (StatusCode::FORBIDDEN, "A desktop has no service workers here."),
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

/// Failures of a connection, by whose side they are on.
fn of_connection(error: &PingoraError) -> Option<Problem> {
    let problem = match (error.esource(), error.etype()) {
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
            | ErrorType::ConnectionClosed
            // A stream that its client has reset, or whose connection is over.
            | ErrorType::H2Error,
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
            (Error::UpgradeRequired, 426),
            (Error::WorkerRefused, 403),
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
    fn nobody_is_answered_once_the_client_is_gone() {
        let gone = PingoraError::new_down(ErrorType::ConnectionClosed);
        assert_eq!(classify(&gone), None);
    }
}

//! Everything a request can fail with, gathered from the rooms.
//!
//! No `Display` here or below holds a token, a key or an address. The sum travels through pingora
//! as the cause of its error and is found again in [`crate::respond`].

use std::io;

use pingora::{Error as PingoraError, ErrorType};

use crate::admission::Refusal;
use crate::admission::origin::Foreign;
use crate::auth;
use crate::files;
use crate::http1::request;
use crate::route::InvalidPath;
use crate::upstream;

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The token was refused.
    #[error("token refused: {}", .0.reason())]
    Auth(#[from] auth::Error),
    /// The body comes more slowly than is waited for.
    #[error("request body too slow")]
    BodyTooSlow,
    /// The request's body is larger than its route allows.
    #[error("request body over the route's limit")]
    BodyTooLarge,
    /// Too many tokens are being opened.
    #[error("too many tokens at once")]
    Busy,
    /// An upgrade of a page that may not open a tunnel, or a link of one that may not lead to a desktop.
    #[error("of a foreign page")]
    Foreign(Foreign),
    /// The process is about to end and opens no tunnel any more.
    #[error("draining")]
    Draining,
    /// A file is there and may not be read.
    #[error("file forbidden")]
    FileForbidden,
    /// A file is there and cannot be read.
    #[error("file unreadable")]
    FileUnreadable,
    /// The head of the request did not arrive in time.
    #[error("request head timed out")]
    HeadTimeout,
    /// The head of the request, one of its headers, or their number is too large.
    #[error("request head too large")]
    HeadTooLarge,
    /// The path cannot be normalised.
    #[error("invalid path: {0}")]
    InvalidPath(#[from] InvalidPath),
    /// The request is not HTTP.
    #[error("invalid request")]
    InvalidRequest,
    /// A WebSocket upgrade that is malformed.
    #[error("not a valid WebSocket upgrade")]
    InvalidUpgrade,
    /// A limit was passed.
    #[error("over the limit of {}", .0.limit.reason())]
    Limited(Refusal),
    /// The address takes only GET and HEAD.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// TRACE, which would show a request's credentials to scripts, or CONNECT, which asks for a proxy
    /// of another kind.
    #[error("method refused")]
    MethodRefused,
    /// There is no file at the path.
    #[error("no such file")]
    NoFile,
    /// No row of the table takes the path.
    #[error("no route")]
    NoRoute,
    /// The port in the path is not one the route allows.
    #[error("port not allowed by the route")]
    PortRefused,
    /// The address takes only POST.
    #[error("only POST is allowed")]
    PostOnly,
    /// The request line is too long.
    #[error("request line too long")]
    TargetTooLong,
    /// The address takes only WebSocket upgrades.
    #[error("not an upgrade")]
    UpgradeRequired,
    /// A script for a worker, which would answer for a desktop's pages from then on.
    #[error("service worker of a desktop")]
    WorkerRefused,
    /// The upstream could not be found or reached, or its answer is unusable.
    #[error("upstream: {0}")]
    Upstream(#[from] upstream::Error),
}

impl From<files::Error> for Error {
    fn from(error: files::Error) -> Self {
        match error {
            files::Error::NotFound => Self::NoFile,
            files::Error::MethodNotAllowed => Self::MethodNotAllowed,
            files::Error::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Self::FileForbidden
            }
            files::Error::Unreadable(_) => Self::FileUnreadable,
        }
    }
}

impl From<request::Error> for Error {
    fn from(error: request::Error) -> Self {
        match error {
            request::Error::HeadTooLarge => Self::HeadTooLarge,
            request::Error::Invalid => Self::InvalidRequest,
            request::Error::MethodRefused => Self::MethodRefused,
            request::Error::TargetTooLong => Self::TargetTooLong,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Limited(refusal)
    }
}

impl From<Foreign> for Error {
    fn from(foreign: Foreign) -> Self {
        Self::Foreign(foreign)
    }
}

impl From<Error> for Box<PingoraError> {
    fn from(error: Error) -> Self {
        PingoraError::because(ErrorType::Custom("deskgate"), "", error)
    }
}

impl Error {
    /// The reasons that are this room's own, for metrics.
    pub const OWN_REASONS: [&'static str; 27] = [
        "bad_request",
        "body_too_large",
        "body_too_slow",
        "busy",
        "client_gone",
        "cross_origin",
        "draining",
        "file_forbidden",
        "file_unreadable",
        "foreign_link",
        "head_timeout",
        "head_too_large",
        "internal",
        "invalid_path",
        "invalid_request",
        "invalid_upgrade",
        "method_not_allowed",
        "method_refused",
        "no_file",
        "no_origin",
        "no_route",
        "port_refused",
        "post_only",
        "request_timeout",
        "target_too_long",
        "upgrade_required",
        "worker_refused",
    ];

    /// The short, fixed name of a failure, for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Auth(error) => error.reason(),
            Self::BodyTooLarge => "body_too_large",
            Self::Busy => "busy",
            Self::BodyTooSlow => "body_too_slow",
            Self::Draining => "draining",
            Self::FileForbidden => "file_forbidden",
            Self::FileUnreadable => "file_unreadable",
            Self::Foreign(Foreign::CrossOrigin) => "cross_origin",
            Self::Foreign(Foreign::NoOrigin) => "no_origin",
            Self::Foreign(Foreign::Link) => "foreign_link",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::InvalidPath(_) => "invalid_path",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidUpgrade => "invalid_upgrade",
            Self::Limited(refusal) => refusal.limit.reason(),
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoFile => "no_file",
            Self::NoRoute => "no_route",
            Self::PostOnly => "post_only",
            Self::PortRefused => "port_refused",
            Self::TargetTooLong => "target_too_long",
            Self::MethodRefused => "method_refused",
            Self::UpgradeRequired => "upgrade_required",
            Self::WorkerRefused => "worker_refused",
            Self::Upstream(error) => error.reason(),
        }
    }
}

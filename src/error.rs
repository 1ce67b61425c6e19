//! Everything a request can fail with, gathered from the rooms.
//!
//! No `Display` here or below holds a token, a key or an address. The sum travels through pingora
//! as the cause of its error and is found again in [`crate::respond`].

use pingora::{Error as PingoraError, ErrorType};

use crate::auth;
use crate::route::InvalidPath;
use crate::upstream;

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The token was refused.
    #[error("token refused: {}", .0.reason())]
    Auth(#[from] auth::Error),
    /// The request's body is larger than its route allows.
    #[error("request body over the route's limit")]
    BodyTooLarge,
    /// The path cannot be normalised.
    #[error("invalid path: {0}")]
    InvalidPath(#[from] InvalidPath),
    /// A WebSocket upgrade that is malformed.
    #[error("not a valid WebSocket upgrade")]
    InvalidUpgrade,
    /// No row of the table takes the path.
    #[error("no route")]
    NoRoute,
    /// The port in the path is not one the route allows.
    #[error("port not allowed by the route")]
    PortRefused,
    /// The upstream could not be found or reached, or its answer is unusable.
    #[error("upstream: {0}")]
    Upstream(#[from] upstream::Error),
}

impl From<Error> for Box<PingoraError> {
    fn from(error: Error) -> Self {
        PingoraError::because(ErrorType::Custom("deskgate"), "", error)
    }
}

impl Error {
    /// The short, fixed name of a failure, for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Auth(error) => error.reason(),
            Self::BodyTooLarge => "body_too_large",
            Self::InvalidPath(_) => "invalid_path",
            Self::InvalidUpgrade => "invalid_upgrade",
            Self::NoRoute => "no_route",
            Self::PortRefused => "port_refused",
            Self::Upstream(error) => error.reason(),
        }
    }
}

//! Why tunnels end: names for logs and metrics, and what a browser is told.

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum End {
    /// The client closed first and the pod followed.
    ClientClose = 1,
    /// The client's connection broke, or it answered no ping.
    ClientLost,
    /// The pod closed first and the client followed.
    PodClose,
    /// The pod's connection broke, or it stopped answering pings.
    PodLost,
    /// One side closed and the other did not follow in time.
    HalfClosed,
    /// Nothing was received for the route's idle time.
    Idle,
    /// The edge gives its tunnels to another instance.
    Drain,
    /// The edge stops.
    Shutdown,
    /// An operator closed it.
    Operator,
    /// The token's time is over and it was not renewed.
    TokenExpired,
    /// The token is not good for this.
    Refused,
    /// The token was withdrawn.
    Revoked,
    /// The desktop no longer exists.
    DesktopGone,
    /// The desktop was not ready in time.
    DesktopNotReady,
    /// The user has too many tunnels.
    TooMany,
    /// A limit on the tunnel itself was passed.
    Limit,
}

impl End {
    /// Every end, for metrics.
    pub const ALL: [Self; 16] = [
        Self::ClientClose,
        Self::ClientLost,
        Self::PodClose,
        Self::PodLost,
        Self::HalfClosed,
        Self::Idle,
        Self::Drain,
        Self::Shutdown,
        Self::Operator,
        Self::TokenExpired,
        Self::Refused,
        Self::Revoked,
        Self::DesktopGone,
        Self::DesktopNotReady,
        Self::TooMany,
        Self::Limit,
    ];

    /// Fixed name for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::ClientLost => "client_lost",
            Self::PodClose => "pod_close",
            Self::PodLost => "pod_lost",
            Self::HalfClosed => "half_closed",
            Self::Idle => "idle",
            Self::Drain => "drain",
            Self::Shutdown => "shutdown",
            Self::Operator => "operator",
            Self::TokenExpired => "token_expired",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
            Self::DesktopGone => "desktop_gone",
            Self::DesktopNotReady => "desktop_not_ready",
            Self::TooMany => "too_many",
            Self::Limit => "limit",
        }
    }

    /// Status code of the Close frame that the client gets (RFC 6455 §7.4). None for ends that are
    /// not ours: nobody is there to be told.
    #[must_use]
    pub fn close_code(self) -> Option<u16> {
        match self {
            Self::ClientClose
            | Self::ClientLost
            | Self::PodClose
            | Self::PodLost
            | Self::HalfClosed
            | Self::Idle => None,
            Self::Drain => Some(1012),
            Self::Shutdown | Self::Operator => Some(1001),
            Self::Limit => Some(1008),
            Self::TokenExpired => Some(4401),
            Self::Refused | Self::Revoked => Some(4403),
            Self::DesktopGone => Some(4404),
            Self::DesktopNotReady => Some(4408),
            Self::TooMany => Some(4429),
        }
    }

    /// Text of the Close frame: JSON, far below the 123 bytes there is room for.
    #[must_use]
    pub fn close_text(self) -> String {
        format!(r#"{{"reason":"{}"}}"#, self.reason())
    }

    /// The end that `end as u8` came from.
    #[must_use]
    pub fn from_u8(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests;

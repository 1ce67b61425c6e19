//! The limits by name, and what a refusal tells.

/// A limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Limit {
    /// Connections in all.
    Connections,
    /// Connections of one listener.
    ListenerConnections,
    /// Connections of one address.
    AddressConnections,
    /// Requests of one address.
    AddressRequests,
    /// Requests with one token.
    TokenRequests,
    /// Tunnels opened with one token.
    NewTunnels,
    /// Open tunnels of one token.
    TokenTunnels,
    /// Open tunnels to one pod.
    PodTunnels,
    /// Refused tokens of one address.
    Failures,
    /// Memory, for a tunnel.
    OverloadTunnels,
    /// Memory, for a request.
    OverloadRequests,
    /// Descriptors of the process.
    Descriptors,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 12] = [
        Self::Connections,
        Self::ListenerConnections,
        Self::AddressConnections,
        Self::AddressRequests,
        Self::TokenRequests,
        Self::NewTunnels,
        Self::TokenTunnels,
        Self::PodTunnels,
        Self::Failures,
        Self::OverloadTunnels,
        Self::OverloadRequests,
        Self::Descriptors,
    ];

    /// Fixed name for logs, metrics and the client.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ListenerConnections => "listener_connections",
            Self::AddressConnections => "address_connections",
            Self::AddressRequests => "address_requests",
            Self::TokenRequests => "token_requests",
            Self::NewTunnels => "new_tunnels",
            Self::TokenTunnels => "token_tunnels",
            Self::PodTunnels => "pod_tunnels",
            Self::Failures => "auth_failures",
            Self::OverloadTunnels => "overload_tunnels",
            Self::OverloadRequests => "overload_requests",
            Self::Descriptors => "descriptors",
        }
    }

    /// Whether the server is at its end, and not one client at its own.
    #[must_use]
    pub const fn is_of_the_server(self) -> bool {
        matches!(
            self,
            Self::Connections
                | Self::ListenerConnections
                | Self::OverloadTunnels
                | Self::OverloadRequests
                | Self::Descriptors
        )
    }
}

/// Why something is not taken on, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit that was passed.
    pub limit: Limit,
    /// Seconds after which it is worth a try.
    pub after: u32,
}

//! Why a token was refused: one word for metrics, one sentence for logs, no secrets in either.
//!
//! May be shown to operators; the client gets the same 401 for every variant.

/// Why a token opens no desktop.
///
/// It carries no part of the token, so it may be logged, cached and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The request carries no token where its route looks for one.
    #[error("the request carries no desktop token")]
    Missing,
    /// Longer than [`MAX_TOKEN`](super::token::MAX_TOKEN) bytes.
    #[error("the token is longer than 8192 bytes")]
    TooLong,
    /// Not a JWS in compact form (RFC 7515 section 7.1).
    #[error("the token is malformed: {0}")]
    Malformed(Flaw),
    /// `alg` is anything but `RS256`, the only algorithm pyos signs with.
    #[error("the token is not signed with RS256")]
    Algorithm,
    /// The header asks for something this verifier does not do (RFC 7515 section 4.1.11: what is
    /// critical and not understood must be refused).
    #[error("the token's header holds crit, enc, zip, jwk, jku, x5u, x5c or a foreign typ")]
    UnsupportedHeader,
    /// No signing key verifies the signature.
    #[error("no signing key verifies the token's signature")]
    BadSignature,
    /// `exp` is not in the future. There is no leeway, as in the nginx/Lua incumbent.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The signed claims are not those of a desktop token.
    #[error("the token's claims are not those of a desktop token")]
    BadClaims,
    /// The signed claims have no `hash`, as in pyos's other tokens.
    #[error("the token's claims have no hash")]
    MissingHash,
    /// `hash` is not base64, or no payload key opens it to text.
    #[error("no payload key opens the token's hash")]
    BadSeal,
    /// The sealed target is not a host this gateway may reach.
    #[error("the token's target is outside the permitted domain and networks")]
    OutsidePolicy,
    /// An operator has withdrawn it.
    #[error("the token was revoked")]
    Revoked,
}

impl Error {
    /// Every value of [`reason`](Self::reason).
    pub const REASONS: [&'static str; 13] = [
        "missing",
        "too_long",
        "malformed",
        "algorithm",
        "unsupported_header",
        "bad_signature",
        "expired",
        "not_yet_valid",
        "bad_claims",
        "missing_hash",
        "bad_seal",
        "outside_policy",
        "revoked",
    ];

    /// A short stable word for metrics and structured logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnsupportedHeader => "unsupported_header",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BadClaims => "bad_claims",
            Self::MissingHash => "missing_hash",
            Self::BadSeal => "bad_seal",
            Self::OutsidePolicy => "outside_policy",
            Self::Revoked => "revoked",
        }
    }
}

/// Which part of a token is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Flaw {
    /// The header field is not text.
    #[error("it is not text")]
    Encoding,
    /// Not exactly three parts.
    #[error("it does not have three parts")]
    Parts,
    /// The claims or the signature are not canonical base64url (RFC 4648 sections 3.5 and 5).
    #[error("one of its parts is no canonical base64url")]
    Base64,
    /// A byte outside the base64url alphabet (RFC 4648 section 5, without padding).
    #[error("it holds a byte outside the base64url alphabet")]
    Alphabet,
    /// The header part is empty, too long, not base64url or not JSON.
    #[error("its header part is empty, too long or no JSON object")]
    Header,
    /// The claims part is empty or too long.
    #[error("its claims part is empty or too long")]
    Claims,
    /// The signature part cannot be one of a 1024- to 8192-bit key.
    #[error("its signature part has an impossible length")]
    Signature,
}

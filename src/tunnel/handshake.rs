//! Whether a 101 answers the handshake that it was sent for (RFC 6455 section 4.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName};
use http::response::Parts;
use http::{StatusCode, Version};
use pingora::http::RequestHeader;

/// Whether a pod's answer to an upgrade is a WebSocket, or no tunnel at all. A 101 for anything else
/// would make a tunnel of what is none: a browser would say so, a proxy in front of us may not.
#[must_use]
pub fn is_answered(request: &RequestHeader, answer: &Parts) -> bool {
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        return true;
    }
    let Some(key) = request.headers.get(header::SEC_WEBSOCKET_KEY) else { return false };
    let only = |name: HeaderName| {
        let mut values = answer.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes().trim_ascii())
    };
    answer.version == Version::HTTP_11
        && only(header::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        && only(header::SEC_WEBSOCKET_ACCEPT) == Some(accept_of(key.as_bytes()).as_bytes())
        && upgrades(&answer.headers)
}

/// Whether `Connection` says that the connection changes.
fn upgrades(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// The value that proves the handshake was understood (RFC 6455 section 4.2.2).
pub(super) fn accept_of(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let sha1 = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    STANDARD.encode(aws_lc_rs::digest::digest(sha1, &[key, GUID].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

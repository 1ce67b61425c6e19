//! The `Host` of a request: a client's text that ends up in redirects and in upstreams' logs.

use http::HeaderValue;

/// Whether a `Host` is a name or an address, with or without a port (RFC 3986 section 3.2.2).
pub(crate) fn is_valid(host: &HeaderValue) -> bool {
    // Nearly every one: letters, digits, dots and dashes, perhaps a port.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let bytes = host.as_bytes();
    match bytes.iter().position(|byte| !plain(byte)).map(|end| bytes.split_at(end)) {
        None => return !bytes.is_empty(),
        Some((name, [b':', port @ ..])) if !name.is_empty() => {
            return port.iter().all(u8::is_ascii_digit);
        }
        Some(_) => {}
    }
    let Ok(text) = host.to_str() else { return false };
    let (name, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let named = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
            !name.is_empty() && name.bytes().all(allowed)
        }
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    named && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
}

/// A host in lower case without its port, as nginx's `$host`.
pub(super) fn without_port(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        // The last colon of a bracketed IPv6 address is not a port's.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.to_ascii_lowercase()
}

//! Plain HTTP where TLS is spoken: a browser that was given the port without a scheme.
//!
//! The client's `Host` names the public port of this very listener, so the redirect is right behind
//! any NodePort. Nothing is served in plain here.

use pingora::http::RequestHeader;

use crate::proxy::redirect;

/// The whole answer to a head: a redirect to the same place under https; none if the head does not say
/// where that is.
pub(super) fn answer(head: &RequestHeader, id: &str) -> Option<String> {
    let target = std::str::from_utf8(head.raw_path()).ok();
    let target = target.filter(|target| target.starts_with('/'))?;
    let host = head.headers.get(http::header::HOST).filter(|host| redirect::is_valid_host(host))?;
    let host = host.to_str().ok()?;
    let location = redirect::address(host, target, |port| port.unwrap_or(443));
    let fits = location.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| {
        format!(
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\
             Cache-Control: no-store\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::http1::request;

    #[test]
    fn the_public_port_is_kept() {
        for (head, want) in [
            ("GET /a?b HTTP/1.1\r\nHost: desk:30443\r\n\r\n", Some("https://desk:30443/a?b")),
            ("GET / HTTP/1.1\r\nhost: desk\r\n\r\n", Some("https://desk/")),
            ("GET / HTTP/1.1\r\nHost: desk:443\r\n\r\n", Some("https://desk/")),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", None),
            ("GET / HTTP/1.1\r\n\r\n", None),
            ("OPTIONS * HTTP/1.1\r\nHost: desk\r\n\r\n", None),
        ] {
            let listen = Config::from_text("empty", "").unwrap().config.listen;
            let (request, _) = request::parse(head.as_bytes(), &listen).unwrap().unwrap();
            let answer = answer(&request.head, "id");
            let location = answer.as_deref().and_then(|answer| answer.split("\r\n").nth(1));
            let location = location.and_then(|line| line.strip_prefix("Location: "));
            assert_eq!(location, want, "{head}");
        }
    }
}

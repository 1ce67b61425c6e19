use std::fs;

use super::*;

fn lines(chunks: &[&[u8]]) -> Vec<String> {
    let mut buffer = Buffer::default();
    let mut lines = Vec::new();
    for chunk in chunks {
        buffer.bytes.extend_from_slice(chunk);
        while let Some(line) = buffer.line().unwrap() {
            lines.push(line);
        }
    }
    lines
}

#[test]
fn lines_are_found_however_they_arrive() {
    let text = b"one\n\n two\nthree\n";
    for size in 1..=text.len() {
        let chunks: Vec<_> = text.chunks(size).collect();
        assert_eq!(lines(&chunks), ["one", " two", "three"], "{size}");
    }
}

#[test]
fn a_line_without_an_end_is_refused() {
    let mut buffer = Buffer::default();
    let chunk = vec![b'x'; 1 << 20];
    let mut push = |_| {
        buffer.bytes.extend_from_slice(&chunk);
        buffer.line()
    };
    assert!((0..4).map(&mut push).all(|line| line == Ok(None)));
    assert_eq!(push(4), Err(Fault::TooLarge));
}

#[test]
fn the_rest_of_a_line_is_noticed() {
    let mut buffer = Buffer::default();
    buffer.bytes.extend_from_slice(b"one\ntwo");
    assert!(buffer.has_line() && buffer.line().unwrap().is_some() && !buffer.has_line());
    assert!(!buffer.is_empty());
    buffer.bytes.extend_from_slice(b"\n");
    assert!(buffer.line().unwrap().is_some() && buffer.is_empty());
}

#[test]
fn queries_are_encoded() {
    assert_eq!(encoded("kubernetes.io/service-name=a b"), "kubernetes.io%2Fservice-name%3Da%20b");
}

fn api(ca: &Path, token: &Path) -> Api {
    let transport = Transport::Tls { ca: ca.into(), token: token.into() };
    let server = Server { host: "::1".to_owned(), port: 6443, transport };
    Api::new(server, "abcdesktop", "desktop", Duration::from_secs(30))
}

#[tokio::test(start_paused = true)]
async fn the_credential_is_read_again_after_a_minute_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut api = api(&path, &path);
    assert_eq!(api.request("q").unwrap_err(), Fault::Credentials);
    fs::write(&path, "first\n").unwrap();
    let request = api.request("q").unwrap();
    assert_eq!(request.headers()[AUTHORIZATION], "Bearer first");
    assert_eq!(request.headers()[HOST], "[::1]:6443");
    fs::write(&path, "second\n").unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(api.request("q").unwrap().headers()[AUTHORIZATION], "Bearer first");
    tokio::time::advance(Duration::from_secs(2)).await;
    let request = api.request("q").unwrap();
    assert_eq!(request.headers()[AUTHORIZATION], "Bearer second");
    assert!(!format!("{api:?}{request:?}").contains("second"));
    fs::write(&path, vec![b'x'; 65_537]).unwrap();
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(api.request("q").unwrap_err(), Fault::Credentials);
}

#[test]
fn a_file_without_certificates_is_no_authority() {
    assert!(connector(b"").is_none() && connector(b"no PEM").is_none());
}

#[test]
fn the_servers_clock_is_read() {
    let mut headers = HeaderMap::new();
    assert_eq!(date(&headers), None);
    headers.insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:01:00 GMT"));
    assert_eq!(date(&headers), Some(60_500));
}

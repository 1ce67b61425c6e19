use futures_util::FutureExt;
use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::config::Config;
use crate::http1::request;
use crate::transport::Wire;

const WAIT: Duration = Duration::from_secs(5);
const WAITS: Waits = Waits { read: WAIT, write: WAIT };

/// A session for these bytes of a client, and the client.
async fn session(bytes: &str) -> (Box<Session>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let theirs = TcpStream::connect(address).await.unwrap();
    let (ours, peer) = listener.accept().await.unwrap();
    let listen = Config::from_text("empty", "").unwrap().config.listen;
    let (request, end) = request::parse(bytes.as_bytes(), &listen).unwrap().unwrap();
    let rest = BytesMut::from(&bytes.as_bytes()[end..]);
    let mut session =
        Session::new(Box::new(Transport::new(Wire::Plain(ours), peer)), rest, request);
    session.limit(WAITS);
    (Box::new(session), theirs)
}

fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Parts {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        head.headers.insert(*name, HeaderValue::from_static(value));
    }
    head
}

/// What a client reads once its connection is given up.
async fn read(theirs: &mut TcpStream) -> String {
    let mut text = String::new();
    timeout(WAIT, theirs.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn an_answer_is_framed_as_its_head_says() {
    for (request, status, headers, want, kept) in [
        ("GET / HTTP/1.1\r\n\r\n", 200, &[("content-length", "2")][..], "\r\n\r\nab", true),
        (
            "GET / HTTP/1.1\r\n\r\n",
            200,
            &[("transfer-encoding", "chunked")],
            "\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            true,
        ),
        ("GET / HTTP/1.1\r\n\r\n", 200, &[], "\r\n\r\nabc", false),
        ("GET / HTTP/1.1\r\n\r\n", 304, &[("content-length", "9")], "\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\n\r\n", 200, &[("content-length", "9")], "\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", 200, &[("content-length", "2")], "\r\n\r\nab", false),
    ] {
        let (mut session, mut theirs) = session(request).await;
        session.write_head(&answer(status, headers)).await.unwrap();
        session.write_body(b"").await.unwrap();
        session.write_body(b"abc").await.unwrap();
        let next = session.finish().await.unwrap();
        assert_eq!(next.is_some(), kept, "{request:?} {headers:?}");
        drop(next);
        let read = read(&mut theirs).await;
        assert!(read.ends_with(want), "{read:?}");
        let said = if kept { "Connection: keep-alive\r\n" } else { "Connection: close\r\n" };
        assert!(read.contains(said), "{read:?}");
    }
}

#[tokio::test]
async fn half_an_answer_is_not_ended() {
    let (mut session, _theirs) = session("GET / HTTP/1.1\r\n\r\n").await;
    session.write_head(&answer(200, &[("content-length", "4")])).await.unwrap();
    session.write_body(b"abc").await.unwrap();
    assert!(session.finish().await.is_err());
}

#[tokio::test]
async fn what_belongs_to_the_next_request_is_given_on() {
    let request = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET";
    for early in [false, true] {
        let (mut session, _theirs) = session(request).await;
        if early {
            assert_eq!(session.read_body().await.unwrap().unwrap(), "abc");
            assert!(session.read_body().await.unwrap().is_none());
        }
        session.write_head(&answer(204, &[])).await.unwrap();
        let (_, rest) = session.finish().await.unwrap().unwrap();
        assert_eq!(rest, "GET");
    }
}

#[tokio::test]
async fn a_client_that_says_more_waits_and_one_that_goes_is_noticed() {
    let (mut session, mut theirs) = session("GET / HTTP/1.1\r\n\r\n").await;
    assert!(session.read_body_or_idle(false).now_or_never().is_none());
    theirs.write_all(b"GET").await.unwrap();
    session.transport.readable().await;
    assert!(session.read_body_or_idle(false).now_or_never().is_none());
    assert!(session.read_body_or_idle(false).now_or_never().is_none());
    session.write_head(&answer(204, &[])).await.unwrap();
    let (transport, rest) = session.finish().await.unwrap().unwrap();
    assert_eq!(rest, "GET");
    let mut session = Box::new(Session::new(transport, BytesMut::new(), parsed()));
    session.limit(WAITS);
    theirs.shutdown().await.unwrap();
    let error = session.read_body_or_idle(false).await.unwrap_err();
    assert_eq!(*error.etype(), ErrorType::ConnectionClosed);
}

fn parsed() -> Request {
    let listen = Config::from_text("empty", "").unwrap().config.listen;
    request::parse(b"GET / HTTP/1.1\r\n\r\n", &listen).unwrap().unwrap().0
}

#[tokio::test]
async fn a_body_is_kept_for_another_try_up_to_a_bound() {
    for (size, whole) in [(REPLAY, true), (REPLAY + 1, false)] {
        let body = "x".repeat(size);
        let request = format!("PUT / HTTP/1.1\r\nContent-Length: {size}\r\n\r\n{body}");
        let (mut session, _theirs) = session(&request).await;
        session.keep_body();
        while session.read_body().await.unwrap().is_some() {}
        assert_eq!(session.kept_body().is_some_and(|kept| kept == body), whole);
        assert_eq!(session.received(), size as u64);
    }
}

#[tokio::test]
async fn a_body_that_is_broken_or_breaks_off_is_an_error() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut broken, _theirs) = session(&format!("{head}\r\n")).await;
    let error = broken.read_body().await.unwrap_err();
    let cause = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!(cause, Some(ErrorKind::InvalidData));
    let (mut cut, theirs) = session(&format!("{head}3\r\na")).await;
    drop(theirs);
    assert_eq!(cut.read_body().await.unwrap().unwrap(), "a");
    assert_eq!(*cut.read_body().await.unwrap_err().etype(), ErrorType::ConnectionClosed);
    let (mut slow, _theirs) = session(&format!("{head}3\r\n")).await;
    slow.limit(Waits { read: Duration::from_millis(1), ..WAITS });
    assert_eq!(*slow.read_body().await.unwrap_err().etype(), ErrorType::ReadTimedout);
}

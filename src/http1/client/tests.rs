use std::net::SocketAddr;

use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::transport::Wire;
use crate::upstream;

const WAIT: Duration = Duration::from_secs(5);

/// An exchange of this method, and the upstream's end of its connection.
async fn exchange(method: Method) -> (Exchange, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let ours = TcpStream::connect(address).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let transport = Box::new(Transport::new(Wire::Plain(ours), address));
    (Exchange::new(transport, &method, Waits { read: WAIT, write: WAIT }), theirs)
}

/// The next head's status.
async fn status_of(exchange: &mut Exchange) -> Result<StatusCode> {
    loop {
        if let Some(head) = exchange.read_head().await? {
            return Ok(head.status);
        }
    }
}

/// The next piece of the body; none if it is over.
async fn piece_of(exchange: &mut Exchange) -> Result<Option<Bytes>> {
    loop {
        match exchange.read_body().await? {
            Came::Piece(piece) => return Ok(Some(piece)),
            Came::End => return Ok(None),
            Came::Room => {}
        }
    }
}

/// What an answer comes to: its status, its body, and whether its connection is kept.
async fn answered(method: Method, bytes: &[u8], ends: bool) -> Result<(u16, String, bool)> {
    let (mut exchange, mut theirs) = exchange(method).await;
    theirs.write_all(bytes).await.unwrap();
    if ends {
        theirs.shutdown().await.unwrap();
    }
    let mut status = status_of(&mut exchange).await?;
    while status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        status = status_of(&mut exchange).await?;
    }
    let mut body = Vec::new();
    while let Some(piece) = piece_of(&mut exchange).await? {
        body.extend_from_slice(&piece);
    }
    let body = String::from_utf8(body).unwrap();
    Ok((status.as_u16(), body, exchange.into_kept().is_some()))
}

#[tokio::test]
async fn an_answer_is_read_to_its_end_and_its_connection_kept_if_both_allow_it() {
    for (method, bytes, ends, want) in [
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", false, ("ab", true)),
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", false, ("ab", false)),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
            false,
            ("", false),
        ),
        (Method::GET, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, ("", false)),
        (
            Method::GET,
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
            false,
            ("", true),
        ),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nab", true, ("ab", false)),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
            false,
            ("ab", true),
        ),
        (
            Method::GET,
            "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            false,
            ("", true),
        ),
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false, ("", true)),
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx",
            false,
            ("", false),
        ),
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP", false, ("", false)),
    ] {
        let (status, body, kept) = answered(method, bytes.as_bytes(), ends).await.unwrap();
        assert_eq!((status, body.as_str(), kept), (200, want.0, want.1), "{bytes:?}");
    }
    for (status, bytes) in [
        (204, "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (304, "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n"),
    ] {
        let answer = answered(Method::GET, bytes.as_bytes(), false).await.unwrap();
        assert_eq!(answer, (status, String::new(), true));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_is_none_is_an_error() {
    for (bytes, want) in [
        ("", upstream::Error::ConnectFailed),
        ("HTTP/1.1 200 OK\r\nContent-Le", upstream::Error::ConnectFailed),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", upstream::Error::ConnectFailed),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
            upstream::Error::ConnectFailed,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            upstream::Error::InvalidResponse,
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", upstream::Error::InvalidResponse),
    ] {
        let error = answered(Method::GET, bytes.as_bytes(), true).await.unwrap_err();
        assert_eq!(upstream::fault(&error), want, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let (mut exchange, mut theirs) = exchange(Method::GET).await;
    for part in ["HTTP/1.1 200 OK\r\nConte", "nt-Length: 4\r", "\n\r\nab"] {
        assert!(exchange.read_head().now_or_never().is_none());
        theirs.write_all(part.as_bytes()).await.unwrap();
        exchange.transport.readable().await;
    }
    assert_eq!(status_of(&mut exchange).await.unwrap(), 200);
    assert_eq!(piece_of(&mut exchange).await.unwrap().unwrap(), "ab");
    assert!(exchange.read_body().now_or_never().is_none());
    theirs.write_all(b"cd").await.unwrap();
    assert_eq!(piece_of(&mut exchange).await.unwrap().unwrap(), "cd");
    assert!(exchange.into_kept().is_some());
}

#[tokio::test]
async fn a_head_has_a_time_to_come_in() {
    let (mut exchange, mut theirs) = exchange(Method::GET).await;
    theirs.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
    exchange.transport.readable().await;
    assert!(exchange.read_head().now_or_never().is_none());
    exchange.since = Instant::now().checked_sub(HEAD_TIME + Duration::from_secs(1));
    // At once: not for want of another piece.
    let error = exchange.read_head().now_or_never().unwrap().unwrap_err();
    assert_eq!(upstream::fault(&error), upstream::Error::ResponseTimeout);
}

#[tokio::test]
async fn a_request_leaves_when_its_answer_is_waited_for() {
    let (mut exchange, mut theirs) = exchange(Method::POST).await;
    exchange.write_head(b"POST / HTTP/1.1\r\n\r\n", Length::Chunks).await.unwrap();
    exchange.write_body(b"body").await;
    assert!(exchange.read_head().now_or_never().is_none());
    let mut read = [0; 64];
    let count = theirs.read(&mut read).await.unwrap();
    assert_eq!(&read[..count], b"POST / HTTP/1.1\r\n\r\n4\r\nbody\r\n");
    exchange.finish_body();
    exchange.drain().await.unwrap();
    let count = theirs.read(&mut read).await.unwrap();
    assert_eq!(&read[..count], b"0\r\n\r\n");
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_is_heard_all_the_same() {
    let refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let piece = vec![b'x'; 256 * 1024];
    for (answers, closes) in [(true, true), (true, false), (false, false)] {
        let (mut exchange, mut theirs) = exchange(Method::POST).await;
        exchange.waits.write = Duration::from_millis(50);
        exchange.write_head(b"POST / HTTP/1.1\r\n\r\n", Length::Chunks).await.unwrap();
        if answers {
            theirs.write_all(refusal).await.unwrap();
        }
        // A close with bytes unread resets the connection.
        let kept = (!closes).then_some(theirs);
        while exchange.has_room() && !exchange.has_refused() {
            exchange.write_body(&piece).await;
        }
        assert_eq!(exchange.has_refused(), closes);
        match status_of(&mut exchange).await {
            Ok(status) => assert!(answers && status == 413, "{status}"),
            Err(error) => {
                assert!(!answers && *error.etype() == ErrorType::WriteTimedout, "{error}");
            }
        }
        assert!(exchange.into_kept().is_none());
        drop(kept);
    }
}

#[tokio::test]
async fn an_upstream_may_answer_as_it_is_asked() {
    const TOTAL: usize = 32 * 1024 * 1024;
    let (mut exchange, theirs) = exchange(Method::POST).await;
    let echo = tokio::spawn(async move {
        let (mut from, mut to) = theirs.into_split();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
        let mut line = [0; 19];
        from.read_exact(&mut line).await.unwrap();
        to.write_all(head.as_bytes()).await.unwrap();
        tokio::io::copy(&mut from.take(TOTAL as u64), &mut to).await.unwrap()
    });
    let length = Length::Known(TOTAL as u64);
    exchange.write_head(b"POST / HTTP/1.1\r\n\r\n", length).await.unwrap();
    let piece = vec![b'x'; 64 * 1024];
    let (mut sent, mut received) = (0, 0);
    assert_eq!(status_of(&mut exchange).await.unwrap(), 200);
    loop {
        // As much as there is room for: the system takes less of it than there is.
        while sent < TOTAL && exchange.has_room() {
            exchange.write_body(&piece).await;
            sent += piece.len();
            assert!(exchange.transport.unsent().len() <= piece.len() + 2048);
        }
        match exchange.read_body().await.unwrap() {
            Came::Piece(piece) => received += piece.len(),
            Came::Room => {}
            Came::End => break,
        }
    }
    assert_eq!((sent, received), (TOTAL, TOTAL));
    assert_eq!(echo.await.unwrap(), TOTAL as u64);
}

#[tokio::test]
async fn an_answer_without_a_length_is_not_over_when_the_connection_is_reset() {
    let (mut exchange, mut theirs) = exchange(Method::POST).await;
    exchange.write_head(b"POST / HTTP/1.1\r\n\r\n", Length::Chunks).await.unwrap();
    theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of it").await.unwrap();
    assert_eq!(status_of(&mut exchange).await.unwrap(), 200);
    assert_eq!(piece_of(&mut exchange).await.unwrap().unwrap(), "half of it");
    drop(theirs);
    let piece = vec![b'x'; 256 * 1024];
    while !exchange.has_refused() {
        exchange.write_body(&piece).await;
        tokio::task::yield_now().await;
    }
    // Its end is not sent either, which would have met another error.
    exchange.finish_body();
    assert!(exchange.is_drained());
    let error = piece_of(&mut exchange).await.unwrap_err();
    assert_eq!(upstream::fault(&error), upstream::Error::ConnectFailed);
}

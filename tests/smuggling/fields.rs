use super::rig::Want::{Passed, PassedAndClosed, Refused};
use super::rig::{Rig, get, post, row};

#[test]
fn an_expectation_is_100_continue_or_refused() {
    let expect = |value: &str| post(&format!("Expect: {value}\r\nContent-Length: 4\r\n"), "body");
    let mut rows = vec![
        row("sent at once", expect("100-continue"), Passed("body")),
        row("in upper case", expect("100-CONTINUE"), Passed("body")),
        row("without a body", get("Expect: 100-continue\r\n"), Passed("")),
        row(
            "HTTP/1.0 knows none",
            expect("100-continue").replace("HTTP/1.1", "HTTP/1.0"),
            PassedAndClosed("body"),
        ),
    ];
    for value in [
        "",
        "100",
        "100-continu",
        "100-continuex",
        "x100-continue",
        "y 100-continue",
        "100-continue, 100-continue",
        "100-continue, x",
        "100-continue\r\nExpect: 100-continue",
        "100-continue\r\nExpect: x",
        "x\r\nExpect: 100-continue",
        "200-ok",
        "\"100-continue\"",
        "100-continue;q=1",
    ] {
        rows.push((value, expect(value).into_bytes(), Refused(400)));
    }
    Rig::start().play_all(&rows);
}

#[test]
fn connection_takes_away_only_what_belongs_to_the_connection() {
    let rig = Rig::start();
    let names = |names: &str| {
        post(&format!("Connection: {names}\r\nX-Gone: 1\r\nContent-Length: 4\r\n"), "body")
    };
    rig.play_all(&[
        row("names", names("Content-Length, X-Gone"), Passed("body")),
        row("who asks", names("X-Gone, X-Forwarded-For"), Refused(400)),
        row("who asks, otherwise", names("X-Real-IP"), Refused(400)),
        row("whom", names("x-gone,HOST"), Refused(400)),
        row("no name", names("X Gone"), Refused(400)),
        row("too many names", names(&"X-Gone, ".repeat(40)), Refused(400)),
        row(
            "the framing",
            post(
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                "4\r\nbody\r\n0\r\n\r\n",
            ),
            Passed("body"),
        ),
        row("nothing", post("Connection: ,, ,\r\nContent-Length: 4\r\n", "body"), Passed("body")),
        row(
            "close among others",
            post("Connection: x, close\r\nContent-Length: 4\r\n", "body"),
            PassedAndClosed("body"),
        ),
        row(
            "close after others",
            post("Connection: keep-alive\r\nConnection: close\r\nContent-Length: 4\r\n", "body"),
            PassedAndClosed("body"),
        ),
    ]);
    let first = &rig.recorder.messages()[0];
    for name in ["x-forwarded-for", "x-real-ip"] {
        assert_eq!(first.header(name).as_deref(), Some("127.0.0.1"), "{}", first.head());
    }
    assert_eq!(first.header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!((first.header("x-gone"), first.header("connection")), (None, None));
}

#[test]
fn the_body_of_a_method_that_needs_none_is_a_body() {
    let rows: Vec<_> = ["GET", "HEAD", "DELETE", "OPTIONS"]
        .map(|method| {
            let request = post("Content-Length: 4\r\n", "body").replacen("POST", method, 1);
            row(method, request, Passed("body"))
        })
        .into();
    let smuggled = "GET /API/smuggled HTTP/1.1\r\nHost: desk.example\r\nX: ";
    let length = smuggled.len();
    let hidden = get(&format!("Content-Length: {length}\r\n")) + smuggled;
    let rig = Rig::start();
    rig.play_all(&rows);
    rig.play_all(&[("a request in a body", hidden.into_bytes(), Passed(smuggled))]);
    rig.play_all(&[row(
        "HEAD that is refused",
        "HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n",
        Refused(400),
    )]);
}

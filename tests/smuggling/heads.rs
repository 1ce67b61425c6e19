use super::rig::Want::{Passed, PassedAndClosed, Refused};
use super::rig::{Rig, get, row};

#[test]
fn lines_end_with_crlf_and_names_with_a_colon() {
    let whole = get("X-A: 1\r\n");
    let mut rows = vec![
        row("as it should be", &whole, Passed("")),
        row("an empty line first", format!("\r\n{whole}"), Passed("")),
        row("no blank", get("X-A:1\r\n"), Passed("")),
        row("an empty value", get("X-A:\r\nX-B: \r\n"), Passed("")),
        row("bytes beyond ASCII", get("X-A: gr\u{fc}\u{df}e\r\n"), Passed("")),
        row("LF everywhere", whole.replace("\r\n", "\n"), Refused(400)),
        row("LF after the first line", whole.replacen("\r\n", "\n", 1), Refused(400)),
        row("LF after Host", whole.replacen("example\r\n", "example\n", 1), Refused(400)),
        row("LF after the last header", whole.replacen("1\r\n\r\n", "1\n\r\n", 1), Refused(400)),
        row("LF as the empty line", whole.replacen("1\r\n\r\n", "1\r\n\n", 1), Refused(400)),
        row("LF first", format!("\n{whole}"), Refused(400)),
        row("CR after the first line", whole.replacen("\r\n", "\r", 1), Refused(400)),
        row("CR first", format!("\r{whole}"), Refused(400)),
        row("CR as the empty line", whole.replacen("1\r\n\r\n", "1\r\n\r\r\n", 1), Refused(400)),
        row("CR CR LF", whole.replacen("1\r\n", "1\r\r\n", 1), Refused(400)),
    ];
    for line in [
        "X-A: a\rb",
        "X-A: a\r",
        "X-A: a\rTransfer-Encoding: chunked",
        "X-A: a\nTransfer-Encoding: chunked",
        "X-A: a\0b",
        "X-A: a\u{b}b",
        "X-A: a\u{7f}b",
        "X-A: 1\r\n folded",
        "X-A: 1\r\n\tfolded",
        "X-A: 1\r\n ",
        " X-A: 1",
        "\tX-A: 1",
        "X-A : 1",
        "X-A\t: 1",
        "X A: 1",
        "X\0A: 1",
        "X-\u{e9}: 1",
        "X(A): 1",
        "X\"A: 1",
        "X/A: 1",
        "X@A: 1",
        "X{A: 1",
        "X[A]: 1",
        "X\\A: 1",
        ": 1",
        " : 1",
        "X-A",
        "Content-Length",
        "Content-Length : 4",
        "Content-Length\t: 4",
        "Content-Length\0: 4",
        "Content Length: 4",
    ] {
        rows.push((line, get(&format!("{line}\r\n")).into_bytes(), Refused(400)));
    }
    // The first line after the request line is special to some.
    let first = "GET /API/first HTTP/1.1\r\n X-A: 1\r\nHost: desk.example\r\n\r\n";
    rows.push(row("a folded request line", first, Refused(400)));
    Rig::start().play_all(&rows);
}

/// Request lines that are none.
const LINES: &[&str] = &[
    "GET /API/first HTTP/0.9",
    "GET /API/first HTTP/1.2",
    "GET /API/first HTTP/1.9",
    "GET /API/first HTTP/1.10",
    "GET /API/first HTTP/1.",
    "GET /API/first HTTP/1",
    "GET /API/first HTTP/01.1",
    "GET /API/first HTTP/2",
    "GET /API/first HTTP/2.0",
    "GET /API/first HTTP/3.0",
    "GET /API/first HTTP/-1.1",
    "GET /API/first http/1.1",
    "GET /API/first HTTPS/1.1",
    "GET /API/first HTTP /1.1",
    "GET /API/first HTTP/1.1 ",
    "GET /API/first HTTP/1.1 x",
    "GET /API/first HTTP/1.1\0",
    "GET /API/first  HTTP/1.1",
    "GET  /API/first HTTP/1.1",
    "GET\t/API/first\tHTTP/1.1",
    "GET\t/API/first HTTP/1.1",
    "GET\u{b}/API/first HTTP/1.1",
    " GET /API/first HTTP/1.1",
    "\tGET /API/first HTTP/1.1",
    "GET: /API/first HTTP/1.1",
    "GE T /API/first HTTP/1.1",
    "G\0ET /API/first HTTP/1.1",
    "(GET /API/first HTTP/1.1",
    "\"GET\" /API/first HTTP/1.1",
    "/API/first HTTP/1.1",
    "GET HTTP/1.1",
    "GET",
    "GET /API/first\0 HTTP/1.1",
    "GET /API/first\u{7f} HTTP/1.1",
    "GET /API/first\u{1} HTTP/1.1",
    "GET /API/a b HTTP/1.1",
    "GET /API/first HTTP/1.1 HTTP/1.1",
    "PRI * HTTP/2.0",
    "PROXY TCP4 1.2.3.4 5.6.7.8 1 2",
];

#[test]
fn a_request_line_has_a_method_a_target_and_a_version() {
    let line = |line: &str| format!("{line}\r\nHost: desk.example\r\n\r\n");
    let mut rows = vec![
        row("as it should be", line("GET /API/first HTTP/1.1"), Passed("")),
        row("a method that nobody knows", line("GRAB /API/first HTTP/1.1"), Passed("")),
        row("HTTP/1.0", line("GET /API/first HTTP/1.0"), PassedAndClosed("")),
        row(
            "HTTP/1.0 kept alive",
            line("GET /API/first HTTP/1.0\r\nConnection: keep-alive"),
            Passed(""),
        ),
        row("HTTP/1.0 without Host", "GET /API/first HTTP/1.0\r\n\r\n", PassedAndClosed("")),
        row(
            "closed on request",
            line("GET /API/first HTTP/1.1\r\nConnection: close"),
            PassedAndClosed(""),
        ),
        row("HTTP/0.9", "GET /API/first\r\n", Refused(400)),
        row("HTTP/0.9 with lines", line("GET /API/first"), Refused(400)),
        row("CONNECT", line("CONNECT desk.example:443 HTTP/1.1"), Refused(405)),
        row("CONNECT of a path", line("CONNECT /API/first HTTP/1.1"), Refused(405)),
    ];
    for text in LINES {
        rows.push((text, line(text).into_bytes(), Refused(400)));
    }
    Rig::start().play_all(&rows);
}

#[test]
fn a_target_is_a_path_or_names_the_host_it_was_sent_to() {
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: desk.example\r\n\r\n");
    let mut rows = vec![
        row("absolute", target("http://desk.example/API/first"), Passed("")),
        row("absolute, in upper case", target("HTTP://desk.example/API/first"), Passed("")),
        row(
            "absolute, without Host",
            "GET http://desk.example/API/first HTTP/1.0\r\n\r\n",
            PassedAndClosed(""),
        ),
    ];
    for text in [
        "http://other.example/API/first",
        "http://desk.example:80/API/first",
        "http://desk.example.other/API/first",
        "http://user@desk.example/API/first",
        "http://desk.example@other.example/API/first",
        "http://other.example\\@desk.example/API/first",
        "http://desk.example\\API/first",
        "http:///API/first",
        "http:/API/first",
        "http:API/first",
        "http://",
        "ftp://desk.example/API/first",
        "file:///API/first",
        "javascript:x",
        "desk.example:80",
        "desk.example",
        "API/first",
        "?x",
        "*",
        "",
    ] {
        rows.push((text, target(text).into_bytes(), Refused(400)));
    }
    let any = "OPTIONS * HTTP/1.1\r\nHost: desk.example\r\n\r\n";
    rows.push(row("asterisk", any, Refused(400)));
    Rig::start().play_all(&rows);
}

#[test]
fn a_request_has_one_host() {
    let hosts = |lines: &str| format!("GET /API/first HTTP/1.1\r\n{lines}\r\n");
    let mut rows = vec![
        row("one", hosts("Host: desk.example\r\n"), Passed("")),
        row("a port", hosts("Host: desk.example:30443\r\n"), Passed("")),
        row("an address", hosts("Host: [::1]:80\r\n"), Passed("")),
    ];
    for lines in [
        "",
        "Host:\r\n",
        "Host: desk.example\r\nHost: desk.example\r\n",
        "Host: desk.example\r\nHost: other.example\r\n",
        "Host: desk.example\r\nhost: other.example\r\n",
        "Host: desk.example\r\nHOST:\r\n",
        "Host: desk.example, other.example\r\n",
        "Host: desk.example other.example\r\n",
        "Host: desk.example/API\r\n",
        "Host: user@desk.example\r\n",
        "Host: http://desk.example\r\n",
        "Host: desk.example:80:80\r\n",
        "Host: desk.example:x\r\n",
        "Host: desk.example#\r\n",
        "Host: desk.example?x\r\n",
        "Host: desk\\example\r\n",
        "Host: [::1\r\n",
        "Host: gr\u{fc}n.example\r\n",
        "Host: desk.example\r\n other.example\r\n",
        "Host : desk.example\r\n",
        "Connection: Host\r\nHost: desk.example\r\n",
        "Connection: keep-alive, host\r\nHost: desk.example\r\n",
    ] {
        rows.push((lines, hosts(lines).into_bytes(), Refused(400)));
    }
    Rig::start().play_all(&rows);
}

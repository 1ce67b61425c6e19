use super::rig::Want::{Cut, Passed, Refused};
use super::rig::{Rig, chunked, post, row};

#[test]
fn a_request_of_two_lengths_is_refused() {
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), "body");
    let both = |first: &str, second: &str| post(&format!("{first}\r\n{second}\r\n"), "0\r\n\r\n");
    let mut rows = vec![
        row("CL.TE", both("Content-Length: 5", "Transfer-Encoding: chunked"), Refused(400)),
        row("TE.CL", both("Transfer-Encoding: chunked", "Content-Length: 5"), Refused(400)),
        row("CL 0 and TE", both("Content-Length: 0", "Transfer-Encoding: chunked"), Refused(400)),
        row("CL and unknown TE", both("Content-Length: 5", "Transfer-Encoding: x"), Refused(400)),
        row("two CL", both("Content-Length: 5", "Content-Length: 0"), Refused(400)),
        row("two equal CL", both("Content-Length: 5", "Content-Length: 5"), Refused(400)),
        row("two CL in two cases", both("Content-Length: 5", "content-length: 5"), Refused(400)),
        row("CL", length("4"), Passed("body")),
        row("CL with blanks", length(" 4 \t "), Passed("body")),
        row("CL with zeros", length("0004"), Passed("body")),
        row(
            "a name with an underscore",
            post("Content-Length: 4\r\nTransfer_Encoding: chunked\r\n", "body"),
            Passed("body"),
        ),
        row("no length", "POST /API/first HTTP/1.1\r\nHost: desk.example\r\n\r\n", Passed("")),
    ];
    for value in [
        "4, 4",
        "4, 5",
        "4,",
        ",4",
        "",
        " ",
        "+4",
        "-4",
        "-0",
        "0x4",
        "4h",
        "4 4",
        "4;",
        "4.0",
        "4e0",
        "\"4\"",
        "\u{664}",
        "1_0",
        "18446744073709551616",
        "18446744073709551620",
        "99999999999999999999999999999999",
    ] {
        rows.push((value, length(value).into_bytes(), Refused(400)));
    }
    Rig::start().play_all(&rows);
}

#[test]
fn a_transfer_encoding_is_chunked_or_refused() {
    let chunks = "4\r\nbody\r\n0\r\n\r\n";
    let coded = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), chunks);
    let mut rows = vec![
        row("chunked", coded(" chunked"), Passed("body")),
        row("no blank", coded("chunked"), Passed("body")),
        row("blanks", coded(" \t chunked \t "), Passed("body")),
        row("upper case", coded(" CHUNKED"), Passed("body")),
        row("mixed case", coded(" ChUnKeD"), Passed("body")),
        row("a name in upper case", post("TRANSFER-ENCODING: chunked\r\n", chunks), Passed("body")),
        row("HTTP/1.0", coded(" chunked").replace("HTTP/1.1", "HTTP/1.0"), Refused(400)),
    ];
    for value in [
        "",
        " ",
        " ,chunked",
        " chunked,",
        " , chunked",
        " chunked, chunked",
        " chunked\r\nTransfer-Encoding: chunked",
        " chunked\r\nTransfer-Encoding: identity",
        " identity\r\nTransfer-Encoding: chunked",
        " chunked\r\ntransfer-encoding:",
        " identity",
        " gzip, chunked",
        " chunked, gzip",
        " chunked;q=1",
        " chunked ;",
        " \"chunked\"",
        " 'chunked'",
        " xchunked",
        " chunkedx",
        " chunke",
        " chunk ed",
        " \u{b}chunked",
        " \u{c}chunked",
        " chunked\u{b}",
        " chunked\0",
        " \u{a0}chunked",
        " chun\u{212a}ed",
        "\r\n chunked",
        "\r\n\tchunked",
        " x\r\n chunked",
    ] {
        rows.push((value, coded(value).into_bytes(), Refused(400)));
    }
    for name in [
        "Transfer-Encoding ",
        "Transfer-Encoding\t",
        " Transfer-Encoding",
        "Transfer\u{b}-Encoding",
    ] {
        rows.push((name, post(&format!("{name}: chunked\r\n"), chunks).into_bytes(), Refused(400)));
    }
    Rig::start().play_all(&rows);
}

/// What stands where a size should be, before `body`.
const SIZES: &[&str] = &[
    "",
    ";",
    ";a",
    " 4",
    "\t4",
    "4 ",
    "4\t",
    "+4",
    "-4",
    "0x4",
    "x4",
    "4h",
    "4_",
    "4,",
    "4.0",
    "4\n",
    "\n4",
    "4\r",
    "\r4",
    "4\0",
    "4;\n",
    "4;a\nb",
    "4;a\rb",
    "4;a\0b",
    "g",
    "\u{664}",
    "4;",
    "4;=",
    "00000000000000004",
    "10000000000000004",
    "ffffffffffffffff",
    "8000000000000000",
];

/// Bodies that are none.
const BODIES: &[&str] = &[
    "\r\n\r\n",
    "3\r\nbody\r\n0\r\n\r\n",
    "4\r\nbody0\r\n\r\n",
    "4\r\nbody\n0\r\n\r\n",
    "4\r\nbody\r0\r\n\r\n",
    "4\r\nbody\n\r0\r\n\r\n",
    "4\nbody\r\n0\r\n\r\n",
    "4\r\nbody\r\n0\n\r\n",
    "4\r\nbody\r\n0\r\n\n",
    "4\r\nbody\r\n0\n\n",
    "4\r\nbody\r\n\r\n\r\n",
    "4\r\nbody\r\n0\r\nX-A: 1\n\r\n",
    "4\r\nbody\r\n0\r\nX-A: 1\r\n\n",
    "4\r\nbody\r\n0\r\nX-A\r\n\r\n",
    "4\r\nbody\r\n0\r\nX A: 1\r\n\r\n",
    "4\r\nbody\r\n0\r\n: 1\r\n\r\n",
    "4\r\nbody\r\n0\r\n X-A: 1\r\n\r\n",
    "4\r\nbody\r\n0\r\nX-A: 1\r\n folded\r\n\r\n",
    "4\r\nbody\r\n0\r\nX-A: \0\r\n\r\n",
    "4\r\nbody\r\n0\r\nGET /API/smuggled HTTP/1.1\r\nHost: desk.example\r\n\r\n",
];

#[test]
fn a_chunk_is_framed_by_the_letter() {
    let long = format!("4;{}\r\nbody\r\n0\r\n\r\n", "x".repeat(20_000));
    let mut rows = vec![
        row("one", chunked("4\r\nbody\r\n0\r\n\r\n"), Passed("body")),
        row("two", chunked("2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"), Passed("body")),
        row("none", chunked("0\r\n\r\n"), Passed("")),
        row("zeros", chunked("0004\r\nbody\r\n000\r\n\r\n"), Passed("body")),
        row(
            "both cases",
            chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
            Passed("01234567890123456789"),
        ),
        row("an extension", chunked("4;a=b\r\nbody\r\n0;c\r\n\r\n"), Passed("body")),
        row("a quoted one", chunked("4;a=\"b c\"\r\nbody\r\n0\r\n\r\n"), Passed("body")),
        row("a trailer", chunked("4\r\nbody\r\n0\r\nX-A: 1\r\n\r\n"), Passed("body")),
        row(
            "a trailer that frames",
            chunked("4\r\nbody\r\n0\r\nContent-Length: 9\r\nHost: x\r\n\r\n"),
            Passed("body"),
        ),
        row("a huge extension", chunked(&long), Cut),
        row("endless trailers", chunked(&format!("0\r\n{}\r\n", "X-A: 1\r\n".repeat(20_000))), Cut),
    ];
    for size in SIZES {
        rows.push((size, chunked(&format!("{size}\r\nbody\r\n0\r\n\r\n")).into_bytes(), Cut));
    }
    for body in BODIES {
        rows.push((body, chunked(body).into_bytes(), Cut));
    }
    Rig::start().play_all(&rows);
}

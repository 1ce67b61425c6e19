use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Watched, answer_or_echo, refusal};
use crate::e2e::rig::{Script, browse};
use crate::support::{Exchange, Origin, PODS, Site, raw, tokens};

/// An upgrade to a screen with these header lines: status and error word.
fn upgrade(site: &Site, headers: &str) -> (u16, String) {
    let head = Site::upgrade(&Site::screen());
    let head = format!("{}{headers}\r\n", head.strip_suffix("\r\n").unwrap());
    let answer = raw(site.address(), head).unwrap();
    let error = if answer.status == 101 { String::new() } else { refusal(&answer).1 };
    (answer.status, error)
}

#[test]
fn an_upgrade_of_another_site_s_page_is_refused() {
    let site = Site::configured_serving(
        "[origins]\nallow = [\"https://portal.example:8443\"]\n",
        answer_or_echo,
    );
    let refused = (403, "cross_origin".to_owned());
    for origin in [
        "https://evil.example",
        "https://desk.example.evil.example",
        "http://desk.example:8080",
        "https://portal.example",
        "null",
        "",
    ] {
        assert_eq!(upgrade(&site, &format!("Origin: {origin}\r\n")), refused, "{origin}");
    }
    let both = "Origin: https://desk.example\r\nOrigin: https://evil.example\r\n";
    assert_ne!(upgrade(&site, both).0, 101);
    let cross = "Origin: https://desk.example\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(upgrade(&site, cross), refused);
    assert_eq!(site.pods[0].accepted(), 0, "the pod was never asked");
    for headers in [
        "",
        "Origin: https://desk.example\r\n",
        "Origin: http://DESK.example\r\n",
        "Origin: https://portal.example:8443\r\nSec-Fetch-Site: cross-site\r\n",
        "Origin: https://front.example\r\nX-Forwarded-Host: front.example\r\n",
    ] {
        assert_eq!(upgrade(&site, headers).0, 101, "{headers}");
    }
    let line = site.gateway.wait_for_line("cross_origin");
    assert!(line.contains("403") && line.contains("websockify"), "{line}");
}

#[test]
fn what_has_no_origin_is_no_page_and_may_be_refused() {
    let site = Site::configured_serving("[origins]\nabsent = false\n", answer_or_echo);
    assert_eq!(upgrade(&site, ""), (403, "no_origin".to_owned()));
    assert_eq!(upgrade(&site, "Origin: https://desk.example\r\n").0, 101);
    let site = Site::configured_serving("[origins]\ncheck = false\n", answer_or_echo);
    assert_eq!(upgrade(&site, "Origin: https://evil.example\r\n").0, 101);
}

#[test]
fn a_page_is_told_that_it_is_foreign_where_pages_are_told() {
    let toml = "[[route]]\nname = \"websockify\"\ntunnel = { refusal = \"close\" }\n";
    let watched = Watched::start(toml);
    let foreign = [("origin", "https://evil.example")];
    let (mut socket, _) = watched.site.websocket_with(&Site::screen(), &foreign);
    let closed = socket.read().unwrap();
    let Message::Close(Some(frame)) = closed else { panic!("{closed:?}") };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (4403, r#"{"reason":"cross_origin"}"#)
    );
    let failed = "deskgate_requests_failed_total{reason=\"cross_origin\"}";
    watched.until(failed, 1.0);
}

/// Opens a WebSocket from a page and says how that went.
const HIJACK: &str = "new Promise((resolve) => {
    const socket = new WebSocket(window.target);
    socket.onopen = () => socket.send('mine');
    socket.onmessage = (event) => resolve(`got ${event.data}`);
    socket.onclose = () => resolve('closed');
})";

#[test]
fn a_page_of_another_site_cannot_use_a_token_in_a_real_browser() {
    let site = Site::serving(|exchange| match exchange.header("upgrade") {
        Some(_) => crate::support::echo(exchange),
        None => exchange.answer("200 OK", "Content-Type: text/html\r\n", "<title>page</title>"),
    });
    let evil = Origin::start(|exchange| {
        exchange.answer("200 OK", "Content-Type: text/html\r\n", "<title>evil</title>");
    });
    let gateway = site.address();
    let target = format!("ws://{gateway}{}", Site::screen());
    let from = |page: String| {
        let script = Script::on(page)
            .value("target", &format!("window.target = {}", json!(target)))
            .value("outcome", HIJACK);
        browse(&script).assert_done().text("outcome").to_owned()
    };
    // The page of the gateway itself, so that it is the origin that is refused.
    assert_eq!(from(format!("http://{gateway}/")), "got mine");
    // Another port of the same host, and another host.
    assert_eq!(from(format!("http://{}/", evil.address())), "closed");
    assert_eq!(from(format!("http://localhost:{}/", evil.address().port())), "closed");
    assert_eq!(site.pods[0].accepted(), 1);
}

/// Opens a page in a frame and waits until something is there.
const VISIT: &str = "new Promise((resolve) => {
    const frame = document.createElement('iframe');
    frame.onload = () => resolve('loaded');
    frame.src = window.target;
    document.body.append(frame);
})";

#[test]
fn a_page_of_another_site_leads_to_no_desktop_in_a_real_browser() {
    let page = |exchange: &mut Exchange| {
        exchange.answer("200 OK", "Content-Type: text/html\r\n", "<title>page</title>");
    };
    let (site, evil) = (Site::serving(page), Origin::start(page));
    let gateway = site.address();
    let container = format!("/container/{}/{}/", tokens::valid(PODS[0]), site.port);
    let from = |page: String| {
        let script = Script::on(page)
            .value("target", &format!("window.target = 'http://{gateway}{container}'"))
            .value("outcome", VISIT);
        assert_eq!(browse(&script).assert_done().text("outcome"), "loaded");
        site.pods[0].accepted()
    };
    assert_eq!(from(format!("http://{}/", evil.address())), 0);
    assert_eq!(from(format!("http://localhost:{}/", evil.address().port())), 0);
    assert_eq!(from(format!("http://{gateway}/")), 1);
}

#[test]
fn a_foreign_link_is_told_so_before_anything_else() {
    let site = Site::configured(
        "[limits]\nexempt = []\nrequests_per_address = { per_minute = 1, burst = 1 }\n\
         [origins]\nallow = [\"https://portal.example\"]\n",
    );
    let visit = |token: &str, from: &str| {
        let target = format!("/container/{token}/{}/", site.port);
        site.get(&target, &format!("Sec-Fetch-Mode: navigate\r\n{from}"))
    };
    let foreign = "Sec-Fetch-Site: cross-site\r\n";
    let good = tokens::valid(PODS[0]);
    let own = visit(&good, "Sec-Fetch-Site: same-origin\r\n");
    assert_eq!(own.status, 200);
    // A page of ours would lead the browser on, as one of this origin.
    assert_eq!(visit(&good, "Sec-Fetch-Site: none\r\n").status, 429);
    for token in [good.as_str(), "no.good.token"] {
        for method in ["GET", "POST"] {
            let target = format!("/container/{token}/{}/", site.port);
            let answer = raw(
                site.address(),
                format!(
                    "{method} {target} HTTP/1.1\r\nHost: desk.example\r\nContent-Length: 0\r\n\
                     Sec-Fetch-Mode: navigate\r\n{foreign}\r\n"
                ),
            );
            let answer = answer.unwrap();
            assert_eq!(answer.status, 403, "{method}");
            assert!(answer.text().contains("foreign_link"), "{}", answer.text());
        }
    }
    let line = site.gateway.logged("/container/");
    assert_eq!(line["route"], json!("container"));
    let listed = visit(&good, &format!("{foreign}Referer: https://portal.example/a\r\n"));
    assert_eq!(listed.status, 429, "judged like any other");
    assert_eq!(site.pods[0].accepted(), 1);
}

#[test]
fn a_page_without_an_origin_works_in_a_real_browser() {
    let policy = "sandbox allow-scripts allow-forms";
    let site = Site::configured_serving(
        &format!(
            "[headers.boxed]\nresponse = {{ Content-Security-Policy = \"{policy}\" }}\n\
             [[route]]\nname = \"container\"\nheaders = \"boxed\"\n"
        ),
        |exchange| {
            exchange.answer("200 OK", "Content-Type: text/html\r\n", "<title>page</title>");
        },
    );
    let container = format!("/container/{}/{}/", tokens::valid(PODS[0]), site.port);
    let script = Script::on(format!("http://{}{container}", site.address()))
        .value("origin", "window.origin")
        .value("target", "window.target = 'next'")
        .value("outcome", VISIT);
    let outcome = browse(&script).assert_done();
    assert_eq!((outcome.text("origin"), outcome.text("outcome")), ("null", "loaded"));
    // To a browser a page without an origin is a stranger to its own pages.
    let head = site.pods[0].last().head;
    assert!(head.starts_with("GET /next ") && head.contains("cross-site"), "{head}");
}

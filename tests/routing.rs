use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Gateway, Origin, PODS, Site, eventually, free_port, raw, tokens};

fn upstream<'s>(site: &'s Site, name: &str) -> &'s Origin {
    match name {
        "pod a" => &site.pods[0],
        "pod b" => &site.pods[1],
        "pyos" => &site.pyos,
        "website" => &site.website,
        "speedtest" => &site.speedtest,
        _ => panic!("{name}"),
    }
}

fn check(site: &Site, method: &str, target: &str, name: &str, want: &str) {
    let answer = site.ask(method, target, &Site::bearer());
    assert_eq!((answer.status, answer.text().as_str()), (200, name), "{target}");
    assert_eq!(upstream(site, name).last().line(), format!("{method} {want}"), "{target}");
}

#[test]
fn each_path_reaches_its_upstream_as_it_was_judged() {
    let site = Site::start();
    for (target, name, want) in [
        ("/API", "pyos", "/API"),
        ("/API/core/getkeyinfo?a=%2F&b", "pyos", "/API/core/getkeyinfo?a=%2F&b"),
        ("//API/x", "pyos", "/API/x"),
        ("/foo/../API/x", "pyos", "/API/x"),
        ("/foo/%2e%2e/API/x", "pyos", "/API/x"),
        ("/%41PI/./x", "pyos", "/API/x"),
        ("http://desk.example/API/x?y", "pyos", "/API/x?y"),
        ("/status", "pyos", "/status"),
        ("/oauth/x", "pyos", "/oauth/x"),
        ("/autologin?user=x", "pyos", "/autologin?user=x"),
        ("/APIfoo", "website", "/APIfoo"),
        ("/api/x", "website", "/api/x"),
        ("/API%2Fx", "website", "/API%2Fx"),
        ("/", "website", "/"),
        ("/index.html?v=1", "website", "/index.html?v=1"),
        ("/filerfoo", "website", "/filerfoo"),
        ("/Websockify", "website", "/Websockify"),
        ("/speedtest/x", "speedtest", "/x"),
        ("/speedtest/garbage.php?ckSize=4", "speedtest", "/garbage.php?ckSize=4"),
        ("/speedtest", "speedtest", "/"),
        ("/speedtestfoo", "website", "/speedtestfoo"),
        ("/filer/home/a?list", "pod a", "/filer/home/a?list"),
        ("/filer", "pod a", "/filer"),
        ("/spawner/launch", "pod a", "/spawner/launch"),
        ("/printerfiler/x", "pod a", "/printerfiler/x"),
        ("/terminals?cols=80&rows=24", "pod a", "/terminals?cols=80&rows=24"),
        ("/terminals/12/size?cols=80", "pod a", "/terminals/12/size?cols=80"),
    ] {
        check(&site, "GET", target, name, want);
    }
}

#[test]
fn the_method_is_kept() {
    let site = Site::start();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        check(&site, method, "/API/x", "pyos", "/API/x");
    }
}

#[test]
fn a_user_s_service_is_reached_below_its_port_and_never_sees_the_token() {
    let site = Site::start();
    let token = tokens::valid(PODS[1]);
    let port = site.port;
    for (tail, want) in [
        ("/rest?q", "/rest?q"),
        ("/rest/of/it?q=1&r=2", "/rest/of/it?q=1&r=2"),
        ("/", "/"),
        ("", "/"),
        ("?q=1", "/?q=1"),
        ("/a%20b/%2e%2e/c?q=1", "/c?q=1"),
        ("//a//b", "/a/b"),
    ] {
        let answer = site.get(&format!("/container/{token}/{port}{tail}"), "");
        assert_eq!((answer.status, answer.text().as_str()), (200, "pod b"), "{tail}");
        let seen = site.pods[1].last();
        assert_eq!(seen.line(), format!("GET {want}"), "{tail}");
        assert!(!seen.head.contains("eyJ"), "{}", seen.head);
    }
}

#[test]
fn ports_that_no_user_s_service_may_have_are_refused() {
    let site = Site::start();
    let token = tokens::valid(PODS[0]);
    for port in ["22", "6081", "29786", "0", "65536", "99999999999999999999"] {
        let answer = site.get(&format!("/container/{token}/{port}/x"), "");
        assert_eq!((answer.status, answer.error().as_str()), (403, "port_refused"), "{port}");
    }
    assert_eq!(site.pods[0].accepted(), 0);
}

#[test]
fn a_path_that_could_be_read_in_two_ways_is_refused() {
    let site = Site::start();
    for target in [
        "/..",
        "/../API",
        "/a/../../API",
        "/%2e%2e/etc/passwd",
        "/a/..%2fb",
        "/a%2F../b",
        "/a%5cb",
        "/a\\b",
        "/a%00b",
        "/a%0d%0aX-Real-IP:%201.2.3.4",
        "/a%zz",
        "/a%2",
    ] {
        let answer = site.get(target, &Site::bearer());
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        assert_eq!(answer.error(), "invalid_path", "{target}");
    }
    for origin in [&site.pods[0], &site.pyos, &site.website] {
        assert_eq!(origin.accepted(), 0);
    }
}

#[test]
fn healthz_answers_any_method_without_an_upstream() {
    let gateway = Gateway::start("");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = raw(gateway.address(), request).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "OK\n"), "{method}");
        assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    }
    let answer = raw(gateway.address(), "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("3")));
}

#[test]
fn node_answers_the_name_of_the_environment() {
    let gateway = Gateway::start_with("", &[("NODE_NAME", "worker-7")]);
    let answer = raw(gateway.address(), "GET /node HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "worker-7\n"));
}

#[test]
fn a_service_that_is_missing_at_start_takes_down_only_its_own_routes() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let site = Site::configured(&format!(
        "[dns.hosts]\nwebsite = [\"127.0.0.1\"]\n\
         [upstreams.website]\nhost = \"website\"\nport = {}\n",
        address.port()
    ));
    let answer = site.get("/", "");
    assert_eq!((answer.status, answer.error().as_str()), (502, "connect_failed"));
    assert_eq!(site.get("/API/x", "").text(), "pyos");
    assert_eq!(site.get("/filer", &Site::bearer()).text(), "pod a");

    let _late = Origin::on(TcpListener::bind(address).unwrap(), |exchange| {
        exchange.answer("200 OK", "", "here now");
    });
    assert_eq!(site.get("/", "").text(), "here now");
}

/// A name server with one answer for every name: none, or 127.0.0.1.
pub(crate) fn name_server(exists: &Arc<AtomicBool>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let exists = Arc::clone(exists);
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        // Ends with the test's process, or a minute after its last question.
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            let question = &packet[12..length];
            let end = question.iter().position(|byte| *byte == 0).unwrap() + 5;
            let asks_a = question[end - 4..end - 2] == [0, 1];
            let found = exists.load(Ordering::SeqCst);
            let (code, count) = (if found { 0 } else { 3 }, u8::from(found && asks_a));
            let mut answer = vec![packet[0], packet[1], 0x85, 0x80 | code];
            answer.extend([0, 1, 0, count, 0, 0, 0, 0]);
            answer.extend(&question[..end]);
            if count == 1 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
            }
            drop(socket.send_to(&answer, client));
        }
    });
    address
}

#[test]
fn a_name_that_appears_later_works_from_then_on() {
    let exists = Arc::new(AtomicBool::new(false));
    let origin = Origin::start(|exchange| exchange.answer("200 OK", "", "found"));
    let site = Site::configured(&format!(
        "[dns]\nservers = [\"{}\"]\nsearch = [\"cluster.example\"]\nnegative_ttl = \"50ms\"\n\
         timeout = \"10s\"\n\
         [upstreams.website]\nhost = \"late\"\nport = {}\n",
        name_server(&exists),
        origin.address().port()
    ));
    let answer = site.get("/", "");
    assert_eq!((answer.status, answer.error().as_str()), (502, "no_such_name"));
    assert_eq!(site.get("/API", "").status, 200);
    exists.store(true, Ordering::SeqCst);
    eventually("the new name works", || (site.get("/", "").text() == "found").then_some(()));
}

#[test]
fn a_name_server_that_is_silent_costs_a_504_and_nothing_else() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let site = Site::configured(&format!(
        "[dns]\nservers = [\"{}\"]\ntimeout = \"100ms\"\nattempts = 1\n\
         [upstreams.website]\nhost = \"nobody.example\"\nport = 80\n",
        silent.local_addr().unwrap()
    ));
    let answer = site.get("/", "");
    assert_eq!((answer.status, answer.error().as_str()), (504, "name_timeout"));
    assert_eq!(site.get("/API", "").status, 200);
}

#[test]
fn the_next_address_is_tried_when_one_refuses() {
    let site = Site::configured(
        "[dns.hosts]\n\"pod.desktop.abcdesktop.svc.cluster.local\" = [\"127.0.0.9\", \"127.0.0.2\"]",
    );
    let token = tokens::valid("pod.desktop.abcdesktop.svc.cluster.local");
    let header = format!("ABCAuthorization: Bearer {token}\r\n");
    assert_eq!(site.get("/filer", &header).text(), "pod a");
    // Nothing was sent to the first, so a request that must not be repeated may go on.
    let post = format!("POST /filer HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 5\r\n\r\nhello");
    assert_eq!(raw(site.address(), post).unwrap().text(), "pod a");
    assert_eq!(site.pods[0].last().body, b"hello");
}

#[test]
fn a_tunnel_takes_the_next_address_too() {
    let site = Site::configured_serving(
        "[dns.hosts]\n\"pod.desktop.abcdesktop.svc.cluster.local\" = [\"127.0.0.9\", \"127.0.0.2\"]",
        crate::support::echo,
    );
    let token = tokens::valid("pod.desktop.abcdesktop.svc.cluster.local");
    let mut socket = site.websocket(&format!("/websockify?{token}"));
    socket.send("hello".into()).unwrap();
    assert_eq!(socket.read().unwrap(), "hello".into());
}

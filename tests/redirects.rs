use crate::support::{Response, Site, free_port, raw};
use crate::tls::{Issued, ask, curl};

fn get(site: &Site, host: &str, target: &str, headers: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    raw(site.address(), request).unwrap()
}

#[test]
fn a_plain_request_is_sent_to_the_public_https_address() {
    let site = Site::configured("[listen]\nredirect = true\nhttps_port = 30444\n");
    for (method, target) in [("GET", "/a/b?c=d&e"), ("POST", "/API/x"), ("GET", "/filer?t")] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: desk.example:30443\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = raw(site.address(), request).unwrap();
        assert_eq!(answer.status, 308, "{answer:?}");
        let address = format!("https://desk.example:30444{target}");
        assert_eq!(answer.header("location"), Some(address));
        assert!(answer.header("x-request-id").is_some());
        // Over plain HTTP it would be void, and anybody could have written it.
        assert_eq!(answer.header("strict-transport-security"), None);
    }
    let socket = raw(site.address(), Site::upgrade("/websockify?x")).unwrap();
    assert_eq!(socket.status, 308);
    assert!(site.pyos.seen().is_empty() && site.website.seen().is_empty());
    assert_eq!(site.gateway.logged("/API/x")["route"], "pyos");
    assert_eq!(get(&site, "not/a/host", "/a", "").status, 400);
}

#[test]
fn probes_and_proofs_for_certificates_are_served_in_plain() {
    let site = Site::configured("[listen]\nredirect = true\n");
    assert_eq!(get(&site, "desk.example", "/healthz", "").text(), "OK\n");
    let proof = get(&site, "desk.example", "/.well-known/acme-challenge/none", "");
    assert_eq!(proof.status, 404);
    assert_eq!(get(&site, "desk.example", "/healthz/more", "").status, 308);
}

#[test]
fn behind_a_proxy_that_ends_tls_nothing_goes_round_in_circles() {
    let text = "[listen]\nredirect = true\nhsts = \"730d\"\n";
    let trusting = Site::configured(&format!("{text}trusted_proxies = [\"127.0.0.1/32\"]\n"));
    let through = |headers: &str| get(&trusting, "desk.example", "/API/x", headers);
    let secure = through("X-Forwarded-Proto: https\r\n");
    assert_eq!(secure.status, 200);
    assert_eq!(
        secure.header("strict-transport-security").as_deref(),
        Some("max-age=63072000"),
        "{secure:?}"
    );
    // It says nothing: it may have had TLS, or not.
    let silent = through("");
    assert_eq!((silent.status, silent.header("strict-transport-security")), (200, None));
    let plain = through("X-Forwarded-Proto: http\r\nX-Forwarded-Host: public.example\r\n");
    assert_eq!(plain.header("location").as_deref(), Some("https://public.example/API/x"));
    // One that nobody told us to trust is not believed, and not sent round in circles either.
    let wary = Site::configured(text);
    let stranger = get(&wary, "desk.example", "/API/x", "X-Forwarded-Proto: https\r\n");
    assert_eq!((stranger.status, stranger.header("strict-transport-security")), (200, None));
    assert_eq!(wary.pyos.last().header("x-forwarded-proto").as_deref(), Some("http"));
}

#[test]
fn every_answer_over_tls_asks_to_stay_there() {
    let issued = Issued::new();
    let port = free_port();
    let text = "[listen]\nredirect = true\nhsts = \"730d\"\n";
    let site = issued.site_with(port, text, "");
    for target in ["/API/x", "/healthz", "/filer", "/a%00"] {
        let answer = ask(&mut issued.connect(port), target);
        let head = answer.to_lowercase();
        assert!(head.contains("strict-transport-security: max-age=63072000\r\n"), "{answer}");
    }
    let url = format!("https://desk.example:{port}/API/x");
    let answer = curl(port, &issued.path("ca.pem"), &["--http2", "--include", &url]);
    assert!(answer.contains("strict-transport-security: max-age=63072000\r\n"), "{answer}");
    // The port of a listener leads to the other one's.
    let address = site.address();
    let answer = get(&site, &address.to_string(), "/API/x", "");
    assert_eq!(answer.header("location"), Some(format!("https://127.0.0.1:{port}/API/x")));
}

#[test]
fn plain_http_on_an_https_port_is_sent_to_the_same_port() {
    let issued = Issued::new();
    let port = free_port();
    let site = issued.site_with(port, "[listen]\nredirect = true\n", "");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for target in ["/a?b", "/healthz"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: desk.example:30443\r\n\r\n");
        let answer = raw(address, request).unwrap();
        let want = format!("https://desk.example:30443{target}");
        assert_eq!((answer.status, answer.header("location")), (308, Some(want)), "{answer:?}");
    }
    assert_eq!(raw(address, "GET / HTTP/1.1\r\n\r\n").unwrap().status, 400);
    assert!(site.pyos.seen().is_empty());
    assert!(ask(&mut issued.connect(port), "/healthz").starts_with("HTTP/1.1 200"));
}

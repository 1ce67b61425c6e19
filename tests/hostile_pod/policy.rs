use super::rig::{answering, ask};
use crate::support::{Origin, PODS, Response, Site, tokens, websocket};

/// What would hold for the whole site, and for longer than one answer.
const WIDE: [&str; 18] = [
    "Accept-CH",
    "Alt-Svc",
    "Clear-Site-Data",
    "Critical-CH",
    "Expect-CT",
    "NEL",
    "Origin-Agent-Cluster",
    "Public-Key-Pins",
    "Public-Key-Pins-Report-Only",
    "Report-To",
    "Sec-Session-Registration",
    "Secure-Session-Registration",
    "Service-Worker-Allowed",
    "Set-Login",
    "Shared-Storage-Write",
    "Strict-Transport-Security",
    "Use-As-Dictionary",
    "WWW-Authenticate",
];

/// Every row of a desktop that is plain HTTP, with its token.
fn desktop_targets(site: &Site) -> [String; 7] {
    let token = tokens::valid(PODS[0]);
    let port = site.port;
    [
        "/filer/x".to_owned(),
        "/spawner/x".to_owned(),
        "/printerfiler/x".to_owned(),
        "/terminals".to_owned(),
        "/terminals/7/size".to_owned(),
        format!("/container/{token}/{port}/x"),
        format!("/container/{port}"),
    ]
}

/// A site whose upstreams say all of it, and set cookies.
fn site(toml: &str) -> Site {
    let mut lines: String = WIDE.iter().map(|name| format!("{name}: evil\r\n")).collect();
    lines += "Set-Cookie: session=evil; Path=/\r\nset-cookie: other=1\r\nX-Kept: 1\r\n";
    Site::configured_serving(toml, move |exchange| match exchange.header("upgrade") {
        Some(_) => {
            let mut socket = websocket(exchange, &lines);
            drop(socket.read());
        }
        None => exchange.answer("200 OK", &lines, "body"),
    })
}

fn said(answer: &Response) -> Vec<&'static str> {
    WIDE.into_iter().filter(|name| answer.header(name).is_some()).collect()
}

#[test]
fn a_pod_says_nothing_about_the_whole_site() {
    let site = site("");
    for target in desktop_targets(&site) {
        let answer = site.get(&target, &Site::bearer());
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"), "{target}");
        assert_eq!(said(&answer), Vec::<&str>::new(), "{target}");
        assert_eq!(answer.header("set-cookie"), None, "{target}");
        assert_eq!(answer.header("x-kept").as_deref(), Some("1"), "{target}");
    }
}

#[test]
fn a_service_of_the_installation_says_what_it_likes() {
    let site = site("");
    for target in ["/API/x", "/", "/speedtest/"] {
        let answer = site.get(target, "");
        assert_eq!(said(&answer), WIDE, "{target}");
        let cookies = answer.header("set-cookie");
        assert_eq!(cookies.as_deref(), Some("session=evil; Path=/, other=1"), "{target}");
    }
}

#[test]
fn a_row_decides_about_cookies() {
    let site = site(
        "[[route]]\nname = \"container\"\ncookies = \"pass\"\n\
         [[route]]\nname = \"pyos\"\ncookies = \"strip\"\n",
    );
    let token = tokens::valid(PODS[0]);
    let container = format!("/container/{token}/{}/x", site.port);
    for (target, cookies) in [(container.as_str(), true), ("/filer", false), ("/API/x", false)] {
        let answer = site.get(target, &Site::bearer());
        assert_eq!(answer.header("set-cookie").is_some(), cookies, "{target}");
        // The rest is no question of cookies.
        assert_eq!(said(&answer).is_empty(), target != "/API/x", "{target}");
    }
}

#[test]
fn a_row_decides_about_the_browsers_cookies_too() {
    let site = site("[[route]]\nname = \"container\"\ncookies = \"pass\"\n");
    let token = tokens::valid(PODS[0]);
    let container = format!("/container/{token}/{}/x", site.port);
    let headers = format!("{}Cookie: a=b\r\n", Site::bearer());
    for (target, cookie) in [("/filer", None), (container.as_str(), Some("a=b"))] {
        assert_eq!(site.get(target, &headers).status, 200, "{target}");
        assert_eq!(site.pods[0].last().header("cookie").as_deref(), cookie, "{target}");
    }
    let asked = Site::upgrade(&Site::screen());
    let asked = format!("{}Cookie: a=b\r\n\r\n", asked.strip_suffix("\r\n").unwrap());
    assert_eq!(site.client().ask(asked).status, 101);
    assert_eq!(site.pods[0].last().header("cookie"), None);
}

#[test]
fn a_policy_of_the_operator_stands_beside_a_pods_own() {
    let toml = "[headers.mine]\nresponse = { Content-Security-Policy = \"sandbox allow-scripts\" }\n\
                [[route]]\nname = \"filer\"\nheaders = \"mine\"\n\
                [[route]]\nname = \"pyos\"\nheaders = \"mine\"\n";
    let own = "Content-Security-Policy: default-src *\r\n";
    let site = Site::configured_serving(toml, move |exchange| exchange.answer("200 OK", own, ""));
    let said = |target| site.get(target, &Site::bearer()).header("content-security-policy");
    assert_eq!(said("/filer").as_deref(), Some("default-src *, sandbox allow-scripts"));
    assert_eq!(said("/API/x").as_deref(), Some("default-src *"));
}

#[test]
fn no_worker_comes_from_a_desktop() {
    let site = site("[[route]]\nname = \"broadcast\"\nwebsocket = true\n");
    let token = tokens::valid(PODS[0]);
    let script = "Service-Worker: script\r\n";
    for target in
        [format!("/broadcast?jwt_token={token}"), format!("/container/{token}/{}/x.js", site.port)]
    {
        assert_eq!(site.get(&target, "").status, 200, "{target}");
        let answer = site.get(&target, script);
        assert_eq!((answer.status, answer.error().as_str()), (403, "worker_refused"), "{target}");
    }
    // The client may have one.
    assert_eq!(site.get("/worker.js", script).status, 200);
}

#[test]
fn a_handshake_and_its_refusal_obey_the_same_rules() {
    let site = site("");
    let (_socket, answer) = site.websocket_with(&Site::screen(), &[]);
    for name in WIDE.into_iter().chain(["Set-Cookie"]) {
        assert!(!answer.headers().contains_key(name), "{answer:?}");
    }
    let refusing = Site::serving(|exchange| {
        exchange.answer("403 Forbidden", "Set-Cookie: a=1\r\nClear-Site-Data: \"*\"\r\n", "no");
    });
    let answer = refusing.client().ask(Site::upgrade(&Site::screen()));
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    assert_eq!((answer.header("set-cookie"), answer.header("clear-site-data")), (None, None));
}

#[test]
fn interim_answers_obey_the_same_rules() {
    let site = answering(
        "HTTP/1.1 103 Early Hints\r\nSet-Cookie: a=1\r\nClear-Site-Data: \"*\"\r\n\
         X-Accel-Redirect: /API\r\nLink: </x>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        false,
    );
    let mut client = site.client();
    client.send(super::rig::request("GET", ""));
    let mut heads = String::new();
    loop {
        let head = client.head().unwrap();
        heads += &head.head;
        if head.status >= 200 {
            break;
        }
    }
    for name in ["set-cookie", "clear-site-data", "x-accel"] {
        assert!(!heads.to_lowercase().contains(name), "{heads}");
    }
}

#[test]
fn an_order_to_a_proxy_is_not_carried_out() {
    let site = Site::serving(|exchange| {
        let secret = exchange.target().contains("secret");
        let orders = "X-Accel-Redirect: /API/secret\r\nX-Accel-Buffering: no\r\n\
                      X-Accel-Limit-Rate: 1\r\nX-Accel-Expires: 9\r\nX-Accel-Charset: x\r\n\
                      X-Sendfile: /etc/passwd\r\nX-Reproxy-URL: http://127.0.0.1/API/secret\r\n";
        let body = if secret { "secret" } else { "body" };
        exchange.answer("200 OK", orders, body);
    });
    let answer = site.get("/filer", &Site::bearer());
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
    assert!(!answer.head.to_lowercase().contains("x-accel"), "{}", answer.head);
    assert!(site.pyos.seen().is_empty());
}

#[test]
fn a_redirect_to_another_host_is_the_client_s_to_follow() {
    let elsewhere = Origin::start(|exchange| exchange.answer("200 OK", "", "elsewhere"));
    let place = format!("http://{}/x", elsewhere.address());
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let location = place.clone();
        let site = Site::serving(move |exchange| {
            exchange.answer(status, &format!("Location: {location}\r\n"), "");
        });
        let answer = site.get("/filer", &Site::bearer());
        assert_eq!(answer.header("location").as_deref(), Some(place.as_str()), "{status}");
    }
    assert_eq!(elsewhere.accepted(), 0);
}

#[test]
fn a_refresh_passes_like_a_redirect() {
    let site =
        answering("HTTP/1.1 200 OK\r\nRefresh: 1; url=/x\r\nContent-Length: 0\r\n\r\n", false);
    assert_eq!(ask(&site).unwrap().header("refresh").as_deref(), Some("1; url=/x"));
}

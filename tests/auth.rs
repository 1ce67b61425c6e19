use std::thread;

use deskgate::auth::mint::{KeySet, Minter};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Client, Gateway, Origin, PODS, Response, Site, eventually, tokens, write_keys,
};

const NAME: &str = "pod.desktop.abcdesktop.svc.cluster.local";
const HOSTS: &str = "[dns.hosts]\n\"pod.desktop.abcdesktop.svc.cluster.local\" = [\"127.0.0.2\"]\n";

fn with_header(site: &Site, value: &str) -> Response {
    site.get("/filer", &format!("ABCAuthorization: {value}\r\n"))
}

fn mint(target: &str) -> String {
    tokens::minter(tokens::keys()).mint(target, tokens::now(), tokens::TTL).unwrap()
}

#[test]
fn tokens_that_pyos_may_make_open_their_pod() {
    let site = Site::configured(HOSTS);
    let pod = PODS[0];
    let far = tokens::now() + 5000;
    let unpadded = tokens::seal(pod).0.trim_end_matches('=').to_owned();
    for (what, token) in [
        ("address", mint(pod)),
        ("name", mint(NAME)),
        ("name with final dot", mint(&format!("{NAME}."))),
        ("name in upper case", mint(&NAME.to_ascii_uppercase())),
        ("exp as float", tokens::with(pod, json!({"exp": tokens::now() as f64 + 60.5}))),
        ("nfb in future", tokens::with(pod, json!({"nfb": far}))),
        ("without nfb, as pyos 2.1", tokens::with(pod, json!({"nfb": null}))),
        ("unpadded hash", tokens::with(pod, json!({"hash": unpadded}))),
        ("nbf in the past", tokens::with(pod, json!({"nbf": 1}))),
        ("more claims", tokens::with(pod, json!({"iss": "x", "jti": ["y"]}))),
        ("kid", header(json!({"typ": "JWT", "alg": "RS256", "kid": "1"}))),
        ("no typ", header(json!({"alg": "RS256"}))),
    ] {
        let answer = with_header(&site, &format!("Bearer {token}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "pod a"), "{what}");
    }
}

fn header(header: Value) -> String {
    tokens::signed(&header, &tokens::claims_with(PODS[0], json!({})))
}

/// Below 2048 bits a wrong seal opens to random bytes, which may be none at all.
const WRONG_SEAL: &str = "bad_seal|outside_policy";

/// Every token that must open nothing, with the reason that is logged.
fn bad_tokens() -> Vec<(&'static str, String, &'static str)> {
    let pod = PODS[0];
    let now = tokens::now();
    let valid = tokens::valid(pod);
    let (message, signature) = valid.rsplit_once('.').unwrap();
    let (hash, bytes) = tokens::seal(pod);
    let mut other_byte = bytes;
    other_byte[64] ^= 1;
    let reseal = |bytes: &[u8]| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let claims = |changes| tokens::with(pod, changes);
    let none = json!({"typ": "JWT", "alg": "none"});
    let enc = json!({"typ": "JWT", "alg": "RS256", "enc": "A256GCM"});
    vec![
        ("expired", tokens::expired(pod), "expired"),
        ("exp now", claims(json!({"exp": now})), "expired"),
        ("exp as string", claims(json!({"exp": (now + 60).to_string()})), "bad_claims"),
        ("no exp", claims(json!({"exp": null})), "bad_claims"),
        ("nbf in future", claims(json!({"nbf": now + 5000})), "not_yet_valid"),
        ("no hash", claims(json!({"hash": null})), "missing_hash"),
        ("hash a number", claims(json!({"hash": 7})), "bad_claims"),
        ("hash no base64", claims(json!({"hash": "%%%"})), "bad_seal"),
        (
            "hash with newline",
            claims(json!({"hash": format!("{}\n{}", &hash[..9], &hash[9..])})),
            "bad_seal",
        ),
        ("hash url-safe", claims(json!({"hash": url_safe()})), "bad_seal"),
        ("hash of other bytes", claims(json!({"hash": reseal(&other_byte)})), WRONG_SEAL),
        ("hash empty", claims(json!({"hash": ""})), "bad_seal"),
        ("target empty", mint(""), "outside_policy"),
        ("target with port and path", mint("127.0.0.2:8080/evil?x="), "outside_policy"),
        ("target a URL", mint("http://127.0.0.2"), "outside_policy"),
        ("target outside the networks", mint("10.1.2.3"), "outside_policy"),
        ("target of the cloud", mint("169.254.169.254"), "outside_policy"),
        ("target a foreign name", mint("kubernetes.default.svc.cluster.local"), "outside_policy"),
        ("target too deep", mint(&format!("a.{NAME}")), "outside_policy"),
        ("target a number", mint("2130706434"), "outside_policy"),
        ("foreign keys", tokens::foreign(pod), "bad_signature"),
        ("swapped signature", tokens::tampered(pod, PODS[1]), "bad_signature"),
        ("HS256 by the public key", tokens::hs256_by_public_key(pod), "malformed"),
        ("RS512", header(json!({"typ": "JWT", "alg": "RS512"})), "algorithm"),
        ("PS256", header(json!({"typ": "JWT", "alg": "PS256"})), "algorithm"),
        ("alg missing", header(json!({"typ": "JWT"})), "algorithm"),
        ("alg none", tokens::unsigned(&none, pod, ""), "malformed"),
        ("alg none, signed", tokens::unsigned(&none, pod, signature), "algorithm"),
        ("enc without signature", tokens::unsigned(&enc, pod, ""), "malformed"),
        ("enc, signed", tokens::signed(&enc, &tokens::claims(&valid)), "unsupported_header"),
        ("crit", header(json!({"alg": "RS256", "crit": ["x"], "x": 1})), "unsupported_header"),
        ("no signature", message.to_owned(), "malformed"),
        ("four parts", format!("{valid}.x"), "malformed"),
        ("padding", format!("{valid}="), "malformed"),
        ("garbage", "garbage".to_owned(), "malformed"),
        ("8 KiB of garbage", "a".repeat(8193), "too_long"),
    ]
}

fn url_safe() -> String {
    loop {
        let (hash, _) = tokens::seal(PODS[0]);
        if hash.contains(['+', '/']) {
            return hash.replace('+', "-").replace('/', "_");
        }
    }
}

#[test]
fn every_bad_token_gets_the_same_401_and_nothing_reaches_a_pod() {
    let site = Site::configured(HOSTS);
    let missing = site.get("/filer/missing", "");
    assert_eq!(missing.status, 401);
    assert_eq!(site.gateway.logged("/filer/missing")["reason"], "missing");
    for (index, (what, token, reason)) in bad_tokens().into_iter().enumerate() {
        let path = format!("/filer/{index}-");
        let answer = site.get(&path, &format!("ABCAuthorization: Bearer {token}\r\n"));
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.body, missing.body, "{what}");
        assert_eq!(answer.header("content-type"), missing.header("content-type"), "{what}");
        let line = site.gateway.logged(&path);
        assert_eq!(line["status"], 401, "{what}");
        let told = line["reason"].as_str().unwrap();
        assert!(reason.split('|').any(|reason| reason == told), "{what}: {told}");
    }
    assert_eq!(site.pods[0].accepted() + site.pods[1].accepted(), 0);
}

#[test]
fn bad_tokens_open_no_tunnel_either() {
    let site = Site::start();
    for (what, token, _) in bad_tokens() {
        let mut client = site.client();
        let answer = client.ask(Site::upgrade(&format!("/websockify?{token}")));
        assert_eq!((answer.status, answer.error().as_str()), (401, "unauthorized"), "{what}");
    }
    assert_eq!(site.pods[0].accepted() + site.pods[1].accepted(), 0);
}

#[test]
fn a_refusal_is_json_for_programs_and_a_page_for_people() {
    let site = Site::start();
    let json = site.get("/filer", "Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n");
    assert_eq!(json.error(), "unauthorized");
    assert!(json.json()["message"].as_str().unwrap().ends_with('.'));
    let page = site.get("/filer", "Sec-Fetch-Mode: navigate\r\n");
    assert_eq!(page.status, 401);
    assert_eq!(page.header("content-type").as_deref(), Some("text/html; charset=utf-8"));
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.text());
    // What its user can tell whoever reads the log.
    assert!(page.text().contains(&page.header("x-request-id").unwrap()), "{}", page.text());
    for answer in [json, page] {
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options").as_deref(), Some("SAMEORIGIN"));
        assert_eq!(answer.header("server"), None);
    }
}

#[test]
fn the_token_is_found_only_where_its_route_looks() {
    let site = Site::start();
    let t = tokens::valid(PODS[0]);
    let port = site.port;
    // A good token that asks for no WebSocket where nothing else is served gets 426.
    for (target, header, status) in [
        (format!("/websockify?{t}"), "", 426),
        (format!("/websockify?jwt_token={t}"), "", 426),
        (format!("/websockify?JWT_TOKEN={t}"), "", 426),
        (format!("/websockify?a=1&jwt_token={t}"), "", 426),
        (format!("/websockify?jwt_token={t}&jwt_token=xx"), "", 426),
        (format!("/websockify?jwt_token=xx&jwt_token={t}"), "", 401),
        (format!("/websockify?jwt_token=Bearer%20{t}"), "", 401),
        (format!("/websockify?{t}&x=1"), "", 401),
        ("/websockify?jwt_token=".to_owned(), "", 401),
        (format!("/websockify?jwt%5Ftoken={t}"), "", 401),
        (format!("/broadcast?jwt_token={t}"), "", 426),
        (format!("/terminals/12?{t}"), "", 426),
        (format!("/terminals/12?jwt_token={t}"), "", 401),
        (format!("/filer?{t}"), "", 401),
        (format!("/filer?jwt_token={t}"), "", 401),
        (format!("/container/{t}/{port}/"), "", 200),
        (format!("/container/8080/{port}/"), "", 401),
        (format!("/x/container/{t}/{port}/"), "", 200),
    ] {
        let answer = site.get(&target, header);
        let target = target.replace(&t, "T");
        assert_eq!(answer.status, status, "{target}");
        // The last row is no row of the pod's.
        let pod = if target.starts_with("/x/") { "website" } else { "pod a" };
        assert!(status != 200 || answer.text() == pod, "{target}: {}", answer.text());
    }
    for (value, status) in [
        (format!("Bearer {t}"), 200),
        (t.clone(), 200),
        (format!("bearer {t}"), 401),
        (format!("Bearer  {t}"), 401),
        (format!("Bearer Bearer {t}"), 401),
        (format!("Basic {t}"), 401),
        ("Bearer ".to_owned(), 401),
        (String::new(), 401),
    ] {
        let answer = with_header(&site, &value);
        assert_eq!(answer.status, status, "{}", value.replace(&t, "T"));
    }
    assert_eq!(site.get("/filer", &format!("aBcAuThOrIzAtIoN: {t}\r\n")).status, 200);
    assert_eq!(site.get("/filer", &format!("Authorization: Bearer {t}\r\n")).status, 401);
    let on_query_route = format!("ABCAuthorization: Bearer {t}\r\n");
    assert_eq!(site.get("/websockify", &on_query_route).status, 401);
}

#[test]
fn a_name_that_does_not_exist_is_502_and_not_401() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::configured(&format!("[dns]\nservers = [\"{closed}\"]\ntimeout = \"50ms\"\n"));
    let token = mint("gone.desktop.abcdesktop.svc.cluster.local");
    let answer = with_header(&site, &token);
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    assert!(!answer.text().contains("gone"), "{answer:?}");
}

#[test]
fn two_users_requests_on_shared_connections_never_meet() {
    let site = Site::start();
    let users: Vec<_> =
        PODS.iter().map(|pod| (tokens::valid(pod), mint(pod))).zip(["pod a", "pod b"]).collect();
    thread::scope(|scope| {
        for worker in 0..4 {
            let (users, mut client) = (&users, site.client());
            scope.spawn(move || {
                for turn in 0..100 {
                    let ((first, second), pod) = &users[(turn / (worker + 1)) % 2];
                    let token = if turn % 3 == 0 { first } else { second };
                    let answer = client.ask(format!(
                        "GET /filer HTTP/1.1\r\nHost: x\r\nABCAuthorization: Bearer {token}\r\n\r\n"
                    ));
                    assert_eq!((answer.status, answer.text().as_str()), (200, *pod));
                }
            });
        }
    });
    assert_eq!(site.pods.iter().map(|pod| pod.seen().len()).sum::<usize>(), 400);
}

#[test]
fn a_token_that_is_remembered_stops_at_its_end() {
    let site = Site::start();
    let now = tokens::now();
    let life = 8;
    let expires = now + life;
    let token = tokens::minter(tokens::keys()).mint(PODS[0], now, life).unwrap();
    let mut client = site.client();
    let request =
        format!("GET /filer HTTP/1.1\r\nHost: x\r\nABCAuthorization: Bearer {token}\r\n\r\n");
    let ask = |client: &mut Client| {
        let before = tokens::now();
        let status = client.ask(&request).status;
        match status {
            200 => assert!(before < expires, "accepted after its end"),
            401 => assert!(tokens::now() >= expires, "refused before its end"),
            _ => panic!("{status}"),
        }
        status
    };
    assert_eq!((ask(&mut client), ask(&mut client)), (200, 200));
    eventually("the token expires", || (ask(&mut client) == 401).then_some(()));
}

/// A gateway with these keys in the given files, and a pod.
fn opened_with(keys: &KeySet, payload: &str, minter: &Minter) -> Response {
    let dir = TempDir::new().unwrap();
    write_keys(dir.path(), keys);
    let pod = Origin::start(|exchange| exchange.answer("200 OK", "", "opened"));
    let gateway = Gateway::start(&format!(
        "[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n[desktop]\nports = {{ filer = {} }}",
        dir.path().join(KeySet::SIGNING_PUBLIC),
        dir.path().join(payload),
        pod.address().port()
    ));
    let token = minter.mint("127.0.0.1", tokens::now(), tokens::TTL).unwrap();
    let request = format!("GET /filer HTTP/1.1\r\nHost: x\r\nABCAuthorization: {token}\r\n\r\n");
    Client::connect(gateway.address()).ask(request)
}

#[test]
fn keys_of_1024_and_2048_bits_work_both_ways_round() {
    let large = KeySet::generate(2048).unwrap();
    for keys in [tokens::keys(), &large] {
        let released = tokens::minter(keys);
        assert_eq!(opened_with(keys, KeySet::PAYLOAD_PRIVATE, &released).text(), "opened");
        let signing = keys.signing_private.as_bytes();
        let documented = Minter::new(signing, keys.payload_private.as_bytes()).unwrap();
        assert_eq!(opened_with(keys, KeySet::PAYLOAD_PUBLIC, &documented).text(), "opened");
        // What is sealed for one way does not open the other way round.
        assert_eq!(opened_with(keys, KeySet::PAYLOAD_PUBLIC, &released).status, 401);
        assert_eq!(opened_with(keys, KeySet::PAYLOAD_PRIVATE, &documented).status, 401);
    }
}

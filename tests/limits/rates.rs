use serde_json::json;

use super::{Watched, refusal};
use crate::support::{PODS, Site, raw, tokens};

#[test]
fn a_client_that_asks_too_fast_waits_and_others_do_not() {
    let watched = Watched::start(
        "[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n\
         [limits]\nrequests_per_address = { per_minute = 1, burst = 3 }\n",
    );
    let ask = |client: &str, target: &str| {
        watched.site.get(target, &format!("X-Forwarded-For: {client}\r\n"))
    };
    for _ in 0..3 {
        assert_eq!(ask("203.0.113.7", "/API/x").status, 200);
    }
    let (status, error, after) = refusal(&ask("203.0.113.7", "/API/fast"));
    assert_eq!((status, error.as_str()), (429, "address_requests"));
    assert!((30..=60).contains(&after), "{after}");
    let line = watched.site.gateway.logged("/API/fast");
    assert_eq!((&line["reason"], &line["status"]), (&json!("address_requests"), &json!(429)));
    assert_eq!(line["client"], "203.0.113.7");
    assert_eq!(watched.refused("address_requests"), 1.0);
    // The one behind the same proxy, the proxy itself, and a health check.
    assert_eq!(ask("203.0.113.8", "/API/x").status, 200);
    for _ in 0..5 {
        assert_eq!(watched.site.get("/API/x", "").status, 200);
        assert_eq!(ask("203.0.113.7", "/healthz").status, 200);
    }
}

#[test]
fn a_token_that_is_used_too_fast_waits_wherever_it_comes_from() {
    let watched = Watched::start("[limits]\nrequests_per_token = { per_minute = 1, burst = 2 }\n");
    let (token, other) = (tokens::valid(PODS[0]), tokens::with(PODS[0], json!({"x": 1})));
    let ask = |token: &str| watched.site.get("/filer/x", &format!("ABCAuthorization: {token}\r\n"));
    assert_eq!((ask(&token).status, ask(&token).status), (200, 200));
    assert_eq!(refusal(&ask(&token)).1, "token_requests");
    assert_eq!(ask(&other).status, 200);
    assert_eq!(watched.refused("token_requests"), 1.0);
}

/// What an upgrade is answered with.
fn upgrade(site: &Site, token: &str) -> (u16, String) {
    let answer = raw(site.address(), Site::upgrade(&format!("/websockify?{token}"))).unwrap();
    let error = if answer.status == 101 { String::new() } else { refusal(&answer).1 };
    (answer.status, error)
}

#[test]
fn a_token_and_a_pod_have_so_many_tunnels_and_no_more() {
    let watched = Watched::start("[limits]\ntunnels_per_token = 2\ntunnels_per_pod = 3\n");
    let site = &watched.site;
    let (token, other) = (tokens::valid(PODS[0]), tokens::with(PODS[0], json!({"x": 1})));
    let open = |token: &str| site.websocket(&format!("/websockify?{token}"));
    let mut held = vec![open(&token), open(&token)];
    assert_eq!(upgrade(site, &token), (429, "token_tunnels".to_owned()));
    held.push(open(&other));
    assert_eq!(upgrade(site, &other), (429, "pod_tunnels".to_owned()));
    let _another_pod = open(&tokens::valid(PODS[1]));
    assert_eq!((watched.refused("token_tunnels"), watched.refused("pod_tunnels")), (1.0, 1.0));
    drop(held);
    crate::support::eventually("a free place", || (upgrade(site, &token).0 == 101).then_some(()));
}

#[test]
fn tunnels_are_opened_so_fast_and_a_page_can_read_why_not() {
    let watched = Watched::start(
        "[limits]\nnew_tunnels = { per_minute = 1, burst = 2 }\n\
         [[route]]\nname = \"websockify\"\ntunnel = { refusal = \"close\" }\n",
    );
    let site = &watched.site;
    let token = tokens::valid(PODS[0]);
    assert_eq!(upgrade(site, &token).0, 101);
    assert_eq!(upgrade(site, &token).0, 101);
    assert_eq!(upgrade(site, &token), (429, "new_tunnels".to_owned()));
    let target = format!("/websockify?{token}");
    let (mut socket, _) = site.websocket_with(&target, &[("origin", "https://desk.example")]);
    let closed = socket.read().unwrap();
    let tokio_tungstenite::tungstenite::Message::Close(Some(frame)) = closed else {
        panic!("{closed:?}")
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (4429, r#"{"reason":"new_tunnels"}"#)
    );
    assert_eq!(watched.refused("new_tunnels"), 2.0);
}

#[test]
fn forged_tokens_are_slowed_then_refused_and_good_ones_never() {
    let watched = Watched::start(
        "[limits]\nexempt = []\nfailures = { per_minute = 1, burst = 2 }\nfailure_delay = \"100ms\"\n",
    );
    let ask = |token: &str| watched.site.get("/filer/x", &format!("ABCAuthorization: {token}\r\n"));
    let forged = |number: usize| ask(&format!("{}{number}", tokens::foreign(PODS[0])));
    let statuses: Vec<_> = (0..6).map(|number| forged(number).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 429, 429]);
    assert_eq!(watched.metric("deskgate_auth_delayed_total"), Some(2.0));
    assert_eq!(watched.refused("auth_failures"), 2.0);
    let (_, error, after) = refusal(&forged(7));
    assert!(error == "auth_failures" && after > 30, "{error} {after}");
    // From the same address: tokens that are good, one never seen before included, have expired, or
    // are missing.
    for number in 0..20 {
        assert_eq!(ask(&tokens::with(PODS[0], json!({"x": number}))).status, 200);
    }
    assert_eq!(ask(&tokens::expired(PODS[0])).status, 401);
    assert_eq!(watched.site.get("/filer/x", "").status, 401);
    assert_eq!(forged(8).status, 429, "it was not forgotten meanwhile");
}

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::support::fake_api::{Endpoint, FakeApi, Fault};
use crate::support::{PODS, Response, SOON, Site, echo, eventually, free_port, raw, tokens};

/// A gateway that watches pods, and the API that it watches.
struct Cluster {
    api: FakeApi,
    site: Site,
}

impl Cluster {
    fn start(more: &str) -> Self {
        Self::with(FakeApi::start(), more)
    }

    fn with(api: FakeApi, more: &str) -> Self {
        let (host, port) = (api.address.ip(), api.address.port());
        // Without an authority the API is asked in plain HTTP.
        let text = format!(
            "[discovery]\nmode = \"kubernetes\"\napi_host = \"{host}\"\napi_port = {port}\n\
             authority = \"\"\n{more}"
        );
        let site = Site::configured_serving(&text, |exchange| match exchange.header("upgrade") {
            Some(_) => echo(exchange),
            None => exchange.answer("200 OK", "", "the pod"),
        });
        Self { api, site }
    }

    /// Waits until the API was listed: what it says from then on is known to be current.
    fn synced(&self) {
        eventually("a watch", || (self.api.watches() > 0).then_some(()));
    }

    /// A new token that opens the pod, as soon as one does.
    fn welcome(&self, target: &str) -> String {
        eventually("a token that opens the pod", || {
            let token = issued(target, 0);
            (self.ask(&token).status == 200).then_some(token)
        })
    }

    fn ask(&self, token: &str) -> Response {
        self.site.get("/filer", &format!("ABCAuthorization: {token}\r\n"))
    }

    /// The status as soon as the API has told what it knows of the pod.
    fn judged(&self, token: &str) -> u16 {
        eventually("an answer of the API", || {
            Some(self.ask(token).status).filter(|status| *status != 503)
        })
    }
}

fn issued(target: &str, ago: u64) -> String {
    tokens::minter(tokens::keys()).mint(target, tokens::now() - ago, 420 + ago).unwrap()
}

#[test]
fn only_pods_of_the_service_are_reached() {
    let cluster = Cluster::start("wait = \"100ms\"\n");
    cluster.synced();
    cluster.api.set(Endpoint::ready("ida", PODS[0]));
    eventually("ida's pod", || (cluster.ask(&issued(PODS[0], 0)).status == 200).then_some(()));
    // It listens and lies in the permitted networks, and still is no pod of the service.
    let other = cluster.ask(&issued(PODS[1], 60));
    assert_eq!((other.status, other.error()), (404, "desktop_gone".to_owned()));
    assert_eq!(cluster.site.pods[1].seen().len(), 0);
}

#[test]
fn a_name_is_found_in_the_slices_without_dns() {
    let cluster = Cluster::start("");
    cluster.synced();
    cluster.api.set(Endpoint::ready("ida", PODS[0]));
    let name = "pod-ida.desktop.abcdesktop.svc.cluster.local";
    eventually("ida's pod", || (cluster.ask(&issued(name, 0)).status == 200).then_some(()));
}

#[test]
fn a_token_does_not_reach_the_next_owner_of_its_address() {
    let cluster = Cluster::start("wait = \"100ms\"\n");
    cluster.synced();
    cluster.api.set(Endpoint::ready("ida", PODS[0]));
    // A token from before the first look at the API is refused, so the first good one is kept.
    let ida = cluster.welcome(PODS[0]);
    let mut tunnel = cluster.site.websocket(&format!("/websockify?{ida}"));
    tunnel.send("ida".into()).unwrap();
    assert_eq!(tunnel.read().unwrap(), "ida".into());
    // Her pod ends, and its address is given to bob's.
    cluster.api.set(Endpoint::terminating("ida", PODS[0]));
    cluster.api.set(Endpoint::ready("bob", PODS[0]));
    // The gateway hears of it a moment later: until then a new token is hers, too.
    let refused = eventually("her token is refused", || {
        Some(cluster.ask(&ida)).filter(|answer| answer.status == 401)
    });
    assert_eq!(refused.error(), "unauthorized");
    let line = eventually("its line", || {
        cluster.site.gateway.access("/filer").pop().filter(|line| line["status"] == 401)
    });
    let reason = line["reason"].as_str().unwrap();
    // Which of the two depends on how sure the gateway is of the moment of the change.
    assert!(["desktop_reused", "desktop_ambiguous"].contains(&reason), "{line}");
    let bob = cluster.welcome(PODS[0]);
    // Her tunnel ends soon after her pod, since the address has another owner.
    let gone = Instant::now();
    cluster.api.remove("ida");
    let end = loop {
        match tunnel.read() {
            Ok(Message::Close(frame)) => break frame.unwrap(),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((u16::from(end.code), end.reason.as_str()), (4404, "{\"reason\":\"desktop_gone\"}"));
    assert!(gone.elapsed() < SOON, "{:?}", gone.elapsed());
    // His works; one of the very second of the change may be as uncertain as hers.
    assert!([200, 401].contains(&cluster.judged(&bob)));
    cluster.welcome(PODS[0]);
    assert_eq!(cluster.judged(&ida), 401);
}

#[test]
fn a_request_waits_for_a_pod_that_is_not_ready_and_is_released_by_the_event() {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let cluster = Cluster::start(&format!("[admin]\nlisten = [\"{admin}\"]\n"));
    cluster.synced();
    cluster.api.set(Endpoint::ready("bob", PODS[1]));
    cluster.welcome(PODS[1]);
    cluster.api.set(Endpoint::not_ready("ida", PODS[0]));
    let token = issued(PODS[0], 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cluster.ask(&token));
        let upgrade = scope.spawn(|| cluster.site.websocket(&format!("/websockify?{token}")));
        eventually("both are held", || {
            let ask =
                format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
            let page = raw(admin, ask).ok()?.text();
            page.contains("\ndeskgate_requests_in_flight 2.0\n").then_some(())
        });
        assert_eq!(cluster.site.pods[0].seen().len(), 0);
        cluster.api.set(Endpoint::ready("ida", PODS[0]));
        assert_eq!(waiting.join().unwrap().status, 200);
        let mut tunnel = upgrade.join().unwrap();
        tunnel.send("up".into()).unwrap();
        assert_eq!(tunnel.read().unwrap(), "up".into());
    });
}

#[test]
fn a_pod_that_stays_unready_is_503_and_a_page_that_tries_again() {
    let cluster = Cluster::start("wait = \"200ms\"\n");
    cluster.synced();
    cluster.api.set(Endpoint::not_ready("ida", PODS[0]));
    let token = issued(PODS[0], 0);
    let answer = eventually("it is known", || {
        let answer = cluster.ask(&token);
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(answer.error(), "desktop_not_ready");
    assert!(answer.header("retry-after").is_some());
    let page = cluster
        .site
        .get("/filer", &format!("ABCAuthorization: {token}\r\nSec-Fetch-Mode: navigate\r\n"));
    assert!(page.text().contains("http-equiv=\"refresh\""), "{page:?}");
    cluster.api.set(Endpoint::terminating("ida", PODS[0]));
    eventually("it ends", || (cluster.ask(&token).error() == "desktop_ending").then_some(()));
}

#[test]
fn where_the_api_forbids_it_dns_serves_and_that_is_said_loudly() {
    let api = FakeApi::start();
    api.fail(Fault::Status(403));
    let cluster = Cluster::with(api, "wait = \"200ms\"\n");
    eventually("a fallback", || (cluster.ask(&issued(PODS[0], 0)).status == 200).then_some(()));
    let line = cluster.site.gateway.wait_for_line("forbids to list endpointslices");
    assert!(line.contains("WARN"), "{line}");
}

/// Reads a tunnel to its end; the code that it was closed with.
fn code(socket: &mut WebSocket<TcpStream>) -> u16 {
    let mut code = None;
    while let Ok(message) = socket.read() {
        if let Message::Close(frame) = message {
            code = frame.map(|frame| frame.code.into());
        }
    }
    code.unwrap()
}

#[test]
fn a_revoked_pod_loses_the_tunnels_from_before_it_was_known_too() {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let ask = |line: &str, body: &str| {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        raw(admin, head).unwrap().json()
    };
    let closed = |pod: &str| {
        let body = serde_json::json!({ "pod": pod }).to_string();
        ask("POST /admin/revoke", &body)["closed"].as_u64().unwrap()
    };
    let api = FakeApi::start();
    api.fail(Fault::Status(403));
    api.set(Endpoint::ready("ida", PODS[0]));
    api.set(Endpoint::ready("bob", PODS[1]));
    let more = format!("wait = \"200ms\"\n[admin]\nlisten = [\"{admin}\"]\n");
    let cluster = Cluster::with(api, &more);
    eventually("a fallback", || (cluster.ask(&issued(PODS[0], 0)).status == 200).then_some(()));
    let open = |token: String| cluster.site.websocket(&format!("/websockify?{token}"));
    let mut ida = open(issued(PODS[0], 0));
    let mut bob = open(issued(PODS[1], 0));
    cluster.api.fail(Fault::None);
    eventually("both pods are known", || {
        let known = ask("GET /admin/overview", "")["desktops"].as_array().unwrap().len();
        (known == 2).then_some(())
    });
    assert_eq!((closed("pod-ida"), code(&mut ida)), (1, 4403));
    // By the fingerprint of his first tunnel, his later one is meant, too.
    let later = cluster.welcome(PODS[1]);
    let mut again = open(later.clone());
    let list = eventually("his two tunnels are left", || {
        Some(ask("GET /admin/tunnels", "")).filter(|list| list["total"] == 2)
    });
    let labels = [&list["tunnels"][0]["pod"], &list["tunnels"][1]["pod"]];
    assert!(labels[0] != "pod-bob" && labels[1] == "pod-bob", "{list}");
    let closed = closed(labels[0].as_str().unwrap());
    assert_eq!((closed, code(&mut bob), code(&mut again)), (2, 4403, 4403));
    assert_eq!(cluster.ask(&later).status, 401);
}

#[test]
fn without_a_fallback_nothing_unknown_is_reached() {
    let api = FakeApi::start();
    api.fail(Fault::Status(403));
    let cluster = Cluster::with(api, "fallback = \"none\"\nwait = \"100ms\"\n");
    let answer = cluster.ask(&issued(PODS[0], 0));
    assert_eq!((answer.status, answer.error()), (503, "desktops_unknown".to_owned()));
    assert_eq!(cluster.site.pods[0].seen().len(), 0);
}

#[test]
fn a_table_of_the_configuration_names_the_desktops() {
    let text = format!("[discovery]\nmode = \"static\"\n[discovery.pods]\nida = \"{}\"\n", PODS[0]);
    let site = Site::configured(&text);
    let status = |target: &str| {
        let token = tokens::valid(target);
        site.get("/filer", &format!("ABCAuthorization: {token}\r\n")).status
    };
    assert_eq!(status(PODS[0]), 200);
    assert_eq!(status("ida.desktop.abcdesktop.svc.cluster.local"), 200);
    assert_eq!(status(PODS[1]), 404);
    assert_eq!(status("bob.desktop.abcdesktop.svc.cluster.local"), 404);
}

#[test]
fn where_the_api_cannot_be_reached_from_the_start_dns_serves_too() {
    let text = format!(
        "[discovery]\nmode = \"kubernetes\"\napi_host = \"127.0.0.1\"\napi_port = {}\n\
         authority = \"\"\nwait = \"200ms\"\n",
        free_port()
    );
    let site = Site::configured(&text);
    eventually("a fallback", || {
        let token = issued(PODS[0], 0);
        let answer = site.get("/filer", &format!("ABCAuthorization: {token}\r\n"));
        (answer.status == 200).then_some(())
    });
    site.gateway.wait_for_line("cannot be reached: desktops are found by DNS");
}

#[test]
fn a_tunnel_ends_soon_after_its_pod_has_left() {
    let cluster = Cluster::start("");
    cluster.synced();
    cluster.api.set(Endpoint::ready("ida", PODS[0]));
    let token = cluster.welcome(PODS[0]);
    let mut tunnel = cluster.site.websocket(&format!("/websockify?{token}"));
    tunnel.send("ida".into()).unwrap();
    assert_eq!(tunnel.read().unwrap(), "ida".into());
    let gone = Instant::now();
    cluster.api.remove("ida");
    loop {
        match tunnel.read().unwrap() {
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 4404);
                break;
            }
            _ => assert!(gone.elapsed() < SOON),
        }
    }
    assert!(gone.elapsed() < SOON, "{:?}", gone.elapsed());
}

/// A gateway starts while pages are open: what it did not see, the pods tell.
#[test]
fn a_token_from_before_the_start_opens_the_pod_that_ran_then() {
    const MINUTE: Duration = Duration::from_secs(60);
    for (running, issued_ago, want) in
        [(Some(MINUTE * 10), 60, 200), (Some(MINUTE * 2), 300, 401), (None, 60, 401)]
    {
        let api = FakeApi::start();
        let pod = Endpoint::ready("ida", PODS[0]);
        api.set(match running {
            Some(time) => pod.running_for(time),
            None => pod,
        });
        let cluster = Cluster::with(api, "");
        cluster.synced();
        let token = issued(PODS[0], issued_ago);
        let mut unanswered = 0;
        let answer = eventually("its pod is known", || {
            let answer = cluster.ask(&token);
            unanswered += usize::from(answer.status == 503);
            Some(answer).filter(|answer| [200, 401].contains(&answer.status))
        });
        assert_eq!(answer.status, want, "{running:?}");
        for _ in 0..3 {
            assert_eq!(cluster.judged(&token), want, "{running:?}");
        }
        let reason = if want == 200 { "" } else { "desktop_ambiguous" };
        let lines = eventually("its lines", || {
            let mut lines = cluster.site.gateway.access("/filer");
            lines.retain(|line| line["status"] == want);
            (lines.len() >= 4).then_some(lines)
        });
        for line in lines {
            assert_eq!(line["reason"].as_str().unwrap_or_default(), reason, "{line}");
        }
        // Once, unless it did not tell, or not in time.
        let asked = cluster.api.asked();
        assert!(running.is_none() || (1..=1 + unanswered).contains(&asked), "{asked}");
        assert_eq!(cluster.site.pods[0].seen().len(), if want == 200 { 4 } else { 0 });
        // Another pod at its address is another matter, as soon as it is known.
        cluster.api.remove("ida");
        cluster.api.set(Endpoint::ready("bob", PODS[0]).running_for(MINUTE));
        let refused = eventually("her token is refused, as the address is bob's", || {
            let answer = cluster.ask(&token);
            let lines = cluster.site.gateway.access("/filer");
            lines.iter().any(|line| line["reason"] == "desktop_reused").then_some(answer)
        });
        assert_eq!((refused.status, refused.error()), (401, "unauthorized".to_owned()));
        let seen = cluster.site.pods[0].seen().len();
        assert_eq!(cluster.ask(&token).status, 401);
        assert_eq!(cluster.site.pods[0].seen().len(), seen);
    }
}

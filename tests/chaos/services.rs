use std::time::Duration;

use super::rig::{Heart, Pod, Rig, endure, tell, timed};
use crate::support::fake_api::{Endpoint, FakeApi, Fault};
use crate::support::name_server::NameServer;
use crate::support::{PODS, Response, SOON, eventually, tokens};

/// A service that is away is told of within this time: long before a client waits for it in vain.
const TOLD: Duration = SOON;

fn is_told(rig: &Rig, target: &str) -> (Response, Duration) {
    let (answer, took) = timed(|| rig.get(target, None));
    assert!([502, 503, 504].contains(&answer.status), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(took < TOLD, "{took:?}");
    (answer, took)
}

fn is_back(rig: &Rig, target: &str, name: &str) -> Duration {
    let works = || (rig.get(target, None).text() == name).then_some(());
    timed(|| eventually("it is back", works)).1
}

#[test]
fn while_pyos_is_away_desktops_stay_and_new_ones_open() {
    let mut rig = Rig::start("");
    let (ida, bob) = (tokens::valid(PODS[0]), tokens::valid(PODS[1]));
    let heart = Heart::of(&rig);
    let kept = rig.talk(0, &ida);
    assert_eq!(rig.get("/API/x", None).text(), "pyos");
    rig.pyos.take().unwrap().kill();
    let (refused, took) = is_told(&rig, "/API/x");
    assert_eq!((refused.status, refused.error()), (502, "connect_failed".to_owned()));
    // Twice as long away as one of its users waits.
    let new = rig.talk(1, &bob);
    endure();
    assert_eq!(rig.who(&ida), "ida");
    is_told(&rig, "/API/x");
    rig.pyos = Some(Pod::start("pyos", "127.0.0.1", rig.pyos_port));
    let back = is_back(&rig, "/API/x", "pyos");
    let (kept, new) = (kept.finish(), new.finish());
    assert_eq!(rig.account(0)["messages"], kept.messages);
    assert_eq!(rig.account(1)["messages"], new.messages);
    let failed = || rig.metric("deskgate_upstream_errors_total{reason=\"connect_failed\"}");
    eventually("both failures are counted", || (failed() >= 2.0).then_some(()));
    let beat = heart.rest();
    tell("pyos away: told after, works after, longest gap of a tunnel", (took, back, kept.gap));
    tell("pyos away: slowest probe", beat);
}

#[test]
fn while_pyos_is_silent_nobody_else_waits() {
    let rig = Rig::start("[[route]]\nname = \"pyos\"\ntimeouts = { read = \"1s\" }\n");
    let heart = Heart::of(&rig);
    let kept = rig.talk(0, &tokens::valid(PODS[0]));
    let pyos = rig.pyos.as_ref().unwrap();
    pyos.signal("STOP");
    // Many wait for it, and none of them holds up a desktop.
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..50).map(|_| scope.spawn(|| is_told(&rig, "/API/x"))).collect();
        let new = rig.talk(1, &tokens::valid(PODS[1]));
        endure();
        new.finish();
        for answer in waiting {
            let (answer, took) = answer.join().unwrap();
            assert_eq!(answer.error(), "response_timeout", "{took:?}");
        }
    });
    pyos.signal("CONT");
    let back = is_back(&rig, "/API/x", "pyos");
    let kept = kept.finish();
    heart.rest();
    tell("pyos silent: works after, longest gap of a tunnel", (back, kept.gap));
}

#[test]
fn while_no_name_server_answers_known_services_and_all_tunnels_go_on() {
    let names = NameServer::start();
    names.name("pyos.test", &["127.0.0.1"]);
    names.name("ida.desktop.abcdesktop.svc.cluster.local", &[PODS[0]]);
    names.name("bob.desktop.abcdesktop.svc.cluster.local", &[PODS[1]]);
    let dns = format!(
        "[dns]\nservers = [\"{}\"]\nmax_ttl = \"1s\"\ntimeout = \"2s\"\n\
         [discovery]\nmode = \"dns\"\n",
        names.address
    );
    let mut rig = Rig::with_pyos_at("pyos.test", &dns, &[]);
    rig.pyos = Some(Pod::start("pyos", "127.0.0.1", rig.pyos_port));
    let by_name =
        |name: &str| tokens::valid(&format!("{name}.desktop.abcdesktop.svc.cluster.local"));
    let (ida, bob) = (by_name("ida"), by_name("bob"));
    assert_eq!(rig.get("/API/x", None).text(), "pyos");
    let heart = Heart::of(&rig);
    let kept = rig.talk(0, &ida);
    names.mute(true);
    endure();
    // An old address of pyos is better than none; one of a pod may be another user's.
    assert_eq!(rig.get("/API/x", None).text(), "pyos");
    let (refused, took) = timed(|| rig.get("/filer", Some(&bob)));
    assert_eq!((refused.status, refused.error()), (504, "name_timeout".to_owned()));
    assert!(took < TOLD, "{took:?}");
    assert_eq!(rig.who(&tokens::valid(PODS[1])), "bob", "an address needs no name server");
    names.mute(false);
    let back = rig.welcome(1, || bob.clone());
    let kept = kept.finish();
    heart.rest();
    tell(
        "DNS away: a name refused after, works after, longest gap of a tunnel",
        (took, back, kept.gap),
    );
}

/// A gateway that watches pods at an API server that can fail.
fn watched() -> (FakeApi, Rig) {
    let api = FakeApi::start();
    let (host, port) = (api.address.ip(), api.address.port());
    let rig = Rig::start(&format!(
        "[discovery]\nmode = \"kubernetes\"\napi_host = \"{host}\"\napi_port = {port}\n\
         authority = \"\"\nwait = \"200ms\"\n"
    ));
    eventually("a watch", || (api.watches() > 0).then_some(()));
    (api, rig)
}

fn api_away(fault: Fault) {
    let (api, mut rig) = watched();
    api.set(Endpoint::ready("ida", PODS[0]));
    // From before the first look nobody knows anything.
    rig.welcome(0, || tokens::valid(PODS[0]));
    let ida = tokens::valid(PODS[0]);
    let heart = Heart::of(&rig);
    let kept = rig.talk(0, &ida);
    api.fail(fault);
    endure();
    if fault == Fault::Drop {
        let degraded = || rig.metric("deskgate_discovery_state{state=\"degraded\"}");
        eventually("it is told", || (degraded() > 0.0).then_some(()));
    }
    // Known pods stay open for new tokens, however long it lasts; unknown ones are not guessed.
    let new = rig.talk(0, &tokens::valid(PODS[0]));
    let unknown = rig.get("/filer", Some(&tokens::valid(PODS[1])));
    assert_eq!((unknown.status, unknown.error()), (404, "desktop_gone".to_owned()));
    api.set(Endpoint::ready("bob", PODS[1]));
    api.fail(Fault::None);
    let back = rig.welcome(1, || tokens::valid(PODS[1]));
    let synced = || rig.metric("deskgate_discovery_state{state=\"synced\"}");
    eventually("it is told", || (synced() > 0.0).then_some(()));
    let (kept, new) = (kept.finish(), new.finish());
    assert_eq!(rig.account(0)["messages"], kept.messages + new.messages);
    heart.rest();
    tell(
        "API server away: a new pod works after, longest gap of a tunnel",
        (fault, back, kept.gap),
    );
}

#[test]
fn while_the_api_server_is_away_known_desktops_go_on() {
    api_away(Fault::Drop);
}

#[test]
fn while_the_api_server_says_nothing_known_desktops_go_on() {
    api_away(Fault::Stall);
}

/// The process is alive, whatever becomes of all others; and ready, whatever becomes of
/// one desktop.
#[test]
fn probes_stay_good_while_everything_else_is_away() {
    let (api, mut rig) = watched();
    api.set(Endpoint::ready("ida", PODS[0]));
    api.set(Endpoint::ready("bob", PODS[1]));
    // Both are known before nothing more is told.
    rig.welcome(0, || tokens::valid(PODS[0]));
    rig.welcome(1, || tokens::valid(PODS[1]));
    let heart = Heart::of(&rig);
    api.fail(Fault::Hang);
    rig.pyos.take().unwrap().kill();
    rig.pods[1].take().unwrap().kill();
    endure();
    assert_eq!(rig.who(&tokens::valid(PODS[0])), "ida");
    assert_eq!(rig.get("/filer", Some(&tokens::valid(PODS[1]))).status, 502);
    let beat = heart.rest();
    tell("pyos, API server and a desktop away: slowest probe", beat);
}

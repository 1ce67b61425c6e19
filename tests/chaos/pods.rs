use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::rig::{Heart, NAMES, Pod, Rig, endure, length, skipped, tell, timed};
use super::talk::Talk;
use crate::support::fake_api::{Endpoint, FakeApi};
use crate::support::{PODS, SOON, eventually, tokens};

/// New requests work again after this time, and ends are told within it: sooner than a silent side
/// would be asked for the first time.
const SOON_ENOUGH: Duration = SOON;

#[test]
fn a_pod_that_is_killed_takes_its_own_tunnels_and_no_other() {
    let mut rig = Rig::start("");
    let (ida, bob) = (tokens::valid(PODS[0]), tokens::valid(PODS[1]));
    let heart = Heart::of(&rig);
    let (lost, kept) = (rig.talk(0, &ida), rig.talk(1, &bob));
    lost.more(20);
    rig.pods[0].take().unwrap().kill();
    let (account, told) = lost.ended();
    assert!(account.messages >= 20, "{account:?}");
    assert!(told < SOON_ENOUGH, "{told:?}");
    // Of this one: no other has ended yet.
    let reason = rig.gateway.logged("/websockify")["reason"].as_str().unwrap().to_owned();
    assert!(["pod_close", "pod_lost"].contains(&reason.as_str()), "{reason}");
    let refused = rig.get("/filer", Some(&ida));
    assert_eq!((refused.status, refused.error()), (502, "connect_failed".to_owned()));
    assert!(refused.header("retry-after").is_some());
    endure();
    rig.pods[0] = Some(Pod::start(NAMES[0], PODS[0], rig.port));
    let again = rig.welcome(0, || ida.clone());
    assert!(again < SOON_ENOUGH, "{again:?}");
    rig.talk(0, &ida).finish();
    let kept = kept.finish();
    assert_eq!(rig.account(1)["messages"], kept.messages);
    let beat = heart.rest();
    tell(
        "pod killed: its client told after, new requests after, longest gap of another",
        (told, again, kept.gap),
    );
    tell("pod killed: slowest probe", beat);
}

#[test]
fn a_pod_that_is_stopped_for_a_while_loses_no_byte() {
    // It is asked several times meanwhile whether it is there, and answers all at once.
    let mut rig = Rig::start(
        "[[route]]\nname = \"filer\"\ntimeouts = { read = \"500ms\" }\n\
         [[route]]\nname = \"websockify\"\ntunnel = { ping = \"10s\" }\n",
    );
    let (ida, bob) = (tokens::valid(PODS[0]), tokens::valid(PODS[1]));
    let heart = Heart::of(&rig);
    let (paused, kept) = (rig.talk(0, &ida), rig.talk(1, &bob));
    paused.more(20);
    let pod = rig.pods[0].as_ref().unwrap();
    pod.signal("STOP");
    let late = rig.get("/filer", Some(&ida));
    assert_eq!((late.status, late.error()), (504, "response_timeout".to_owned()));
    assert!(late.header("retry-after").is_some());
    endure();
    pod.signal("CONT");
    let ((), on) = timed(|| paused.more(1));
    assert!(on < SOON_ENOUGH, "{on:?}");
    assert!(rig.welcome(0, || ida.clone()) < SOON_ENOUGH);
    let (paused, kept) = (paused.finish(), kept.finish());
    // What came before the pod stopped may have been read a little later.
    assert!(paused.gap >= length() / 2, "{paused:?}");
    assert_eq!(rig.account(0)["messages"], paused.messages);
    assert_eq!(rig.account(1)["messages"], kept.messages);
    heart.rest();
    tell("pod stopped: its tunnel goes on after, longest gap of another", (on, kept.gap));
}

#[test]
fn a_pod_that_stays_stopped_is_missed_and_its_client_told() {
    // Far longer than somebody who is well may be held up.
    let mut rig = Rig::start("[[route]]\nname = \"websockify\"\ntunnel = { ping = \"2s\" }\n");
    let (ida, bob) = (tokens::valid(PODS[0]), tokens::valid(PODS[1]));
    let (lost, kept) = (rig.talk(0, &ida), rig.talk(1, &bob));
    lost.more(20);
    // Only a pod that has answered a ping can be missed: some never do.
    lost.quiet(true);
    eventually("a ping", || (rig.account(0)["pings"].as_u64() > Some(0)).then_some(()));
    lost.quiet(false);
    lost.more(1);
    rig.pods[0].as_ref().unwrap().signal("STOP");
    let (_, told) = lost.ended();
    // Three intervals of silence.
    assert!(told < Duration::from_secs(6) + SOON_ENOUGH, "{told:?}");
    assert_eq!(rig.gateway.logged("/websockify")["reason"], "pod_lost");
    kept.finish();
    tell("pod stopped for good: its client told after", told);
}

/// A pod behind a cable of its own, which can swallow everything: no RST, no ICMP.
struct Far {
    namespace: String,
    here: String,
    there: String,
}

impl Far {
    /// None if this process may not make namespaces.
    fn plugged() -> Option<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        // One of the small networks that are kept for measurements (RFC 2544).
        let net = (pid * 7 + u32::from(next)) % (1 << 14) * 4 + (19 << 16);
        let address = |host: u32| {
            let [_, b, c, d] = (net + host).to_be_bytes();
            format!("198.{b}.{c}.{d}")
        };
        let namespace = format!("dgc{pid}-{next}");
        let far = Self { here: address(1), there: address(2), namespace };
        let Self { namespace, here, there } = &far;
        let (near, end) = (format!("dg{pid}{next}a"), format!("dg{pid}{next}b"));
        if !ip(&format!("netns add {namespace}")) {
            skipped("a pod that is cut off needs root, and `ip netns`");
            return None;
        }
        for step in [
            format!("link add {near} type veth peer name {end} netns {namespace}"),
            format!("address add {here}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {namespace} address add {there}/30 dev {end}"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} link set {end} up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        Some(far)
    }

    fn swallow(&self, verb: &str) {
        let Self { namespace, here, .. } = self;
        assert!(ip(&format!("-n {namespace} route {verb} blackhole {here}/32")));
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Its end of the cable goes with it, and the other end with that.
        ip(&format!("netns delete {}", self.namespace));
    }
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_pod_that_is_cut_off_for_a_while_loses_no_byte_and_delays_no_other() {
    let Some(far) = Far::plugged() else { return };
    // Longer than the fault: what is sent meanwhile stays unacknowledged.
    let patient = format!(
        "[tunnel]\nuser_timeout = \"{}s\"\n\
         [[route]]\nname = \"filer\"\ntimeouts = {{ read = \"1s\" }}\n",
        length().as_secs() * 3 + 30
    );
    let mut rig = Rig::start(&patient);
    let mut pod = Pod::start_in(&far.namespace, "far", &far.there, rig.port);
    let (token, bob) = (tokens::valid(&far.there), tokens::valid(PODS[1]));
    let works = || (rig.get("/filer", Some(&token)).text() == "far").then_some(());
    eventually("the pod", works);
    let heart = Heart::of(&rig);
    let address = rig.gateway.address();
    let (cut, kept) = (Talk::start(address, &token, "far"), rig.talk(1, &bob));
    cut.more(20);
    far.swallow("add");
    // One or two may go out on connections that are still there.
    let took = eventually("no connection", || {
        let (refused, took) = timed(|| rig.get("/filer?cut", Some(&token)));
        assert_eq!(refused.status, 504, "{refused:?}");
        (refused.error() == "connect_timeout").then_some(took)
    });
    assert!(took < SOON_ENOUGH, "{took:?}");
    endure();
    far.swallow("delete");
    let ((), on) = timed(|| cut.more(1));
    let again = timed(|| eventually("the pod", works)).1;
    let (cut, kept) = (cut.finish(), kept.finish());
    assert!(cut.gap >= length(), "{cut:?}");
    assert_eq!(pod.account()["messages"], cut.messages);
    assert_eq!(rig.account(1)["messages"], kept.messages);
    heart.rest();
    tell("pod cut off: a new request refused after", took);
    tell("pod cut off: its tunnel goes on after, new requests after", (on, again));
}

/// A pod of the service at the first address, and a user of its who talks to it.
struct Owner {
    name: &'static str,
    pod: Pod,
}

/// Pods that own the first address one after the other, and the API that tells of them.
struct Heirs {
    api: FakeApi,
    rig: Rig,
    /// Tokens of all users so far, with the names of their pods.
    former: Vec<(String, &'static str)>,
}

impl Heirs {
    fn start() -> Self {
        let api = FakeApi::start();
        let (host, port) = (api.address.ip(), api.address.port());
        let mut rig = Rig::start(&format!(
            "[discovery]\nmode = \"kubernetes\"\napi_host = \"{host}\"\napi_port = {port}\n\
             authority = \"\"\nwait = \"100ms\"\n"
        ));
        eventually("a watch", || (api.watches() > 0).then_some(()));
        rig.pods[0].take().unwrap().kill();
        Self { api, rig, former: Vec::new() }
    }

    /// Whom a new token reaches, as soon as it reaches somebody.
    fn welcome(&self, name: &str) -> String {
        eventually("a new user's token works", || {
            let token = tokens::valid(PODS[0]);
            let answer = self.rig.get("/filer?new", Some(&token));
            (answer.status == 200).then(|| assert_eq!(answer.text(), name))?;
            Some(token)
        })
    }

    /// Former users go on trying.
    fn try_former(&self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            for (token, name) in &self.former {
                let answer = self.rig.get("/filer?former", Some(token));
                assert!(answer.status != 200 || answer.text() == *name, "{name}: {answer:?}");
            }
        }
    }

    /// The pod ends, and its address goes to the next one while everybody goes on.
    fn succeed(&mut self, owner: Owner, next: &'static str) -> Owner {
        let Owner { name, pod } = owner;
        let token = self.welcome(name);
        let talk = Talk::start(self.rig.gateway.address(), &token, name);
        talk.more(5);
        self.former.push((token, name));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let tries = scope.spawn(|| self.try_former(&over));
            self.api.set(Endpoint::terminating(name, PODS[0]));
            self.api.remove(name);
            self.api.set(Endpoint::ready(next, PODS[0]));
            let (account, told) = talk.ended();
            assert_eq!(account.end.unwrap().0, 4404, "{name}");
            assert!(told < SOON_ENOUGH, "{told:?}");
            pod.kill();
            let pod = Pod::start(next, PODS[0], self.rig.port);
            self.welcome(next);
            over.store(true, Ordering::SeqCst);
            tries.join().unwrap();
            Owner { name: next, pod }
        })
    }
}

/// No byte reaches the next owner of an address.
#[test]
fn pods_that_change_places_again_and_again_never_get_each_other_s_users() {
    let mut heirs = Heirs::start();
    heirs.api.set(Endpoint::ready("ida", PODS[0]));
    let pod = Pod::start("ida", PODS[0], heirs.rig.port);
    let mut owner = Owner { name: "ida", pod };
    for next in ["bob", "eve", "joe", "ann"] {
        owner = heirs.succeed(owner, next);
    }
    // Nobody's messages but those of its own users came to the last one: it had no tunnel at all.
    let account = owner.pod.account();
    assert_eq!((&account["tunnels"], &account["bad"]), (&json!(0), &json!([])));
    let reused = eventually("former users are refused", || {
        let tries = heirs.rig.gateway.access("/filer?former");
        let reused = tries.iter().filter(|line| line["status"] == 401).count();
        (reused > heirs.former.len()).then_some(reused)
    });
    tell("pod replaced: refused tries of former users", reused);
}

use std::path::PathBuf;

use tempfile::TempDir;

use super::rig::{Heart, Rig, skipped, tell};
use crate::support::fake_api::{Endpoint, FakeApi};
use crate::support::{PODS, eventually, tokens};

/// The gateway's clock, which `libfaketime` takes from a file. Its monotonic one goes on as it is.
struct Clock {
    library: String,
    folder: TempDir,
}

impl Clock {
    /// None without the library (Debian's `libfaketime`, which scripts/setup installs).
    fn new() -> Option<Self> {
        let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|arch| format!("/usr/lib/{arch}/faketime/libfaketimeMT.so.1"))
            .into_iter()
            .find(|path| PathBuf::from(path).exists());
        let Some(library) = found else {
            skipped("a clock that is set needs libfaketime");
            return None;
        };
        let clock = Self { library, folder: TempDir::new().unwrap() };
        clock.set(0);
        Some(clock)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Sets it so many seconds away from the true time.
    fn set(&self, seconds: i64) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.path().to_str().unwrap().to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn rig(&self, toml: &str) -> Rig {
        let environment = self.environment();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Rig::with_pyos_at("127.0.0.1", toml, &environment)
    }
}

/// As pyos makes it whose clock is so many seconds away.
fn issued(offset: i64, pod: &str) -> String {
    let now = tokens::now().checked_add_signed(offset).unwrap();
    tokens::minter(tokens::keys()).mint(pod, now, tokens::TTL).unwrap()
}

const HOUR: i64 = 3600;

#[test]
fn a_clock_that_is_set_cuts_no_tunnel_and_new_tokens_open_their_pods() {
    let Some(clock) = Clock::new() else { return };
    let api = FakeApi::start();
    let (host, port) = (api.address.ip(), api.address.port());
    let mut rig = clock.rig(&format!(
        "[discovery]\nmode = \"kubernetes\"\napi_host = \"{host}\"\napi_port = {port}\n\
         authority = \"\"\nwait = \"200ms\"\n"
    ));
    eventually("a watch", || (api.watches() > 0).then_some(()));
    api.set(Endpoint::ready("ida", PODS[0]));
    api.set(Endpoint::ready("bob", PODS[1]));
    rig.welcome(0, || issued(0, PODS[0]));
    rig.welcome(1, || issued(0, PODS[1]));
    let old = issued(0, PODS[0]);
    assert_eq!(rig.who(&old), "ida");
    let heart = Heart::of(&rig);
    let kept = rig.talk(0, &old);
    for offset in [HOUR, -HOUR, 0] {
        let before = kept.returned();
        clock.set(offset);
        let at = |pod: usize| move || issued(offset, PODS[pod]);
        let back = rig.welcome(0, at(0)).max(rig.welcome(1, at(1)));
        if offset == HOUR {
            // By this clock it is long over. It was verified before, and is judged again.
            let refused = rig.get("/filer?late", Some(&old));
            assert_eq!(refused.status, 401);
            assert_eq!(rig.gateway.logged("/filer?late")["reason"], "expired");
            rig.gateway.wait_for_line("the clock was set");
        }
        kept.more(20);
        assert!(kept.returned() > before);
        tell("clock set by seconds: a new token works after", (offset, back));
    }
    let kept = kept.finish();
    assert_eq!(rig.account(0)["messages"], kept.messages);
    heart.rest();
    tell("clock set: longest gap of a tunnel", kept.gap);
}

#[test]
fn a_tunnel_that_ends_with_its_token_is_not_ended_by_a_clock_that_is_set() {
    let Some(clock) = Clock::new() else { return };
    let rig = clock.rig(
        "[[route]]\nname = \"websockify\"\ntunnel = { lifetime = \"token\", grace = \"1s\" }\n",
    );
    let kept = rig.talk(0, &issued(0, PODS[0]));
    kept.more(5);
    clock.set(HOUR);
    rig.welcome(1, || issued(HOUR, PODS[1]));
    kept.more(50);
    kept.finish();
}

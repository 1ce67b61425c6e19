//! Tokens that operators have withdrawn: single ones, and all that were issued for a pod so far.
//!
//! The lists outlive every reload, and end with the process. They are read by every request and hardly
//! ever written, so a writer copies them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Desktop, Fingerprint};

/// Most tokens, and most pods, that are remembered; the oldest are forgotten. A token's end cannot be
/// told from its fingerprint, so nothing else ends an entry.
pub const MOST: usize = 10_000;

/// What was withdrawn. Clones share everything.
#[derive(Clone, Debug)]
pub struct Revoked(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Tokens may be issued by a clock that is so much ahead of ours.
    skew: Duration,
    /// Whether there is anything to look for.
    any: AtomicBool,
    lists: ArcSwap<Lists>,
}

#[derive(Clone, Debug, Default)]
struct Lists {
    tokens: HashSet<Fingerprint>,
    /// When all tokens were withdrawn.
    everything: Option<Duration>,
    /// When all tokens of a pod were withdrawn, by its label.
    pods: HashMap<Arc<str>, Duration>,
    /// In the order in which they came.
    token_order: VecDeque<Fingerprint>,
    pod_order: VecDeque<Arc<str>>,
}

impl Revoked {
    /// Nothing is withdrawn yet. Tokens are issued by a clock that is at most `skew` ahead of ours.
    #[must_use]
    pub fn new(skew: Duration) -> Self {
        let lists = ArcSwap::from_pointee(Lists::default());
        Self(Arc::new(Shared { skew, any: AtomicBool::new(false), lists }))
    }

    /// Withdraws the token with this fingerprint.
    pub fn token(&self, token: Fingerprint) {
        self.change(|lists| {
            if lists.tokens.insert(token) {
                lists.token_order.push_back(token);
            }
            if lists.token_order.len() > MOST
                && let Some(oldest) = lists.token_order.pop_front()
            {
                lists.tokens.remove(&oldest);
            }
        });
    }

    /// Withdraws every token of this pod that was issued until `now`, since the Unix epoch.
    pub fn pod(&self, label: &str, now: Duration) {
        let label: Arc<str> = label.into();
        self.change(|lists| {
            if lists.pods.insert(Arc::clone(&label), now).is_some() {
                lists.pod_order.retain(|known| *known != label);
            }
            lists.pod_order.push_back(Arc::clone(&label));
            if lists.pod_order.len() > MOST
                && let Some(oldest) = lists.pod_order.pop_front()
            {
                lists.pods.remove(&oldest);
            }
        });
    }

    /// Withdraws every token that was issued until `now`, since the Unix epoch.
    pub fn everything(&self, now: Duration) {
        self.change(|lists| lists.everything = Some(now));
    }

    /// Whether this token was withdrawn, by itself or with all those of the pod that it means, or with
    /// all there were. One that does not tell when it was issued counts as old. A pod that was withdrawn
    /// before its name was known was so by its fingerprint.
    #[must_use]
    pub fn holds(&self, desktop: &Desktop, pod: &str) -> bool {
        if !self.0.any.load(Ordering::Acquire) {
            return false;
        }
        let lists = self.0.lists.load();
        let issued = Duration::from_secs(desktop.issued.unwrap_or_default());
        let at = |label: &str| lists.pods.get(label).copied();
        let before = (!lists.pods.is_empty()).then(|| at(&desktop.target.label())).flatten();
        let withdrawn = [lists.everything, at(pod), before];
        lists.tokens.contains(&desktop.fingerprint)
            || withdrawn.iter().flatten().any(|at| issued <= at.saturating_add(self.0.skew))
    }

    /// How many tokens and pods are remembered.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        let lists = self.0.lists.load();
        (lists.tokens.len(), lists.pods.len())
    }

    fn change(&self, change: impl Fn(&mut Lists)) {
        self.0.lists.rcu(|lists| {
            let mut lists = Lists::clone(lists);
            change(&mut lists);
            lists
        });
        self.0.any.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{TargetPolicy, Token};

    const SKEW: Duration = Duration::from_secs(1);

    fn desktop(token: &str, issued: Option<u64>) -> Desktop {
        let policy = TargetPolicy::new(None, vec!["10.0.0.0/8".parse().unwrap()]).unwrap();
        Desktop {
            target: policy.confine(b"10.0.0.1").unwrap(),
            expires: 2_000,
            issued,
            fingerprint: Token::new(token).unwrap().fingerprint(),
        }
    }

    #[test]
    fn a_token_is_withdrawn_by_itself() {
        let revoked = Revoked::new(SKEW);
        let (one, two) = (desktop("one", Some(1_000)), desktop("two", Some(1_000)));
        assert!(!revoked.holds(&one, "pod"));
        revoked.token(one.fingerprint);
        assert!(revoked.holds(&one, "pod") && !revoked.holds(&two, "pod"));
    }

    #[test]
    fn a_pods_tokens_are_withdrawn_up_to_a_moment() {
        let revoked = Revoked::new(SKEW);
        revoked.pod("pod", Duration::from_secs(1_000));
        for (issued, held) in [
            (None, true),
            (Some(1), true),
            (Some(1_000), true),
            (Some(1_001), true),
            (Some(1_002), false),
        ] {
            let desktop = desktop("one", issued);
            assert_eq!(revoked.holds(&desktop, "pod"), held, "{issued:?}");
            assert!(!revoked.holds(&desktop, "other"));
        }
        revoked.pod("pod", Duration::from_secs(1_500));
        assert!(revoked.holds(&desktop("one", Some(1_400)), "pod"));
        assert_eq!(revoked.len(), (0, 1));
    }

    #[test]
    fn a_pod_that_was_withdrawn_by_its_fingerprint_stays_so_once_its_name_is_known() {
        let revoked = Revoked::new(SKEW);
        let (early, late) = (desktop("one", Some(1_000)), desktop("one", Some(1_002)));
        revoked.pod(&early.target.label(), Duration::from_secs(1_000));
        assert!(revoked.holds(&early, "pod") && !revoked.holds(&late, "pod"));
    }

    #[test]
    fn the_issuers_clock_may_be_ahead() {
        let revoked = Revoked::new(Duration::from_secs(60));
        revoked.everything(Duration::from_secs(1_000));
        assert!(revoked.holds(&desktop("one", Some(1_060)), "pod"));
        assert!(!revoked.holds(&desktop("one", Some(1_061)), "pod"));
    }

    #[test]
    fn all_tokens_are_withdrawn_up_to_a_moment() {
        let revoked = Revoked::new(SKEW);
        revoked.pod("pod", Duration::from_secs(500));
        revoked.everything(Duration::from_secs(1_000));
        for (issued, held) in [(None, true), (Some(1_001), true), (Some(1_002), false)] {
            for pod in ["pod", "other"] {
                assert_eq!(revoked.holds(&desktop("one", issued), pod), held, "{issued:?}");
            }
        }
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let revoked = Revoked::new(SKEW);
        let lists = |count: usize| {
            let mut lists = Lists::default();
            for number in 0..count {
                let token = desktop(&number.to_string(), None).fingerprint;
                lists.tokens.insert(token);
                lists.token_order.push_back(token);
            }
            lists
        };
        revoked.0.lists.store(Arc::new(lists(MOST)));
        revoked.token(desktop("new", None).fingerprint);
        assert_eq!(revoked.len().0, MOST);
        assert!(revoked.holds(&desktop("new", None), "pod"));
        assert!(
            !revoked.holds(&desktop("0", None), "pod") && revoked.holds(&desktop("1", None), "pod")
        );
    }

    #[test]
    fn a_pod_that_is_withdrawn_again_is_remembered_from_then() {
        let revoked = Revoked::new(SKEW);
        let at = Duration::from_secs(1_000);
        let mut lists = Lists::default();
        for number in 0..MOST {
            let label: Arc<str> = number.to_string().into();
            lists.pods.insert(Arc::clone(&label), at);
            lists.pod_order.push_back(label);
        }
        revoked.0.lists.store(Arc::new(lists));
        revoked.pod("0", at);
        revoked.pod("new", at);
        assert_eq!(revoked.len().1, MOST);
        let one = desktop("one", Some(1_000));
        assert!(revoked.holds(&one, "0") && !revoked.holds(&one, "1"));
    }
}

//! Token to target: which desktop, if any, the bearer of a token may reach.
//!
//! It may assume nothing about a token, and everything about its keys and its policy: those were
//! checked when they were loaded. It reads no file, no environment and no clock; keys arrive as
//! bytes and the time as [`Now`].
//!
//! The steps, in the only order the types allow:
//!
//! ```text
//! token::locate -> jwt::Shaped -> jwt::Rs256 -> jwt::SignedClaims -> jwt::VerifiedClaims
//!                                                  seal::open -> TargetPolicy::confine -> Desktop
//! ```

pub mod cache;
mod error;
mod explain;
pub mod jwt;
pub mod keys;
pub mod mint;
mod random;
pub mod revoked;
mod seal;
pub mod target;
pub mod token;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use cache::CacheLimits;
pub use error::{Error, Flaw};
pub use explain::Step;
pub use jwt::install_provider;
pub use keys::{KeyError, KeyFacts, KeyFault, KeyFile, PayloadKeys, SigningKeys};
pub use target::{DesktopAddress, DesktopName, PolicyError, Target, TargetPolicy};
pub use token::{Fingerprint, Token};

use cache::{Cache, Moment};
use jwt::{Shaped, VerifiedClaims};
use keys::PayloadKey;

/// One moment on both clocks.
///
/// The wall clock decides whether a token has expired; the monotonic one bounds how long a cached
/// answer is trusted, so that a wall clock set back cannot revive it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since the Unix epoch.
    pub wall: Duration,
    /// The same moment on the monotonic clock.
    pub mono: Instant,
}

/// A user's pod, as an authentic token named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desktop {
    /// The one host this token opens.
    pub target: Target,
    /// `exp` (RFC 7519 section 4.1.4): Unix time in whole seconds, rounded down.
    pub expires: u64,
    /// `nfb`, pyos's spelling of its issue time, in Unix seconds. Where pods are watched it decides
    /// whether the token's address was this pod's; the nginx/Lua incumbent ignores it.
    pub issued: Option<u64>,
    /// Names the token in logs without revealing it.
    pub fingerprint: Fingerprint,
}

/// Turns tokens into desktops, and remembers the answers for a while.
pub struct Authenticator {
    keys: ArcSwap<Keys>,
    generations: AtomicU64,
    policy: Arc<TargetPolicy>,
    cache: Cache,
}

impl Authenticator {
    /// Joins the keys, the policy and an empty cache; also installs the signature provider.
    #[must_use]
    pub fn new(
        signing: SigningKeys,
        payload: PayloadKeys,
        policy: TargetPolicy,
        limits: CacheLimits,
    ) -> Self {
        install_provider();
        Self {
            keys: ArcSwap::from_pointee(Keys { signing, payload, generation: 0 }),
            generations: AtomicU64::new(0),
            policy: Arc::new(policy),
            cache: Cache::new(limits),
        }
    }

    /// Finds the desktop a token opens: from the cache, otherwise by verifying its signature and
    /// times, opening its seal and confining the target.
    ///
    /// Concurrent calls with the same token compute the answer once. The computation runs on the
    /// calling thread: about 0.25 ms of CPU with 2048-bit keys, 1.5 ms with 4096-bit ones.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; all of them deserve the same answer, 401.
    pub async fn authenticate(&self, token: Token<'_>, now: Now) -> Result<Arc<Desktop>, Error> {
        self.authenticate_by(token, now, ready(Ok(())), |sealed| ready(Ok(sealed.open()))).await
    }

    /// The same where the caller decides when a signature is checked, for which `turn` is waited and held,
    /// and on which thread a seal is opened, and whether: an error of `turn` or `open` itself is no answer
    /// about the token and is not remembered.
    ///
    /// # Errors
    ///
    /// Any [`Error`], or that of `turn` or `open`.
    pub async fn authenticate_by<E, F, T>(
        &self,
        token: Token<'_>,
        now: Now,
        turn: impl Future<Output = Result<T, E>>,
        open: impl FnOnce(Sealed) -> F,
    ) -> Result<Arc<Desktop>, E>
    where
        E: From<Error>,
        F: Future<Output = Result<Result<Arc<Desktop>, Error>, E>>,
    {
        let keys = self.keys.load_full();
        let moment = Moment { now, generation: keys.generation };
        if let Some(desktop) = self.cache.find(token.digest(), moment) {
            return Ok(desktop);
        }
        // Before anything is remembered: it keeps garbage out.
        let shaped = Shaped::new(token)?;
        let compute = move || async move {
            let turn = turn.await?;
            let verified = shaped.header().and_then(|token| token.verify(&keys.signing));
            let claims = match verified.and_then(|claims| claims.current(now.wall)) {
                Ok(claims) => claims,
                Err(error) => return Ok(Err(error)),
            };
            drop(turn);
            let (keys, policy) = (Arc::clone(&keys), Arc::clone(&self.policy));
            open(Sealed { keys, policy, claims, fingerprint: token.fingerprint() }).await
        };
        // Boxed: what is rare shall not be part of every request's future.
        Box::pin(self.cache.find_or_compute(token.digest(), moment, compute)).await
    }

    /// Takes new keys into use and forgets every answer the old ones gave.
    ///
    /// Requests already under way finish with the keys they began with.
    pub fn replace_keys(&self, signing: SigningKeys, payload: PayloadKeys) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.keys.store(Arc::new(Keys { signing, payload, generation }));
        // The generation alone makes old entries unusable; clearing returns their memory.
        self.cache.clear();
    }

    /// Whether a desktop may have this address.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        self.policy.permits(address)
    }

    /// Goes on counting where another authenticator stopped, for the keys that both have.
    pub fn count_on(&self, other: &Self) {
        let (keys, others) = (self.keys.load(), other.keys.load());
        for facts in keys.signing.counted().chain(keys.payload.counted()) {
            let mut known = others.signing.counted().chain(others.payload.counted());
            if let Some(known) = known.find(|known| known.is_of(facts)) {
                facts.count_on(known);
            }
        }
    }

    /// What may be told of the keys in use.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyFacts> {
        let keys = self.keys.load();
        keys.signing.facts().chain(keys.payload.facts()).collect()
    }

    /// Tokens remembered, look-ups that found one, and look-ups that did not.
    #[must_use]
    pub fn cache_figures(&self) -> (u64, u64, u64) {
        self.cache.figures()
    }

    /// What the keys in use are, one line per key, for logs: sizes, forms and public digests.
    #[must_use]
    pub fn describe_keys(&self) -> Vec<String> {
        let keys = self.keys.load();
        let mut lines = keys.signing.describe();
        lines.extend(keys.payload.describe());
        lines
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("generation", &self.keys.load().generation)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Both kinds of keys, replaced together.
struct Keys {
    signing: SigningKeys,
    payload: PayloadKeys,
    /// Counts replacements; cached answers carry the generation that produced them.
    generation: u64,
}

/// An authentic token's claims, and what opens their seal: the last and costly step, which may be taken
/// on another thread.
pub struct Sealed {
    keys: Arc<Keys>,
    policy: Arc<TargetPolicy>,
    claims: VerifiedClaims,
    fingerprint: Fingerprint,
}

impl Sealed {
    /// Whether opening it takes long enough to be felt by others on the same thread: a tenth of a
    /// millisecond to ten, with all keys but public ones of 1024 bits.
    #[must_use]
    pub fn is_costly(&self) -> bool {
        self.keys.payload.iter().any(PayloadKey::is_costly)
    }

    /// Opens the seal and confines the target.
    ///
    /// # Errors
    ///
    /// [`Error::BadSeal`] or [`Error::OutsidePolicy`].
    pub fn open(&self) -> Result<Arc<Desktop>, Error> {
        let Self { keys, policy, claims, fingerprint } = self;
        let target = seal::open(&keys.payload, claims, |text| policy.confine(text))?;
        let (expires, issued) = (claims.expires(), claims.issued());
        Ok(Arc::new(Desktop { target, expires, issued, fingerprint: *fingerprint }))
    }
}

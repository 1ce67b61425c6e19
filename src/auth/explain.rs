//! A token's way through the checks, told step by step to an operator.
//!
//! Offline use only (`deskgate token explain`): it reports the sealed target, never the token.

use std::time::Duration;

use super::jwt::Shaped;
use super::{Authenticator, Error, Now, Target, Token, seal, token};

/// One check and what it found.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// The check: `shape`, `header`, `signature`, `times`, `seal` or `target`.
    pub name: &'static str,
    /// What it found, without secrets.
    pub outcome: Result<String, Error>,
    /// The sealed target, where this step knows it. Secret from everyone but the operator.
    pub target: Option<String>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("outcome", &self.outcome)
            .field("target", &self.target.as_ref().map(|_| "[redacted]"))
            .finish()
    }
}

impl Authenticator {
    /// Checks a token as [`authenticate`](Self::authenticate) does, without the cache, and reports
    /// every step up to the first that fails.
    ///
    /// White space around the text and a leading `Bearer ` are removed.
    #[must_use]
    pub fn explain(&self, text: &str, now: Now) -> Vec<Step> {
        let mut steps = Vec::with_capacity(6);
        // The last step's error is already in the list.
        let _already_told = self.walk(text, now, &mut steps);
        steps
    }

    fn walk(&self, text: &str, now: Now, steps: &mut Vec<Step>) -> Result<(), Error> {
        let keys = self.keys.load_full();

        let token = Token::new(token::without_scheme(text.trim()));
        let shaped = token.and_then(|token| Ok((token, Shaped::new(token)?)));
        let (_, shaped) = tell(steps, "shape", shaped, |(token, _)| {
            format!("{} bytes, sha256:{}", token.len(), token.fingerprint())
        })?;

        let rs256 = tell(steps, "header", shaped.header(), |_| "RS256".into())?;

        let signed = rs256.verify(&keys.signing);
        let signed = tell(steps, "signature", signed, |_| "verified by a signing key".into())?;

        let current = signed.current(now.wall);
        let claims = tell(steps, "times", current, |claims| {
            let left = Duration::from_secs(claims.expires()).saturating_sub(now.wall);
            format!("expires in {} s", left.as_secs())
        })?;

        let text = seal::open(&keys.payload, &claims, |text| {
            Ok(String::from_utf8_lossy(text).into_owned())
        });
        let text = tell(steps, "seal", text, |_| "opened by a payload key".into())?;
        reveal(steps, text);

        let target = seal::open(&keys.payload, &claims, |text| self.policy.confine(text));
        let target = tell(steps, "target", target, |target| match target {
            Target::Name(_) => "a name in the desktop domain".into(),
            Target::Address(_) => "an address in a permitted network".into(),
        })?;
        reveal(
            steps,
            match target {
                Target::Name(name) => name.as_str().to_owned(),
                Target::Address(address) => address.ip().to_string(),
            },
        );
        Ok(())
    }
}

/// Appends a step and hands its value on.
fn tell<T>(
    steps: &mut Vec<Step>,
    name: &'static str,
    result: Result<T, Error>,
    detail: impl FnOnce(&T) -> String,
) -> Result<T, Error> {
    steps.push(Step {
        name,
        outcome: result.as_ref().map(detail).map_err(|error| *error),
        target: None,
    });
    result
}

/// Adds the target to the step just told.
fn reveal(steps: &mut [Step], target: String) {
    if let Some(step) = steps.last_mut() {
        step.target = Some(target);
    }
}

//! Examines an installation from where it runs, and names a remedy for what is wrong.
//!
//! Asks only what anyone may ask: files, names, `GET` requests without a token, and the list that the
//! gateway itself reads. Findings hold no secret and no address of a pod. The checks run side by side,
//! each within a limit.

mod ask;
mod cluster;
mod edge;
mod files;
mod finding;
mod front;
mod listening;
mod services;
mod skew;
mod trust;

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::config::env::Environment;
use crate::config::{Fault, Layered};
use crate::server::KeyTexts;
use crate::upstream::Error as NameError;
use crate::upstream::resolver::{Resolver, Staleness};
pub use finding::{Code, Finding, Report, Status};

/// No check waits longer than this many limits, one after the other.
const STEPS: u32 = 5;

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// What to examine besides the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where users come in: `https://host[:port]`.
    pub url: Option<http::Uri>,
    /// Name of the edge's Service; none is that of the profile.
    pub service: Option<String>,
    /// Longest wait of each step.
    pub timeout: Duration,
    /// What is wrong with files that are not read here.
    pub faults: Vec<Fault>,
}

/// What the checks share.
struct World {
    layered: Layered,
    options: Options,
    /// None where its settings cannot be used.
    resolver: Option<Resolver>,
    texts: KeyTexts,
    /// This pod's address, where it is told.
    pod_ip: Option<IpAddr>,
    /// Authorities for the public address, where the environment names them.
    authorities: Option<PathBuf>,
}

impl World {
    /// The addresses of a host, or why there are none.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let resolver = self.resolver.as_ref().ok_or(NameError::NameFailed)?;
        let asked = resolver.resolve(host, Staleness::Refused);
        let found = timeout(self.options.timeout, asked).await;
        Ok(found.unwrap_or(Err(NameError::NameTimeout))?.to_vec())
    }

    /// The places to try for a host.
    async fn places(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
        let found = self.resolve(host).await?;
        let places = found.into_iter().take(MAX_ADDRESSES);
        Ok(places.map(|address| SocketAddr::new(address, port)).collect())
    }
}

/// Examines everything. Ends within a few of the options' limits.
pub async fn examine(layered: Layered, env: &dyn Environment, mut options: Options) -> Report {
    let (texts, mut unread) = KeyTexts::read_what_can_be(&layered);
    unread.append(&mut options.faults);
    let (mut findings, valid) = files::examine(&layered, &texts, &unread);
    let mut checks = Checks::new(options.timeout.saturating_mul(STEPS));
    let world = Arc::new(World {
        resolver: Resolver::new(&layered.config.dns).ok(),
        pod_ip: env.var("POD_IP").and_then(|text| text.parse().ok()),
        authorities: env.var("SSL_CERT_FILE").map(PathBuf::from),
        layered,
        options,
        texts,
    });
    for name in services::used(&world) {
        let check = services::examine(Arc::clone(&world), name.clone());
        checks.spawn(services::codes(&name), Some(name), check);
    }
    for place in listening::places(&world) {
        let check = listening::examine(Arc::clone(&world), place);
        checks.spawn(&[finding::LISTENING], Some(place.address.to_string()), check);
    }
    checks.spawn(&cluster::CODES, None, cluster::examine(Arc::clone(&world)));
    checks.spawn(&edge::CODES, None, edge::examine(Arc::clone(&world)));
    checks.spawn(&front::CODES, None, front::examine(Arc::clone(&world)));
    findings.extend(checks.findings().await);
    Report::new(findings, valid)
}

/// Why a check found nothing, and what to do.
type Loss = (&'static str, &'static str);

const LATE: Loss =
    ("the check did not end in time", "look at what it asks, or give it more time (--timeout)");

const BROKEN: Loss =
    ("the check broke off", "report it, with what was written beside this: deskgate is at fault");

/// Checks that run side by side.
struct Checks {
    /// Longest time of each.
    limit: Duration,
    running: JoinSet<Result<Vec<Finding>, Elapsed>>,
    scopes: HashMap<Id, Scope>,
}

impl Checks {
    fn new(limit: Duration) -> Self {
        Self { limit, running: JoinSet::new(), scopes: HashMap::new() }
    }

    /// Runs one beside the others.
    fn spawn(
        &mut self,
        codes: &'static [Code],
        subject: Option<String>,
        check: impl Future<Output = Vec<Finding>> + Send + 'static,
    ) {
        let task = self.running.spawn(timeout(self.limit, Box::pin(check)));
        self.scopes.insert(task.id(), Scope { codes, subject });
    }

    /// What all of them found. One that does not end, or breaks off, is a finding, too.
    async fn findings(mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        while let Some(ended) = self.running.join_next_with_id().await {
            let (id, loss) = match ended {
                Ok((_, Ok(found))) => {
                    findings.extend(found);
                    continue;
                }
                Ok((id, Err(_))) => (id, LATE),
                Err(error) => (error.id(), BROKEN),
            };
            findings.extend(self.scopes.remove(&id).into_iter().flat_map(|scope| scope.lost(loss)));
        }
        findings
    }
}

/// What a check is to find.
struct Scope {
    codes: &'static [Code],
    /// Which one, where there are several checks of a kind.
    subject: Option<String>,
}

impl Scope {
    /// The findings where it found nothing: the first tells why.
    fn lost(self, (why, remedy): Loss) -> Vec<Finding> {
        let Some((first, rest)) = self.codes.split_first() else { return Vec::new() };
        let told = Finding { subject: self.subject, ..Finding::problem(*first, why, remedy) };
        let see = format!("{why}: see {}", first.id);
        let rest = rest.iter().map(|code| Finding::skipped(*code, see.clone()));
        std::iter::once(told).chain(rest).collect()
    }
}

/// The report where the configuration cannot even be read.
#[must_use]
pub fn unreadable(faults: &[Fault]) -> Report {
    Report::new(vec![files::invalid(faults)], false)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn broken() -> Vec<Finding> {
        panic!("a check breaks off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_finds_nothing_is_told_by_all_its_numbers() {
        let mut checks = Checks::new(Duration::from_secs(1));
        checks.spawn(&cluster::CODES, None, std::future::pending());
        checks.spawn(services::codes("pyos"), Some("pyos".to_owned()), broken());
        let good = async { vec![Finding::ok(finding::FRONT, "good")] };
        checks.spawn(&front::CODES, None, good);
        let report = Report::new(checks.findings().await, true);
        let found: Vec<_> = report.findings.iter().map(|of| (of.code.id, of.status)).collect();
        use Status::{Ok, Problem, Skipped};
        assert_eq!(
            found,
            [
                ("D07", Problem),
                ("D08", Skipped),
                ("D09", Problem),
                ("D10", Skipped),
                ("D11", Skipped),
                ("D12", Skipped),
                ("D17", Ok),
            ]
        );
        let text = report.text();
        assert!(text.contains("D07 PROBLEM  service pyos\n    the check broke off\n"), "{text}");
        assert!(text.contains("    the check did not end in time: see D09\n"), "{text}");
    }
}

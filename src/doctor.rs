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

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
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
pub async fn examine(layered: Layered, env: &dyn Environment, options: Options) -> Report {
    let (texts, unread) = KeyTexts::read_what_can_be(&layered);
    let (mut findings, valid) = files::examine(&layered, &texts, &unread);
    let limit = options.timeout.saturating_mul(STEPS);
    let world = Arc::new(World {
        resolver: Resolver::new(&layered.config.dns).ok(),
        pod_ip: env.var("POD_IP").and_then(|text| text.parse().ok()),
        authorities: env.var("SSL_CERT_FILE").map(PathBuf::from),
        layered,
        options,
        texts,
    });
    let mut checks = JoinSet::new();
    for name in services::used(&world) {
        let check = services::examine(Arc::clone(&world), name.clone());
        spawn(&mut checks, limit, (finding::SERVICE, Some(name)), Box::pin(check));
    }
    for address in listening::addresses(&world) {
        let check = listening::examine(Arc::clone(&world), address);
        let subject = Some(address.to_string());
        spawn(&mut checks, limit, (finding::LISTENING, subject), Box::pin(check));
    }
    let check = cluster::examine(Arc::clone(&world));
    spawn(&mut checks, limit, (finding::API, None), Box::pin(check));
    let check = edge::examine(Arc::clone(&world));
    spawn(&mut checks, limit, (finding::EDGE_NAME, None), Box::pin(check));
    let check = front::examine(Arc::clone(&world));
    spawn(&mut checks, limit, (finding::FRONT, None), Box::pin(check));
    while let Some(found) = checks.join_next().await {
        findings.extend(found.unwrap_or_default());
    }
    Report::new(findings, valid)
}

type Check = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

/// Runs a check beside the others. One that does not end is a finding, too.
fn spawn(
    checks: &mut JoinSet<Vec<Finding>>,
    limit: Duration,
    (code, subject): (Code, Option<String>),
    check: Check,
) {
    checks.spawn(async move {
        timeout(limit, check).await.unwrap_or_else(|_| {
            let remedy = "look at what it asks, or give it more time (--timeout)";
            let late = Finding::problem(code, "the check did not end in time", remedy);
            vec![Finding { subject, ..late }]
        })
    });
}

/// The report where the configuration cannot even be read.
#[must_use]
pub fn unreadable(faults: &[Fault]) -> Report {
    Report::new(vec![files::invalid(faults)], false)
}

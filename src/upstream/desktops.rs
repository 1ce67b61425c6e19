//! Which pod a token means now: the one seam for discovery.
//!
//! With Kubernetes' word for it nothing is ever dialled that is not a pod of the service, and a
//! token opens only the pod that had its address when the token was issued. DNS knows neither; it
//! serves where nobody watches pods, as with the incumbents.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use super::waiting::Waiting;
use super::{Error, Upstreams};
use crate::auth::{Desktop, Now, Target};
use crate::discovery::{Endpoint, Host, Moment, Pods, Verdict};

/// Longest wait for the turn to ask a pod for itself.
const PROOF: Duration = Duration::from_secs(5);

/// Where desktops are found.
#[derive(Clone, Debug)]
pub enum Desktops {
    /// By name service; a token's address is believed.
    Dns,
    /// In a table of the configuration: names and addresses.
    Static(BTreeMap<String, IpAddr>),
    /// Among the pods of a service.
    Kubernetes(Watched),
}

/// Pods that are watched, and what to do when they are not enough.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The pods.
    pub pods: Pods,
    /// Whether DNS serves as long as the API never let us look at the pods.
    pub falls_back: bool,
    /// Whether a token is believed of which nobody knows whose address it held.
    pub allows_ambiguous: bool,
    /// Longest wait for a pod that is not ready.
    pub wait: Duration,
    /// Room for those who wait.
    pub waiting: Waiting,
    /// Room for those who have a pod asked.
    pub asking: Waiting,
    /// The fallback was announced.
    pub announced: Arc<AtomicBool>,
}

/// A pod that somebody wants to reach.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the token says.
    pub desktop: &'a Desktop,
    /// Port of the pod.
    pub port: u16,
    /// This moment.
    pub now: Now,
}

/// A pod that may be connected to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where, in the order to try.
    pub addresses: Vec<SocketAddr>,
    /// The pod for operators, and by which its tokens are withdrawn: its name where it is known, otherwise a
    /// fingerprint.
    pub label: Arc<str>,
    /// Its uid where it is known.
    pub uid: Option<Arc<str>>,
    /// Whether nobody else may have the address.
    pub alone: bool,
}

impl Desktops {
    /// Finds the pod that a token means. `permits` is the last word on an address that the token itself
    /// does not hold.
    ///
    /// # Errors
    /// If there is no such pod, if it is not ready in time, or if the token was issued when its
    /// address was another pod's.
    pub async fn find(
        &self,
        upstreams: &Upstreams,
        wanted: Wanted<'_>,
        permits: impl Fn(IpAddr) -> bool,
    ) -> Result<Found, Error> {
        let Wanted { desktop, port, now } = wanted;
        match self {
            Self::Dns => by_name(upstreams, desktop, port, permits).await,
            Self::Static(table) => in_table(table, &desktop.target, port),
            Self::Kubernetes(watched) => match watched.find(desktop, now).await {
                Ok(owner) if permits(owner.endpoint.address) => {
                    let Owner { endpoint, certain } = owner;
                    let addresses = vec![SocketAddr::new(endpoint.address, port)];
                    // Of an old picture the address may have got another owner meanwhile: that the pod of
                    // this uid has gone must not end a tunnel to that one.
                    let known = watched.pods.is_proved(moment(now));
                    let uid = known.then_some(endpoint.uid);
                    Ok(Found { addresses, label: endpoint.name, alone: certain && known, uid })
                }
                Ok(_) => Err(Error::DesktopGone),
                Err(None) => by_name(upstreams, desktop, port, permits).await,
                Err(Some(error)) => Err(error),
            },
        }
    }

    /// Whether a pod that was found is still there, and has its address still. Ask once connected to it,
    /// and after listing a tunnel to it.
    #[must_use]
    pub fn holds(&self, found: &Found) -> bool {
        match (self, &found.uid) {
            (Self::Kubernetes(watched), Some(uid)) if found.alone => watched.pods.owns(uid),
            (Self::Kubernetes(watched), Some(uid)) => watched.pods.lists(uid),
            _ => true,
        }
    }
}

/// Whose a token's host is.
#[derive(Debug)]
struct Owner {
    endpoint: Endpoint,
    /// Whether that is known.
    certain: bool,
}

fn moment(now: Now) -> Moment {
    Moment { wall: now.wall, mono: now.mono }
}

impl Watched {
    /// The pod; an error without a value says that DNS is to be asked.
    async fn find(&self, desktop: &Desktop, now: Now) -> Result<Owner, Option<Error>> {
        let host = match &desktop.target {
            Target::Name(name) => Host::Name(name.label()),
            Target::Address(address) => Host::Address(address.ip()),
        };
        let mut verdict = self.pods.judge(host, desktop.issued, moment(now));
        if matches!(verdict, Verdict::NotReady(_) | Verdict::NotFound | Verdict::Unsynced) {
            if self.falls_back && self.is_blind() {
                return Err(None);
            }
            // Without a place to wait the answer is that of now.
            if let Some(_place) = self.waiting.enter(&desktop.target) {
                verdict = self.pods.wait_ready(host, desktop.issued, self.wait).await;
            }
        }
        if matches!(verdict, Verdict::Ambiguous(_)) && !self.allows_ambiguous {
            let unanswered = Some(Error::DesktopsUnknown);
            let _place = self.asking.enter(&desktop.target).ok_or(unanswered)?;
            let proved = self.pods.prove(host, desktop.issued, PROOF).await;
            verdict = proved.ok_or(unanswered)?;
        }
        let reason = verdict.reason();
        match verdict {
            Verdict::Allow(endpoint) => Ok(Owner { endpoint, certain: true }),
            Verdict::Ambiguous(endpoint) if self.allows_ambiguous => {
                let token = desktop.fingerprint.to_string();
                info!(pod = %endpoint.name, token, reason, "allowed though nobody knows");
                Ok(Owner { endpoint, certain: false })
            }
            Verdict::Ambiguous(_) => Err(Some(Error::DesktopAmbiguous)),
            Verdict::Reused => Err(Some(Error::DesktopReused)),
            Verdict::NotReady(_) => Err(Some(Error::DesktopNotReady)),
            Verdict::Ending => Err(Some(Error::DesktopEnding)),
            Verdict::NotFound => Err(Some(Error::DesktopGone)),
            Verdict::Unsynced if self.falls_back && self.is_blind() => Err(None),
            Verdict::Unsynced => Err(Some(Error::DesktopsUnknown)),
        }
    }

    /// Whether the API never let us look at the pods.
    fn is_blind(&self) -> bool {
        let blind = self.pods.is_blind();
        if blind && !self.announced.swap(true, Ordering::Relaxed) {
            warn!(
                "the API forbids to list endpointslices, or cannot be reached: desktops are found by \
                 DNS, and a token may reach the next owner of its address; grant list and watch to \
                 the service account, and let it reach the API"
            );
        }
        blind
    }
}

async fn by_name(
    upstreams: &Upstreams,
    desktop: &Desktop,
    port: u16,
    permits: impl Fn(IpAddr) -> bool,
) -> Result<Found, Error> {
    let mut addresses = upstreams.desktop(&desktop.target, port).await?;
    // A name service may say anything.
    addresses.retain(|address| permits(address.ip().to_canonical()));
    if addresses.is_empty() {
        return Err(Error::DesktopGone);
    }
    Ok(Found { addresses, label: desktop.target.label().into(), uid: None, alone: false })
}

fn in_table(table: &BTreeMap<String, IpAddr>, target: &Target, port: u16) -> Result<Found, Error> {
    let found = match target {
        Target::Name(name) => table.get_key_value(name.label()),
        Target::Address(address) => table.iter().find(|(_, at)| **at == address.ip()),
    };
    let (name, address) = found.ok_or(Error::DesktopGone)?;
    let addresses = vec![SocketAddr::new(*address, port)];
    Ok(Found { addresses, label: name.as_str().into(), uid: None, alone: false })
}

#[cfg(test)]
mod tests;

//! EndpointSlices as the API writes them, and all of a service's slices as one set of pods.
//!
//! Only what is needed is read; unknown fields are skipped. An endpoint that is no pod with a uid
//! is left out: nothing would tell its later owner from its earlier one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::identity::{Change, Pod, Readiness};

/// Most slices of one service: half a million pods at the controller's hundred a slice.
const MAX_SLICES: usize = 5_000;

/// Most addresses of one pod that are used. A pod has one, or one of each family.
const MAX_ADDRESSES: usize = 8;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// The version that a watch continues from, and the way to the next page.
    pub metadata: PageMeta,
    /// The slices; Kubernetes writes `null` for none.
    #[serde(default)]
    pub items: Option<Vec<Slice>>,
}

/// What is said about a page.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageMeta {
    /// Opaque; never compared.
    #[serde(default)]
    pub resource_version: String,
    /// Empty on the last page.
    #[serde(default, rename = "continue")]
    pub next: Option<String>,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub struct Line {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A slice, or the description of an error.
    pub object: Slice,
}

/// An EndpointSlice; in an `ERROR` line, a Status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Name and version.
    #[serde(default)]
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// Its endpoints; `null` in a bookmark.
    #[serde(default)]
    pub endpoints: Option<Vec<Listed>>,
    /// Of a Status only: the HTTP status it stands for.
    #[serde(default)]
    pub code: Option<u16>,
}

/// What is said about a slice.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Unique in the namespace.
    #[serde(default)]
    pub name: String,
    /// Opaque; never compared.
    #[serde(default)]
    pub resource_version: String,
}

/// An endpoint as a slice lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    #[serde(default)]
    addresses: Option<Vec<String>>,
    #[serde(default)]
    conditions: Option<Conditions>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    target_ref: Option<TargetRef>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

impl Conditions {
    /// Unknown readiness is to be taken for ready (discovery/v1, `EndpointConditions`). A service
    /// that publishes addresses before they are ready shows terminating pods as ready too.
    fn readiness(&self) -> Readiness {
        if self.terminating == Some(true) {
            Readiness::Terminating
        } else if self.ready == Some(false) {
            Readiness::NotReady
        } else {
            Readiness::Ready
        }
    }
}

#[derive(Debug, Deserialize)]
struct TargetRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

impl Listed {
    /// The pod behind it, as far as this endpoint describes it.
    fn pod(self, family: Family) -> Option<Pod> {
        let target = self.target_ref?;
        if target.kind != "Pod" || target.uid.is_empty() || target.name.is_empty() {
            return None;
        }
        let mut addresses: Vec<_> = self
            .addresses?
            .iter()
            .filter_map(|text| text.parse().ok())
            .filter(|address| family.holds(*address))
            .map(|address: IpAddr| address.to_canonical())
            .collect();
        tidy(&mut addresses);
        (!addresses.is_empty()).then(|| Pod {
            uid: target.uid.into(),
            name: target.name.into(),
            hostname: self.hostname.filter(|name| !name.is_empty()).map(Into::into),
            addresses,
            readiness: self.conditions.unwrap_or_default().readiness(),
        })
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// `None` for names, which are other hosts' business, and for what is not known.
    fn of(address_type: &str) -> Option<Self> {
        match address_type {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    fn holds(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// IPv4 first, as `IpAddr` is ordered.
fn tidy(addresses: &mut Vec<IpAddr>) {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
}

/// Joins two descriptions of one pod. The worse readiness counts: a pod that is moved between
/// slices is listed twice for a moment, and an old copy must not revive it.
fn join(pod: &mut Pod, other: &Pod) {
    pod.addresses.extend(&other.addresses);
    tidy(&mut pod.addresses);
    pod.readiness = pod.readiness.max(other.readiness);
    if pod.hostname.is_none() {
        pod.hostname.clone_from(&other.hostname);
    }
}

/// A pod, as it describes itself.
#[derive(Debug, Default, Deserialize)]
pub struct PodObject {
    #[serde(default)]
    metadata: PodMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodMeta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    creation_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    host_network: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default, rename = "podIPs")]
    addresses: Option<Vec<PodAddress>>,
    #[serde(default)]
    container_statuses: Option<Vec<Container>>,
}

#[derive(Debug, Deserialize)]
struct PodAddress {
    #[serde(default)]
    ip: String,
}

#[derive(Debug, Deserialize)]
struct Container {
    #[serde(default)]
    state: State,
}

#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default)]
    running: Option<Running>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    #[serde(default)]
    started_at: Option<String>,
}

/// What a pod tells of its addresses. `Debug` does not show them.
pub struct Told {
    /// Its uid.
    pub uid: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It has had them from here on at the latest, in milliseconds of Unix time; none if it does not tell.
    pub since: Option<i64>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl PodObject {
    /// What it tells. Containers end with the network that they run in: the first of those that run now has
    /// had it since its start. That is told by the clock of the pod's node, but no pod has an address before the
    /// API server's clock has it made. One in its node's network has the address beside others.
    #[must_use]
    pub fn told(self) -> Told {
        let addresses = self.status.addresses.unwrap_or_default();
        let addresses = addresses.iter().filter_map(|address| address.ip.parse().ok());
        let running = self.status.container_statuses.unwrap_or_default();
        let running = running.into_iter().filter_map(|container| container.state.running);
        let started = running.filter_map(|running| end_of_second(&running.started_at?)).min();
        let made = self.metadata.creation_timestamp.and_then(|at| end_of_second(&at));
        let own = !self.spec.host_network;
        Told {
            uid: self.metadata.uid,
            addresses: addresses.map(|address: IpAddr| address.to_canonical()).collect(),
            since: started.zip(made).filter(|_| own).map(|(started, made)| started.max(made)),
        }
    }
}

/// The end of the second that a time names, in milliseconds.
fn end_of_second(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let time = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(time.as_secs()).ok()?.checked_mul(1000)?.checked_add(999)
}

/// More slices than any service has.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

type Parts = HashMap<Arc<str>, Pod>;

/// All slices of one service.
#[derive(Debug, Default)]
pub struct Slices {
    /// By slice, then by uid.
    slices: HashMap<Arc<str>, Parts>,
    /// The slices that list a pod.
    listed_in: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl Slices {
    /// Joins the slices of a complete list.
    ///
    /// # Errors
    /// If there are too many.
    pub fn of(items: impl IntoIterator<Item = Slice>) -> Result<Self, TooMany> {
        let mut all = Self::default();
        for slice in items {
            all.put(slice)?;
        }
        Ok(all)
    }

    /// Every pod, joined.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        self.listed_in.keys().filter_map(|uid| self.pod(uid)).collect()
    }

    /// Adds a slice or replaces it. Returns what became different.
    ///
    /// # Errors
    /// If there are too many.
    pub fn put(&mut self, slice: Slice) -> Result<Vec<Change>, TooMany> {
        let name: Arc<str> = slice.metadata.name.into();
        if self.slices.len() >= MAX_SLICES && !self.slices.contains_key(&name) {
            return Err(TooMany);
        }
        let parts = parts(&slice.address_type, slice.endpoints.unwrap_or_default());
        Ok(self.exchange(&name, Some(parts)))
    }

    /// Removes a slice. Returns what became different.
    pub fn remove(&mut self, name: &str) -> Vec<Change> {
        self.exchange(&name.into(), None)
    }

    fn exchange(&mut self, name: &Arc<str>, parts: Option<Parts>) -> Vec<Change> {
        let old = self.slices.get(name);
        let different = |uid: &&Arc<str>| {
            let new = parts.as_ref().and_then(|parts| parts.get(*uid));
            old.and_then(|old| old.get(*uid)) != new
        };
        // A slice is sent whole for a change of one endpoint.
        let uids =
            parts.iter().flat_map(HashMap::keys).chain(old.into_iter().flat_map(Parts::keys));
        let mut touched: Vec<_> = uids.filter(different).cloned().collect();
        touched.sort_unstable();
        touched.dedup();
        let before: Vec<_> = touched.iter().map(|uid| self.pod(uid)).collect();
        for uid in &touched {
            self.relist(uid, name, parts.as_ref().is_some_and(|parts| parts.contains_key(uid)));
        }
        match parts {
            Some(parts) => self.slices.insert(Arc::clone(name), parts),
            None => self.slices.remove(name),
        };
        let mut changes = Vec::new();
        for (uid, before) in touched.into_iter().zip(before) {
            match self.pod(&uid) {
                None => changes.push(Change::Gone(uid)),
                Some(pod) if before.as_ref() != Some(&pod) => changes.push(Change::Present(pod)),
                Some(_) => {}
            }
        }
        // Departures first, so that an address given on within one event is not contested.
        changes.sort_by_key(|change| matches!(change, Change::Present(_)));
        changes
    }

    fn relist(&mut self, uid: &Arc<str>, slice: &Arc<str>, listed: bool) {
        match self.listed_in.entry(Arc::clone(uid)) {
            Entry::Vacant(entry) if listed => {
                entry.insert(vec![Arc::clone(slice)]);
            }
            Entry::Vacant(_) => {}
            Entry::Occupied(mut entry) => {
                entry.get_mut().retain(|known| known != slice);
                if listed {
                    entry.get_mut().push(Arc::clone(slice));
                } else if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }

    fn pod(&self, uid: &str) -> Option<Pod> {
        let slices = self.listed_in.get(uid)?.iter();
        let mut parts =
            slices.filter_map(|slice| self.slices.get(slice).and_then(|parts| parts.get(uid)));
        let mut pod = parts.next()?.clone();
        parts.for_each(|part| join(&mut pod, part));
        Some(pod)
    }
}

fn parts(address_type: &str, endpoints: Vec<Listed>) -> Parts {
    let mut parts = Parts::new();
    let Some(family) = Family::of(address_type) else { return parts };
    for pod in endpoints.into_iter().filter_map(|listed| listed.pod(family)) {
        match parts.entry(Arc::clone(&pod.uid)) {
            Entry::Vacant(entry) => {
                entry.insert(pod);
            }
            Entry::Occupied(mut entry) => join(entry.get_mut(), &pod),
        }
    }
    parts
}

#[cfg(test)]
mod tests;

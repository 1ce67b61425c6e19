//! One look at a service's pods, for a person who asks: a list, and whether a watch may follow.

use super::Settings;
use super::api::{Api, Fault, Listing};
use super::identity::Pod;
use super::slices::Slices;

/// What one look found.
#[derive(Debug)]
pub struct Survey {
    /// Every pod of the service.
    pub pods: Vec<Pod>,
    /// How many slices there are; a service without a single one does not exist.
    pub slices: usize,
    /// The server's clock in milliseconds, as far as it tells: the middle of a second.
    pub date: Option<i64>,
    /// Whether a watch may follow.
    pub watch: Result<(), Fault>,
    /// Whether a pod may be asked for.
    pub pod: Result<(), Fault>,
}

/// A pod that there is not.
const NOBODY: &str = "deskgate-doctor";

/// Lists the pods of a service, begins a watch, which ends at once, and asks for a pod.
///
/// # Errors
/// Why there is no list.
pub async fn survey(settings: &Settings) -> Result<Survey, Fault> {
    let Settings { server, namespace, service, watch_timeout, .. } = settings;
    let mut api = Api::new(server.clone(), namespace, service, *watch_timeout);
    let Listing { items, version, date } = api.list().await?;
    let watch = api.watch(&version).await.map(drop);
    let pod = match api.pod(NOBODY).await {
        Ok(_) | Err(Fault::Rejected) => Ok(()),
        Err(fault) => Err(fault),
    };
    let slices = items.len();
    let pods = Slices::of(items).map_err(|_| Fault::TooLarge)?.pods();
    Ok(Survey { pods, slices, date, watch, pod })
}

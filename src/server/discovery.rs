//! Starts the discovery of desktops that the configuration asks for.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::config::{self, Config, DiscoveryMode};
use crate::discovery::{Moment, Pods, Server, Settings, Transport};
use crate::proxy::clock;
use crate::tunnel::ends::End;
use crate::tunnel::registry::Registry;
use crate::upstream::desktops::{Desktops, Watched};
use crate::upstream::waiting::Waiting;

/// Length of one watch. A server that falls silent is noticed five seconds later.
const WATCH: Duration = Duration::from_secs(30);

/// How long owners of an address are remembered; pyos's tokens live for 7 minutes at most.
const MEMORY: Duration = Duration::from_secs(600);

/// Most requests that wait for a pod at a time.
const WAITING: usize = 1024;

/// Most requests at a time for which a pod is asked since when it has had its address: after a start that is
/// everybody who is there.
const ASKING: usize = 16_384;

/// Most of them that wait for the same pod: several pages' worth. More are answered at once, so one user
/// does not take the places of all who start their desktops.
const WAITING_FOR_ONE: usize = 32;

/// Starts it, on the current runtime; tunnels to pods that are gone end.
pub(super) fn start(config: &Config, tunnels: &Registry) -> Desktops {
    let discovery = &config.discovery;
    match mode(discovery) {
        DiscoveryMode::Auto | DiscoveryMode::Dns => {
            info!(mode = "dns", "desktops are found by DNS");
            Desktops::Dns
        }
        DiscoveryMode::Static => {
            info!(mode = "static", pods = discovery.pods.len(), "desktops are those of the table");
            Desktops::Static(discovery.pods.clone())
        }
        DiscoveryMode::Kubernetes => {
            info!(mode = "kubernetes", service = service(config), "desktops are watched");
            let pods = Pods::start(settings(config), Arc::new(now));
            let tunnels = tunnels.clone();
            pods.on_gone(move |uid| {
                let closed = tunnels
                    .close_where(|info| info.uid.as_deref() == Some(&**uid), End::DesktopGone);
                info!(uid = &**uid, closed, "a desktop is gone");
            });
            Desktops::Kubernetes(Watched {
                pods,
                falls_back: discovery.fallback == config::Fallback::Dns,
                allows_ambiguous: discovery.ambiguous == config::Ambiguous::Allow,
                wait: discovery.wait,
                waiting: Waiting::new(WAITING, WAITING_FOR_ONE),
                asking: Waiting::new(ASKING, WAITING_FOR_ONE),
                announced: Arc::default(),
            })
        }
    }
}

/// The service whose pods the desktops are.
pub(crate) fn service(config: &Config) -> &str {
    config.discovery.service.as_deref().unwrap_or(&config.desktop.service)
}

/// What `auto` means here: Kubernetes where its API and credentials are.
pub(crate) fn mode(discovery: &config::Discovery) -> DiscoveryMode {
    match discovery.mode {
        DiscoveryMode::Auto if discovery.api_host.is_empty() || !discovery.token.exists() => {
            DiscoveryMode::Dns
        }
        DiscoveryMode::Auto => DiscoveryMode::Kubernetes,
        DiscoveryMode::Kubernetes | DiscoveryMode::Dns | DiscoveryMode::Static => discovery.mode,
    }
}

/// Where the API is, and whose pods are asked for.
pub(crate) fn settings(config: &Config) -> Settings {
    let discovery = &config.discovery;
    let transport = match &discovery.authority {
        ca if !ca.as_os_str().is_empty() => {
            Transport::Tls { ca: ca.clone(), token: discovery.token.clone() }
        }
        _ => Transport::Plain,
    };
    Settings {
        server: Server { host: discovery.api_host.clone(), port: discovery.api_port, transport },
        namespace: config.desktop.namespace.clone(),
        service: service(config).to_owned(),
        watch_timeout: WATCH,
        memory: MEMORY,
        skew: discovery.skew,
    }
}

fn now() -> Moment {
    let now = clock::now();
    Moment { wall: now.wall, mono: now.mono }
}

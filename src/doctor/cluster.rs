//! The Kubernetes API and the desktops' service, as discovery and DNS see them: D09 to D12.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::World;
use super::finding::{API, API_CLOCK, Code, Finding, NAMES, PODS};
use super::skew::Skew;
use crate::config::DiscoveryMode;
use crate::discovery::{Fault, Readiness, Settings, Survey, survey};
use crate::proxy::clock;
use crate::server::discovery;
use crate::upstream::Error as NameError;

/// All that is found here.
pub(super) const CODES: [Code; 4] = [API, API_CLOCK, PODS, NAMES];

/// What to do where names and slices differ; 30 s is what CoreDNS lets an answer live.
const STALE: &str = "a name server may be 30 s behind; if it stays so, dns.servers are not those \
                     of this cluster, or the service hides its pods";

/// A look at a service, unless nobody watches pods here.
pub(super) async fn look(world: &World, service: &str) -> Option<Result<Survey, Fault>> {
    let config = &world.layered.config;
    if discovery::mode(&config.discovery) != DiscoveryMode::Kubernetes {
        return None;
    }
    let settings = Settings { service: service.to_owned(), ..discovery::settings(config) };
    // A list and the beginning of a watch.
    let limit = world.options.timeout.saturating_mul(2);
    let found = timeout(limit, Box::pin(survey(&settings))).await;
    Some(found.unwrap_or(Err(Fault::ResponseTimeout)))
}

/// Asks the API, then the name servers, and compares.
pub(super) async fn examine(world: Arc<World>) -> Vec<Finding> {
    let config = &world.layered.config;
    let before = clock::now().wall;
    let found = look(&world, discovery::service(config)).await;
    let after = clock::now().wall;
    let skipped = |why: &str| [API_CLOCK, PODS, NAMES].map(|code| Finding::skipped(code, why));
    match found {
        None => {
            let why = if config.discovery.mode == DiscoveryMode::Auto {
                "discovery.mode is auto, and this is not in a cluster: there is no API address or \
                 no token file; desktops are found by DNS"
            } else {
                "discovery.mode does not ask it"
            };
            let mut findings = vec![Finding::skipped(API, why)];
            findings.extend(skipped("the API is not asked: see D09"));
            findings
        }
        Some(Err(fault)) => {
            let mut findings = vec![refused(&world, fault, "list of endpointslices")];
            findings.extend(skipped("the API did not tell: see D09"));
            findings
        }
        Some(Ok(survey)) => {
            let api = match (survey.watch, survey.pod) {
                (Ok(()), Ok(())) => {
                    Finding::ok(API, "list and watch of endpointslices and get of pods are allowed")
                }
                (Ok(()), Err(fault)) => Finding::warning(
                    API,
                    format!(
                        "get of pods: {fault}: after each start of the edge, pages are refused until they \
                         renew their tokens"
                    ),
                    role(&config.desktop.namespace),
                ),
                (Err(fault), _) => refused(&world, fault, "watch of endpointslices"),
            };
            let date = survey.date.and_then(|date| u64::try_from(date).ok());
            let clock = match date {
                // The middle of a second is told.
                Some(date) => {
                    let date = Duration::from_millis(date.saturating_sub(500));
                    Skew::of(date, before, after).judge(API_CLOCK, config.discovery.skew)
                }
                None => Finding::skipped(API_CLOCK, "its answer has no Date"),
            };
            vec![api, clock, pods(&world, &survey), names(&world, &survey).await]
        }
    }
}

/// The rule that lets deskgate see pods, and nothing else.
fn role(namespace: &str) -> String {
    format!(
        "apply this Role and bind it to the service account of the edge (RoleBinding):\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: Role\n\
         metadata: {{ name: deskgate, namespace: {namespace} }}\n\
         rules:\n\
         - apiGroups: [\"discovery.k8s.io\"]\n  \
           resources: [\"endpointslices\"]\n  \
           verbs: [\"list\", \"watch\"]\n\
         - apiGroups: [\"\"]\n  \
           resources: [\"pods\"]\n  \
           verbs: [\"get\"]"
    )
}

fn refused(world: &World, fault: Fault, what: &str) -> Finding {
    let config = &world.layered.config;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have one remedy")]
    let remedy = match fault {
        Fault::Forbidden => role(&config.desktop.namespace),
        Fault::Unauthorized | Fault::Credentials => {
            "mount the token of a service account (automountServiceAccountToken: true), or set \
             discovery.token and discovery.authority"
                .to_owned()
        }
        Fault::Tls => "discovery.authority must hold the issuer of the API's certificate, and \
             discovery.api_host a name or address in it"
            .to_owned(),
        Fault::ConnectFailed | Fault::ConnectTimeout | Fault::ResponseTimeout => {
            "check discovery.api_host and api_port (KUBERNETES_SERVICE_HOST and _PORT), and that a \
             NetworkPolicy lets this pod reach the API server"
                .to_owned()
        }
        _ => "see the API server's log; until it answers, the last known pods are used".to_owned(),
    };
    Finding::problem(API, format!("{what}: {fault}"), remedy)
}

fn pods(world: &World, survey: &Survey) -> Finding {
    let config = &world.layered.config;
    let desktop = &config.desktop;
    let (service, namespace) = (discovery::service(config), &desktop.namespace);
    if survey.slices == 0 {
        let said = format!("there is no Service {service} with a selector in {namespace}");
        let remedy = "create it (headless, selector of the desktops' pods), or set \
                      discovery.service and desktop.namespace (POD_NAMESPACE)";
        return Finding::problem(PODS, said, remedy);
    }
    let count = |of| survey.pods.iter().filter(|pod| pod.readiness == of).count();
    let said = format!(
        "Service {service} in {namespace}: {} ready, {} not ready, {} terminating",
        count(Readiness::Ready),
        count(Readiness::NotReady),
        count(Readiness::Terminating)
    );
    let inside = |address: &IpAddr| desktop.cidrs.iter().any(|net| net.contains(address));
    let outside = survey.pods.iter().filter(|pod| !pod.addresses.iter().any(inside)).count();
    if outside > 0 {
        let more = format!("{outside} of them have no address in desktop.cidrs: they are refused");
        let remedy = "add the cluster's pod network to desktop.cidrs";
        return Finding::problem(PODS, said, remedy).and([more]);
    }
    Finding::ok(PODS, said)
}

async fn names(world: &World, survey: &Survey) -> Finding {
    let config = &world.layered.config;
    let desktop = &config.desktop;
    let service = discovery::service(config);
    let domain = format!("{service}.{}.{}", desktop.namespace, desktop.cluster_domain);
    let named: HashSet<IpAddr> = match world.resolve(&domain).await {
        Ok(found) => found.iter().map(IpAddr::to_canonical).collect(),
        // A headless service without ready pods has no name.
        Err(NameError::NoSuchName) => HashSet::new(),
        Err(error) => {
            let remedy = "check dns.servers and NAMESERVER_RESOLVER, and the NetworkPolicy for DNS";
            return Finding::problem(NAMES, format!("{domain}: {error}"), remedy);
        }
    };
    let listed: HashSet<IpAddr> =
        survey.pods.iter().flat_map(|pod| &pod.addresses).copied().collect();
    let ready = survey.pods.iter().filter(|pod| pod.readiness == Readiness::Ready);
    let missing = ready.filter(|pod| !pod.addresses.iter().any(|at| named.contains(at))).count();
    let foreign = named.difference(&listed).count();
    if missing == 0 && foreign == 0 {
        return Finding::ok(NAMES, format!("{} addresses in DNS, all of them listed", named.len()));
    }
    let said = format!(
        "{missing} ready pods are not in DNS, {foreign} addresses in DNS are of no listed pod"
    );
    Finding::warning(NAMES, said, STALE)
}

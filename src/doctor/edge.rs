//! The edge's own Service, as the pods' source address check sees it: D13 to D16.
//!
//! A pod looks up the name of the address that calls it, takes off the first label, resolves the rest
//! and expects the cluster address of the Service that it knows: one Service, not two, and the pod's
//! own address.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::time::timeout;

use super::World;
use super::cluster::look;
use super::finding::{Code, EDGE_MEMBER, EDGE_NAME, EDGE_REVERSE, Finding, HOST_NETWORK};
use crate::config::Profile;
use crate::upstream::Error as NameError;

/// All that is found here.
pub(super) const CODES: [Code; 4] = [EDGE_NAME, EDGE_MEMBER, EDGE_REVERSE, HOST_NETWORK];

/// The names that pods know, by their environment variables.
const KNOWN: [&str; 2] = ["http-router", "nginx"];

/// What the pods' check does to users.
const CONSEQUENCE: &str =
    "pods that check the caller's address close broadcast and terminals at once";

/// The Service, in words for all checks.
struct Edge {
    name: String,
    /// Its full name.
    domain: String,
    /// This pod's address, as the pods see it.
    own: Option<IpAddr>,
}

/// Looks at all of it, where this is a pod or a Service is named.
pub(super) async fn examine(world: Arc<World>) -> Vec<Finding> {
    let config = &world.layered.config;
    let asked = world.options.service.is_some();
    if !asked && world.pod_ip.is_none() && config.discovery.api_host.is_empty() {
        let why = "this is not in a cluster: POD_IP and KUBERNETES_SERVICE_HOST are not set";
        return CODES.map(|code| Finding::skipped(code, why)).into();
    }
    let name = world.options.service.clone().unwrap_or_else(|| {
        match config.profile {
            Profile::Abcdesktop3 => "nginx",
            Profile::Abcdesktop4 => "http-router",
        }
        .to_owned()
    });
    let domain = format!("{name}.{}.{}", config.desktop.namespace, config.desktop.cluster_domain);
    let found = world.resolve(&domain).await;
    let toward = found.as_ref().ok().and_then(|found| found.first());
    let own = world.pod_ip.or_else(|| toward.and_then(|address| local(*address)));
    let edge = Edge { name, domain, own };
    let named = named(&edge, &found);
    let addresses = found.unwrap_or_default();
    let (member, reverse, network) = tokio::join!(
        member(&world, &edge),
        reverse(&world, &edge, &addresses),
        network(&world, own)
    );
    vec![named, member, reverse, network]
}

/// The address that this host has toward another. Nothing is sent.
fn local(toward: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = match toward {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0; 16], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((toward, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

fn named(edge: &Edge, found: &Result<Vec<IpAddr>, NameError>) -> Finding {
    let Edge { name, domain, own } = edge;
    let addresses = match found {
        Ok(addresses) => addresses,
        Err(NameError::NoSuchName) => {
            let remedy = format!(
                "create the Service {name} (ClusterIP, selector of the edge's pods): the pods know \
                 it by this name; if yours has another, say --service NAME"
            );
            let said = format!("{domain} does not exist");
            return Finding::problem(EDGE_NAME, said, remedy).and([CONSEQUENCE.to_owned()]);
        }
        Err(error) => {
            let remedy = "check dns.servers and NAMESERVER_RESOLVER, and the NetworkPolicy for DNS";
            return Finding::problem(EDGE_NAME, format!("{domain}: {error}"), remedy);
        }
    };
    if !KNOWN.contains(&name.as_str()) {
        let said = format!("{name} resolves, but pods know only {} and {}", KNOWN[0], KNOWN[1]);
        let remedy = "name it so, unless the pods' check is off (DISABLE_REMOTEIP_FILTERING)";
        return Finding::warning(EDGE_NAME, said, remedy);
    }
    if own.is_some_and(|own| addresses.contains(&own)) {
        let said = format!("{name} is headless: pods get no variable with its address");
        let remedy = "give it a cluster address (no clusterIP: None)";
        return Finding::warning(EDGE_NAME, said, remedy);
    }
    Finding::ok(EDGE_NAME, format!("{name} resolves"))
}

async fn member(world: &World, edge: &Edge) -> Finding {
    let Some(own) = edge.own else {
        let why = "the address of this pod is not known: set POD_IP (status.podIP)";
        return Finding::skipped(EDGE_MEMBER, why);
    };
    let name = &edge.name;
    match look(world, name).await {
        None => Finding::skipped(EDGE_MEMBER, "the API is not asked: see D09"),
        Some(Err(fault)) => Finding::skipped(EDGE_MEMBER, format!("the API did not tell: {fault}")),
        Some(Ok(survey)) if survey.pods.iter().any(|pod| pod.addresses.contains(&own)) => {
            let pods = survey.pods.len();
            Finding::ok(EDGE_MEMBER, format!("{name} leads to this pod; it has {pods} in all"))
        }
        Some(Ok(survey)) => {
            let pods = survey.pods.len();
            let said = format!("{name} has {pods} pods, and this one is none of them");
            let remedy = "give this pod the labels of the Service's selector (run: router-od in \
                          4.x, run: nginx-od in 3.x), and run it in the same namespace";
            Finding::problem(EDGE_MEMBER, said, remedy)
        }
    }
}

async fn reverse(world: &World, edge: &Edge, addresses: &[IpAddr]) -> Finding {
    let (Some(own), Some(resolver)) = (edge.own, &world.resolver) else {
        let why = "the address of this pod is not known: set POD_IP (status.podIP)";
        return Finding::skipped(EDGE_REVERSE, why);
    };
    let limit = world.options.timeout;
    let found = timeout(limit, resolver.names_of(own)).await.unwrap_or(Err(NameError::NameTimeout));
    let wrong = |said: String, remedy: &str| {
        Finding::problem(EDGE_REVERSE, said, remedy).and([CONSEQUENCE.to_owned()])
    };
    let names = match found {
        Ok(names) => names,
        Err(NameError::NoSuchName) => Vec::new(),
        Err(error) => {
            let remedy = "check dns.servers and NAMESERVER_RESOLVER, and the NetworkPolicy for DNS";
            return Finding::problem(EDGE_REVERSE, error.to_string(), remedy);
        }
    };
    // The first label is the pod's own.
    let services: BTreeSet<&str> =
        names.iter().filter_map(|name| Some(name.split_once('.')?.1)).collect();
    let Edge { name, domain, .. } = edge;
    let only = services.contains(domain.as_str()) && services.len() == 1;
    if services.is_empty() {
        let remedy = format!(
            "let {name} select this pod; where the name servers give names only to pods with a \
             host name, set hostname and subdomain: {name} in the pod's template"
        );
        return wrong("this pod's address has no name".to_owned(), &remedy);
    }
    if services.len() > 1 {
        let said = format!("{} Services name this pod: {}", services.len(), join(&services));
        let remedy = format!(
            "only {name} may select the edge's pods: the pods look at the first answer, whichever \
             it is; collect metrics pod by pod"
        );
        return wrong(said, &remedy);
    }
    if !only {
        let said = format!("it names {}, not {domain}", join(&services));
        let remedy = format!("select the edge's pods with {name} only, in the desktops' namespace");
        return wrong(said, &remedy);
    }
    if addresses.is_empty() {
        let said = format!("it names {name}, which has no address");
        return wrong(said, "see D13");
    }
    Finding::ok(EDGE_REVERSE, format!("it names {name} and nothing else"))
}

fn join(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

async fn network(world: &World, own: Option<IpAddr>) -> Finding {
    let node = &world.layered.config.server.node_name;
    if node.is_empty() {
        let why = "the node is not known: set NODE_NAME (spec.nodeName)";
        return Finding::skipped(HOST_NETWORK, why);
    }
    // A pod on its node's network has its node's name, too.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let same_name = host.trim().eq_ignore_ascii_case(node);
    let addresses = world.resolve(node).await;
    let same_address =
        own.is_some_and(|own| addresses.as_ref().is_ok_and(|all| all.contains(&own)));
    if same_name || same_address {
        let said = "this pod uses its node's network: its address is that of the node";
        let remedy = "remove hostNetwork from the pod's template; reach it by NodePort or hostPort";
        return Finding::problem(HOST_NETWORK, said, remedy).and([CONSEQUENCE.to_owned()]);
    }
    let how = if addresses.is_ok() { "name and address" } else { "host name" };
    Finding::ok(HOST_NETWORK, format!("{how} are not those of the node"))
}

//! The services that routes lead to: D07, and the clock of pyos: D08.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use super::ask::{Answer, Failure, Question, ask};
use super::finding::{Code, Finding, PYOS_CLOCK, SERVICE};
use crate::config::{Backend, Upstream};
use crate::upstream::Error as NameError;

/// The service whose clock stands in tokens.
const PYOS: &str = "pyos";

/// Services without which desktops work.
const OPTIONAL: [&str; 2] = ["console", "speedtest"];

/// The names of those that some row leads to.
pub(super) fn used(world: &World) -> BTreeSet<String> {
    let routes = world.layered.config.routes.iter();
    let names = routes.filter_map(|route| match &route.backend {
        Backend::Upstream(name) => Some(name.clone()),
        Backend::Desktop(_)
        | Backend::DesktopPorts(_)
        | Backend::Files(_)
        | Backend::Text(_)
        | Backend::Renew => None,
    });
    names.collect()
}

/// All that is found of one of them.
pub(super) fn codes(name: &str) -> &'static [Code] {
    if name == PYOS { &[SERVICE, PYOS_CLOCK] } else { &[SERVICE] }
}

/// Asks one of them.
pub(super) async fn examine(world: Arc<World>, name: String) -> Vec<Finding> {
    let Some(upstream) = world.layered.config.upstreams.get(&name) else {
        return Vec::new(); // The configuration's fault, told there.
    };
    let mut findings = Vec::new();
    let asked = match world.places(&upstream.host, upstream.port).await {
        Err(error) => Err(unresolved(&name, upstream, error)),
        Ok(places) => {
            let question =
                Question { host: &upstream.host, target: "/", upgrade: false, tls: None };
            let answer = ask(&places, &question, world.options.timeout).await;
            answer.map_err(|failure| silent(&name, upstream, &failure))
        }
    };
    if name == PYOS {
        findings.push(clock(&world, asked.as_ref().ok()));
    }
    findings.push(asked.map_or_else(|finding| finding, |answer| answered(&answer)).of(name));
    findings
}

fn clock(world: &World, answer: Option<&Answer>) -> Finding {
    match answer.map(|answer| answer.skew) {
        Some(Some(skew)) => skew.judge(PYOS_CLOCK, world.layered.config.discovery.skew),
        Some(None) => Finding::skipped(PYOS_CLOCK, "its answer has no Date"),
        None => Finding::skipped(PYOS_CLOCK, "it does not answer: see D07"),
    }
}

fn answered(answer: &Answer) -> Finding {
    let said = format!("answers {}", answer.status);
    if answer.status < 500 {
        return Finding::ok(SERVICE, said);
    }
    Finding::problem(SERVICE, said, "see the log of its pod: it fails on its own")
}

fn unresolved(name: &str, upstream: &Upstream, error: NameError) -> Finding {
    let Upstream { host, .. } = upstream;
    let said = format!("{host}: {error}");
    if error != NameError::NoSuchName {
        let remedy = "check dns.servers and NAMESERVER_RESOLVER, and that a NetworkPolicy lets \
                      this pod ask the name servers (label netpol/dns)";
        return Finding::problem(SERVICE, said, remedy);
    }
    if OPTIONAL.contains(&name) {
        let remedy = format!(
            "install it, or take its rows out: [[route]] name = \"{name}\", disabled = true"
        );
        return Finding::warning(SERVICE, format!("{said}; its paths answer 502"), remedy);
    }
    let remedy = format!(
        "install the Service, or set upstreams.{name}.host; a name without a dot needs the search \
         domains of the pod (dns.search)"
    );
    Finding::problem(SERVICE, said, remedy)
}

fn silent(name: &str, upstream: &Upstream, failure: &Failure) -> Finding {
    let Upstream { host, port } = upstream;
    let said = format!("{host} port {port}: {failure}");
    let remedy = match failure {
        Failure::Refused => format!(
            "start its pods (a Service without ready pods refuses), or set upstreams.{name}.port"
        ),
        Failure::ConnectTimeout | Failure::Unreachable(_) => format!(
            "look for a NetworkPolicy that keeps this pod from it (label netpol/{name}), or a \
             stale address"
        ),
        Failure::Timeout | Failure::Dropped => {
            "see the log of its pod: it takes connections and does not answer".to_owned()
        }
        Failure::Invalid | Failure::Tls(_) => format!(
            "something else listens there: set upstreams.{name}.port to the port of plain HTTP"
        ),
    };
    Finding::problem(SERVICE, said, remedy)
}

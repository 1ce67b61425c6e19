//! Warns of configurations that are valid and still dangerous.

use std::time::Duration;

use super::{Backend, Config, Layered};

/// Kubernetes' default time between SIGTERM and SIGKILL, less the margin an exit needs.
const TERMINATION_GRACE: Duration = Duration::from_secs(25);

/// Pods ping their viewers every 30 s when told to; a shorter limit cuts desktops that are idle.
const SHORTEST_TUNNEL_IDLE: Duration = Duration::from_secs(90);

/// Every dangerous setting or pair of settings, as `(key, why)`.
#[must_use]
pub fn warnings(layered: &Layered) -> Vec<(String, String)> {
    let config = &layered.config;
    let mut found = Vec::new();
    let mut warn = |key: &str, why: String| found.push((key.to_owned(), why));
    if config.listen.trusted_proxies.iter().any(|net| net.prefix_len() == 0) {
        let why = "every client may claim any address: pyos's address checks mean nothing";
        warn("listen.trusted_proxies", why.to_owned());
    }
    let https = !config.listen.https.is_empty()
        && config.tls.certificates.iter().any(|pair| pair.certificate.exists());
    if config.listen.redirect && !https && config.listen.trusted_proxies.is_empty() {
        let why = "without a certificate here or a trusted proxy that has one, every page is sent to an \
                   https address where nobody listens";
        warn("listen.redirect", why.to_owned());
    }
    if config.auth.allow_published_keys {
        let why = "private halves of the published keys are public: anyone can make tokens";
        warn("auth.allow_published_keys", why.to_owned());
    }
    if config.server.linger.saturating_add(config.server.drain) > TERMINATION_GRACE {
        let why = "longer than 25 s with server.linger: Kubernetes kills a pod after 30 s unless \
                   terminationGracePeriodSeconds says otherwise";
        warn("server.drain", why.to_owned());
    }
    for host in config.admin.hosts.iter().filter(|host| !can_be_asked_for(host)) {
        let why = format!("{host:?} is no name, or name and port: nobody can ask for it");
        warn("admin.hosts", why);
    }
    for net in config.desktop.cidrs.iter().filter(|net| net.prefix_len() < 7) {
        warn("desktop.cidrs", format!("{net} is far wider than a cluster's pod network"));
    }
    for net in config.desktop.cidrs.iter().filter(|net| net.network().is_loopback()) {
        warn("desktop.cidrs", format!("{net} lets tokens reach this host's own loopback services"));
    }
    warn_of_routes(config, &mut warn);
    found
}

/// Whether a client can send this as its `Host`: a name, with a port or without. Addresses need no entry.
fn can_be_asked_for(host: &str) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "0"));
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && name.bytes().all(in_name) && port.parse::<u16>().is_ok()
}

fn warn_of_routes(config: &Config, warn: &mut impl FnMut(&str, String)) {
    for route in &config.routes {
        if route.websocket.is_taken() && route.timeouts.idle < SHORTEST_TUNNEL_IDLE {
            let key = format!("route.{}.timeouts.idle", route.name);
            warn(&key, "shorter than 90 s: idle desktops will be cut".to_owned());
        }
        let Backend::DesktopPorts(ranges) = &route.backend else { continue };
        for (name, port) in &config.desktop.ports {
            if ranges.iter().any(|range| range.contains(*port)) {
                let key = format!("route.{}.backend", route.name);
                warn(&key, format!("opens port {port} ({name}), which belongs to the pod itself"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_is_not_dangerous() {
        let layered = Config::from_text("empty", "").unwrap();
        assert_eq!(warnings(&layered), []);
    }

    #[test]
    fn a_redirect_wants_somebody_who_speaks_tls() {
        let keys = |listen: &str, certificate: &str| {
            let text = format!(
                "[listen]\nredirect = true\n{listen}\n[tls]\n\
                 certificates = [{{ certificate = {certificate:?}, key = \"x.key\" }}]\n"
            );
            let layered = Config::from_text("redirect.toml", &text).unwrap();
            warnings(&layered).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let there = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let nowhere = "/nowhere/tls.crt";
        assert_eq!(keys("", nowhere), ["listen.redirect"]);
        assert_eq!(keys("https = []", there), ["listen.redirect"]);
        assert_eq!(keys("", there), [""; 0]);
        assert_eq!(keys("trusted_proxies = [\"10.0.0.0/8\"]", nowhere), [""; 0]);
    }

    #[test]
    fn a_name_that_nobody_can_ask_for_is_none() {
        let fine = ["edge", "edge.example.org", "EDGE_1.example.org:9180", "[::1]:9180"];
        assert!(fine.into_iter().all(can_be_asked_for));
        for host in
            ["", ":9180", "https://edge", "edge/", "*.example.org", "edge:", "edge:http", "a b"]
        {
            assert!(!can_be_asked_for(host), "{host}");
            let text = format!("[admin]\nhosts = [{host:?}]\n");
            let layered = Config::from_text("hosts.toml", &text).unwrap();
            let keys: Vec<_> = warnings(&layered).into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, ["admin.hosts"], "{host}");
        }
    }

    #[test]
    fn each_danger_is_named_by_its_key() {
        let layered = Config::from_text(
            "bad.toml",
            r#"
            [listen]
            trusted_proxies = ["0.0.0.0/0"]
            [auth]
            allow_published_keys = true
            [server]
            linger = "6s"
            [desktop]
            cidrs = ["0.0.0.0/0", "127.0.0.0/8"]
            [[route]]
            name = "websockify"
            timeouts = { idle = "60s" }
            [[route]]
            name = "container"
            backend = { desktop_ports = ["6000-6100"] }
            "#,
        )
        .unwrap();
        let keys: Vec<_> = warnings(&layered).into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "listen.trusted_proxies",
                "auth.allow_published_keys",
                "server.drain",
                "desktop.cidrs",
                "desktop.cidrs",
                "route.websockify.timeouts.idle",
                "route.container.backend",
            ]
        );
    }
}

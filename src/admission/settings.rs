//! What a configuration says of limits, checked.

use std::sync::Arc;

use super::Admission;
use super::origin::Policy;
use crate::config::{Config, is_mapped};

impl Admission {
    /// What a configuration says, with the counts of the one before.
    ///
    /// # Errors
    /// Every key whose value makes no sense, and why.
    pub fn new(config: &Config, before: Option<&Self>) -> Result<Self, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let limits = &config.limits;
        for (key, rate) in [
            ("requests_per_address", limits.requests_per_address),
            ("requests_per_token", limits.requests_per_token),
            ("new_tunnels", limits.new_tunnels),
            ("failures", limits.failures),
        ] {
            if rate.per_minute > 0 && rate.burst == 0 {
                faults.push((format!("limits.{key}.burst"), "0 would let nothing pass".to_owned()));
            }
        }
        let shares = &config.overload;
        for (key, share) in [
            ("no_tunnels", shares.no_tunnels),
            ("small_buffers", shares.small_buffers),
            ("no_keepalive", shares.no_keepalive),
            ("no_requests", shares.no_requests),
        ] {
            if share > 100 {
                faults
                    .push((format!("overload.{key}"), format!("{share} is more than 100 percent")));
            }
        }
        let listen = &config.listen;
        for (key, networks) in [
            ("limits.exempt", &limits.exempt),
            ("listen.trusted_proxies", &listen.trusted_proxies),
            ("listen.proxy_protocol", &listen.proxy_protocol),
        ] {
            for network in networks.iter().filter(|network| is_mapped(network)) {
                let why = format!("{network} is an IPv4-mapped network: write it as IPv4");
                faults.push((key.to_owned(), why));
            }
        }
        let origins = Policy::new(&config.origins)
            .map_err(|why| faults.push(("origins.allow".to_owned(), why)));
        let Ok(origins) = origins else { return Err(faults) };
        if !faults.is_empty() {
            return Err(faults);
        }
        let exempt =
            limits.exempt.iter().chain(&listen.trusted_proxies).chain(&listen.proxy_protocol);
        Ok(Self {
            limits: limits.clone(),
            overload: shares.clone(),
            origins,
            exempt: exempt.copied().collect(),
            shared: before.map_or_else(Default::default, |before| Arc::clone(&before.shared)),
        })
    }
}

//! Host names to addresses, with bounds on time, size and staleness.
//!
//! Names are always asked as absolute names; the search domains are only for hosts without a dot
//! and never for a desktop's name. Caching is ours: the library neither clamps an answer's life
//! below its TTL for failures nor serves an expired answer while no server answers (RFC 8767).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{TokioResolver, system_conf};
use quick_cache::sync::Cache;
use tokio::time::timeout;

use super::Error;
use crate::config::Dns;

/// Most names remembered at a time.
const CACHE_ENTRIES: usize = 4096;

/// Most search domains tried for one host.
const MAX_SEARCH: usize = 6;

/// Whether an expired answer may serve while no server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Staleness {
    /// For fixed services: better an old address than none.
    Allowed,
    /// For desktops: an old address may be another user's by now.
    Refused,
}

/// Resolves hosts as the configuration says.
#[derive(Debug)]
pub struct Resolver {
    hosts: HashMap<String, Arc<[IpAddr]>>,
    search: Vec<String>,
    client: TokioResolver,
    cache: Cache<Key, Arc<Answer>>,
    limits: Limits,
}

/// The times of [`Dns`].
#[derive(Clone, Copy, Debug)]
struct Limits {
    lookup: Duration,
    min: Duration,
    max: Duration,
    negative: Duration,
    stale: Duration,
}

/// A name, and whether its answers may serve after their time: those that may are kept for it.
type Key = (String, Staleness);

/// What is known of a name.
#[derive(Debug)]
struct Answer {
    addresses: Arc<[IpAddr]>,
    /// Why there are no addresses.
    failure: Option<Error>,
    fresh_until: Instant,
    stale_until: Instant,
    /// Someone is asking again; others take the expired answer meanwhile, where that is allowed.
    refreshing: AtomicBool,
}

impl Answer {
    fn result(&self) -> Result<Arc<[IpAddr]>, Error> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(Arc::clone(&self.addresses)),
        }
    }

    /// Whether it serves although it has expired.
    fn is_usable(&self, staleness: Staleness, now: Instant) -> bool {
        staleness == Staleness::Allowed && !self.addresses.is_empty() && now < self.stale_until
    }
}

impl Resolver {
    /// Checks and applies the configuration; reads the system's only where it is asked for.
    ///
    /// # Errors
    /// `(key, message)` of the setting that cannot be used.
    pub fn new(dns: &Dns) -> Result<Self, (&'static str, String)> {
        let system = (dns.servers.is_empty() || dns.search.is_empty())
            .then(system_conf::read_system_conf)
            .and_then(Result::ok)
            .map(|(config, _)| config);
        let servers = if dns.servers.is_empty() {
            system.as_ref().map(|config| config.name_servers().to_vec()).unwrap_or_default()
        } else {
            dns.servers
                .iter()
                .map(|text| server(text))
                .collect::<Result<_, _>>()
                .map_err(|message| ("dns.servers", message))?
        };
        let search = match (&system, dns.search.is_empty()) {
            (Some(config), true) => config.search().iter().map(ToString::to_string).collect(),
            _ => dns.search.clone(),
        };
        if dns.attempts == 0 {
            return Err(("dns.attempts", "must be at least 1".to_owned()));
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let client = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options(dns))
            .build()
            .map_err(|error| ("dns.servers", error.to_string()))?;
        Ok(Self {
            hosts: dns
                .hosts
                .iter()
                .map(|(host, addresses)| (absolute(host), addresses.as_slice().into()))
                .collect(),
            // A name below the root is the name itself, which is asked for anyway.
            search: search
                .iter()
                .map(|domain| absolute(domain))
                .filter(|domain| domain != ".")
                .take(MAX_SEARCH)
                .collect(),
            client,
            cache: Cache::new(CACHE_ENTRIES),
            limits: Limits {
                // Each attempt may fall back to TCP, each search domain is a question of its own.
                lookup: dns.timeout.saturating_mul(u32::try_from(dns.attempts).unwrap_or(1) * 2),
                min: dns.min_ttl,
                max: dns.max_ttl.max(dns.min_ttl),
                negative: dns.negative_ttl,
                stale: dns.stale,
            },
        })
    }

    /// The addresses of a host: a literal, a configured one, a cached one, or asked now.
    ///
    /// # Errors
    /// [`Error::NoSuchName`], [`Error::NameFailed`] or [`Error::NameTimeout`].
    pub async fn resolve(&self, host: &str, staleness: Staleness) -> Result<Arc<[IpAddr]>, Error> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Ok(Arc::new([address]));
        }
        let host = absolute(host);
        if let Some(addresses) = self.hosts.get(&host) {
            return Ok(Arc::clone(addresses));
        }
        let (key, now) = ((host, staleness), Instant::now());
        if let Some(known) = self.cache.get(&key) {
            if now < known.fresh_until {
                return known.result();
            }
            if known.is_usable(staleness, now) {
                // Boxed: a request whose name is known has no need of room for this.
                return Box::pin(self.refresh(key, &known)).await;
            }
            // It serves nobody any more: one asks for all, who may have done so by now.
            self.cache.remove_if(&key, |known| {
                now >= known.fresh_until && !known.is_usable(staleness, now)
            });
        }
        match self.cache.get_value_or_guard_async(&key).await {
            Ok(known) => known.result(),
            Err(guard) => {
                // A failure is an answer here: otherwise each of those who wait for this one would
                // ask again, one after the other.
                let answer = Box::pin(self.ask(&key.0)).await;
                let answer = answer.unwrap_or_else(|error| self.failed(error));
                let answer = Arc::new(answer);
                let _ = guard.insert(Arc::clone(&answer));
                answer.result()
            }
        }
    }

    /// The names that an address has (PTR), in lower case without their final dots. Not remembered.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, Error> {
        let asked = self.client.reverse_lookup(Name::from(address));
        let found = match timeout(self.limits.lookup, asked).await {
            Err(_) | Ok(Err(NetError::Timeout)) => return Err(Error::NameTimeout),
            Ok(Err(error)) if error.is_no_records_found() => return Err(Error::NoSuchName),
            Ok(Err(_)) => return Err(Error::NameFailed),
            Ok(Ok(found)) => found,
        };
        let names = found.answers().iter().filter_map(|record| {
            let RData::PTR(name) = &record.data else { return None };
            Some(name.0.to_ascii().trim_end_matches('.').to_ascii_lowercase())
        });
        Ok(names.collect())
    }

    /// Asks again for a name whose expired answer may still be used.
    async fn refresh(&self, key: Key, known: &Answer) -> Result<Arc<[IpAddr]>, Error> {
        if known.refreshing.swap(true, Ordering::AcqRel) {
            return known.result();
        }
        // If this request is given up while it asks, the next one asks.
        let _asking = Asking(&known.refreshing);
        match self.ask(&key.0).await {
            Ok(answer) => {
                let answer = Arc::new(answer);
                self.cache.insert(key, Arc::clone(&answer));
                answer.result()
            }
            Err(_) => {
                // Not again at every request while the servers are down.
                let patience = Answer {
                    addresses: Arc::clone(&known.addresses),
                    failure: None,
                    fresh_until: Instant::now() + self.limits.lookup,
                    stale_until: known.stale_until,
                    refreshing: AtomicBool::new(false),
                };
                self.cache.insert(key, Arc::new(patience));
                known.result()
            }
        }
    }

    /// Asks the servers. A name that does not exist is an answer; a failure is not.
    async fn ask(&self, host: &str) -> Result<Answer, Error> {
        let single = !host.trim_end_matches('.').contains('.');
        let names = self.search.iter().filter(|_| single).map(|domain| format!("{host}{domain}"));
        for name in names.chain([host.to_owned()]) {
            let asked = timeout(self.limits.lookup, self.client.lookup_ip(name.as_str())).await;
            let now = Instant::now();
            match asked.map_err(|_| Error::NameTimeout)? {
                Ok(found) => {
                    let life = found.valid_until().saturating_duration_since(now);
                    let life = life.clamp(self.limits.min, self.limits.max);
                    let addresses: Arc<[IpAddr]> = found.iter().collect();
                    return Ok(self.answer(addresses, now + life));
                }
                Err(error) if error.is_no_records_found() => self.confirm_absence(&name).await?,
                Err(NetError::Timeout) => return Err(Error::NameTimeout),
                Err(_) => return Err(Error::NameFailed),
            }
        }
        Ok(self.failed(Error::NoSuchName))
    }

    /// The library asks for both kinds of addresses and may report that one kind does not exist
    /// although the question for the other failed.
    async fn confirm_absence(&self, name: &str) -> Result<(), Error> {
        match timeout(self.limits.lookup, self.client.ipv4_lookup(name)).await {
            Err(_) => Err(Error::NameTimeout),
            Ok(Ok(_)) => Err(Error::NameFailed),
            Ok(Err(error)) if error.is_no_records_found() => Ok(()),
            Ok(Err(_)) => Err(Error::NameFailed),
        }
    }

    fn failed(&self, error: Error) -> Answer {
        let fresh_until = Instant::now() + self.limits.negative;
        let failure = Some(error);
        Answer { failure, stale_until: fresh_until, ..self.answer(Arc::new([]), fresh_until) }
    }

    fn answer(&self, addresses: Arc<[IpAddr]>, fresh_until: Instant) -> Answer {
        let stale_until = fresh_until + self.limits.stale;
        Answer {
            addresses,
            failure: None,
            fresh_until,
            stale_until,
            refreshing: AtomicBool::new(false),
        }
    }
}

/// Takes back the mark of the one who asks.
struct Asking<'a>(&'a AtomicBool);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A name in lower case with its final dot, so that no search list is applied to it.
fn absolute(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}

/// A name server from `address` or `address:port`. An IPv6 address may be in brackets.
fn server(text: &str) -> Result<NameServerConfig, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = text
        .parse::<SocketAddr>()
        .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| format!("\"{text}\" is no address or address:port"))?;
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    Ok(NameServerConfig::new(address.ip(), true, connections.into()))
}

/// The library's part: asking. Its own cache is off.
fn options(dns: &Dns) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = dns.timeout;
    options.attempts = dns.attempts.saturating_sub(1);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Auto;
    options
}

#[cfg(test)]
mod tests;

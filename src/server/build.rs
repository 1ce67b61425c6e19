//! A configuration becomes rooms, or a list of all that is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::acceptors::Secure;
use crate::admission::Admission;
use crate::auth::{
    Authenticator, CacheLimits, KeyError, KeyFile, PayloadKeys, SigningKeys, TargetPolicy,
};
use crate::config::{CertificateFiles, ClientCertificates, Config, Fault, Layered};
use crate::files::{Root, Settings};
use crate::proxy::{Cold, Marks, Rooms, clock};
use crate::route::{Destination, Table};
use crate::telemetry::traces;
use crate::tls::{self, Certificates, ClientAuth, ClientRoots, PemFile};
use crate::transport::SocketPolicy;
use crate::upstream::Upstreams;
use crate::upstream::resolver::Resolver;

/// Where the incumbents' certificate is mounted.
const DEFAULT: &str = "/etc/nginx/ssl/tls.crt";

const NO_ISSUER: &str = "clients' certificates are asked for, and no issuer is named";

/// How late a file that changed may still be served as it was.
const RECENT: Duration = Duration::from_secs(1);

/// The PEM files of a configuration, by the name that messages use for each.
#[derive(Debug, Default)]
pub struct KeyTexts {
    /// Public keys that verify tokens.
    pub signing: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Keys that open `hash`.
    pub payload: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Certificates with their keys.
    pub certificates: Vec<[(String, Zeroizing<Vec<u8>>); 2]>,
    /// Issuers of clients' certificates.
    pub authorities: Option<(String, Zeroizing<Vec<u8>>)>,
}

fn pem_file((name, pem): &(String, Zeroizing<Vec<u8>>)) -> PemFile<'_> {
    PemFile { name, pem }
}

/// Everything that a configuration becomes.
#[derive(Debug)]
pub struct Built {
    /// What serves requests.
    pub rooms: Rooms,
    /// What TLS connections need; none where there is no certificate.
    pub tls: Option<Secure>,
}

impl KeyTexts {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// One fault for each file that cannot be read.
    pub fn read(layered: &Layered) -> Result<Self, Vec<Fault>> {
        let (texts, faults) = Self::read_what_can_be(layered);
        if faults.is_empty() { Ok(texts) } else { Err(faults) }
    }

    /// The files that can be read, and a fault for each of the others.
    #[must_use]
    pub fn read_what_can_be(layered: &Layered) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut read = |key: &str, paths: &[PathBuf]| {
            if paths.is_empty() {
                faults.push(layered.fault(key, "names no file"));
            }
            let mut texts = Vec::with_capacity(paths.len());
            for path in paths {
                match fs::read(path) {
                    Ok(text) => texts.push((path.display().to_string(), Zeroizing::new(text))),
                    Err(error) => {
                        let message = format!("{} cannot be read: {error}", path.display());
                        faults.push(layered.fault(key, message));
                    }
                }
            }
            texts
        };
        let auth = &layered.config.auth;
        let tls = &layered.config.tls;
        let certificates = certificates_of(&layered.config).iter().filter_map(|files| {
            let pair = [files.certificate.clone(), files.key.clone()];
            read("tls.certificates", &pair).try_into().ok()
        });
        let certificates = certificates.collect();
        let texts = Self {
            certificates,
            authorities: tls
                .client_authorities
                .as_ref()
                .and_then(|path| read("tls.client_authorities", std::slice::from_ref(path)).pop()),
            signing: read("auth.signing_keys", &auth.signing_keys),
            payload: read("auth.payload_keys", &auth.payload_keys),
        };
        (texts, faults)
    }
}

/// Checks a configuration by building every room from it, and reports all that is wrong. Of the old
/// rooms those are kept whose settings are still the same.
///
/// # Errors
/// Every fault, with its file, line and key.
pub fn build(layered: &Layered, keys: &KeyTexts, old: Option<&Rooms>) -> Result<Built, Vec<Fault>> {
    let mut faults = Vec::new();
    let config = &layered.config;
    let marks = Marks::new(config, keys);
    let table = Table::new(layered).map_err(|wrong| faults.extend(wrong)).ok();
    // What a room remembers is worth keeping: tokens, names.
    let authenticator = match old.filter(|old| old.marks.auth == marks.auth) {
        Some(old) => Some(Arc::clone(&old.authenticator)),
        None => authenticator(layered, keys, &mut faults).map(|authenticator| {
            if let Some(old) = old {
                authenticator.count_on(&old.authenticator);
            }
            Arc::new(authenticator)
        }),
    };
    let upstreams = match old.filter(|old| old.marks.upstreams == marks.upstreams) {
        Some(old) => Some(Arc::clone(&old.upstreams)),
        None => Resolver::new(&config.dns)
            .map_err(|(key, message)| faults.push(layered.fault(key, message)))
            .ok()
            .map(|resolver| Arc::new(Upstreams::new(resolver))),
    };
    let roots = table.as_ref().map(|table| roots(table, layered, &mut faults));
    let tls = tls(layered, keys, &mut faults);
    let admission = admission(layered, old, &mut faults);
    if config.listen.http.is_empty() && config.listen.https.is_empty() {
        faults.push(layered.fault("listen", "names no address"));
    }
    if let Some((key, why)) = config.tracing.fault().or_else(|| traces::fault(&config.tracing)) {
        faults.push(layered.fault(key, why));
    }
    match (table, authenticator, upstreams, roots, admission) {
        (Some(table), Some(authenticator), Some(upstreams), Some(roots), Some(admission))
            if faults.is_empty() =>
        {
            let rooms = Rooms {
                table,
                roots,
                authenticator,
                cold: old.map_or_else(Cold::default, |old| old.cold.clone()),
                upstreams,
                admission: Arc::new(admission),
                listen: config.listen.clone(),
                sockets: SocketPolicy {
                    unsent: u32::try_from(config.tunnel.unsent.as_u64()).unwrap_or(u32::MAX),
                    user_timeout: config.tunnel.user_timeout,
                    keepalive: config.tunnel.keepalive,
                },
                keys_since: old
                    .filter(|old| old.marks.auth == marks.auth)
                    .map_or_else(|| clock::now().wall.as_secs(), |old| old.keys_since),
                marks,
            };
            Ok(Built { rooms, tls })
        }
        _ => Err(faults),
    }
}

/// What is taken on, with the counts of the rooms before.
fn admission(layered: &Layered, old: Option<&Rooms>, faults: &mut Vec<Fault>) -> Option<Admission> {
    let old = old.map(|old| &*old.admission);
    Admission::new(&layered.config, old)
        .map_err(|wrong| {
            faults.extend(wrong.into_iter().map(|(key, why)| layered.fault(&key, why)));
        })
        .ok()
}

/// The certificates that there should be: the built-in pair only where it exists.
fn certificates_of(config: &Config) -> &[CertificateFiles] {
    match config.tls.certificates.as_slice() {
        _ if config.listen.https.is_empty() => &[],
        [only] if only.certificate == Path::new(DEFAULT) && !only.certificate.exists() => &[],
        files => files,
    }
}

fn tls(layered: &Layered, keys: &KeyTexts, faults: &mut Vec<Fault>) -> Option<Secure> {
    let settings = &layered.config.tls;
    for address in settings.client_certificates_at.keys() {
        if !layered.config.listen.https.contains(address) {
            let why = format!("{address} is no address of listen.https");
            faults.push(layered.fault("tls.client_certificates_at", why));
        }
    }
    if keys.certificates.is_empty() {
        return None;
    }
    let sources: Vec<_> = keys
        .certificates
        .iter()
        .map(|[chain, key]| tls::Source { chain: pem_file(chain), key: pem_file(key) })
        .collect();
    let now = clock::now().wall.as_secs();
    let certificates = Certificates::parse(&sources, now)
        .map_err(|error| faults.push(layered.fault("tls.certificates", error)))
        .ok();
    let roots =
        keys.authorities.as_ref().map(|file| ClientRoots::parse(pem_file(file))).transpose();
    let roots =
        roots.map_err(|error| faults.push(layered.fault("tls.client_authorities", error))).ok()?;
    let Some(client_auth) = client_auth_of(settings.client_certificates, roots.as_ref()) else {
        faults.push(layered.fault("tls.client_authorities", NO_ISSUER));
        return None;
    };
    let mut at = Vec::with_capacity(settings.client_certificates_at.len());
    for (address, demand) in &settings.client_certificates_at {
        match client_auth_of(*demand, roots.as_ref()) {
            Some(client_auth) => at.push((*address, client_auth)),
            None => faults.push(layered.fault("tls.client_authorities", NO_ISSUER)),
        }
    }
    let settings = tls::Settings {
        alpn: settings.alpn.iter().map(|alpn| alpn.name().to_owned()).collect(),
        client_auth,
        handshake_timeout: settings.handshake_timeout,
        ..tls::Settings::default()
    };
    Some(Secure { certificates: certificates?, settings, at })
}

/// What is demanded of clients; none if no issuer is named whose certificates would count.
fn client_auth_of(demand: ClientCertificates, roots: Option<&ClientRoots>) -> Option<ClientAuth> {
    match demand {
        ClientCertificates::Off => Some(ClientAuth::Off),
        ClientCertificates::Optional => roots.cloned().map(ClientAuth::Optional),
        ClientCertificates::Required => roots.cloned().map(ClientAuth::Required),
    }
}

impl Marks {
    fn new(config: &Config, keys: &KeyTexts) -> Self {
        let mut auth = Sha256::new();
        for (_, pem) in keys.signing.iter().chain(&keys.payload) {
            auth.update(Sha256::digest(pem.as_slice()));
        }
        // Both sections are made of values that can be written.
        let text = |value: &dyn Fn() -> serde_json::Result<Vec<u8>>| value().unwrap_or_default();
        auth.update(text(&|| serde_json::to_vec(&(&config.auth, &config.desktop))));
        let upstreams = Sha256::digest(text(&|| serde_json::to_vec(&config.dns)));
        let authorities = keys.authorities.as_ref().map(|(_, pem)| pem.as_slice());
        let authorities = Sha256::digest(authorities.unwrap_or_default()).into();
        Self { auth: auth.finalize().into(), upstreams: upstreams.into(), authorities }
    }
}

/// The folders of the rows that serve files.
fn roots(table: &Table, layered: &Layered, faults: &mut Vec<Fault>) -> BTreeMap<String, Root> {
    let mut roots = BTreeMap::new();
    for route in table.iter() {
        let Destination::Files(folder) = &route.backend else { continue };
        let name = &route.row.name;
        let fallback = route.row.fallback.clone();
        match Root::new(Settings { fallback, recent: RECENT, ..Settings::new(folder.clone()) }) {
            Ok(root) => drop(roots.insert(name.clone(), root)),
            Err(error) => faults.push(layered.fault(&format!("route.{name}.backend"), error)),
        }
    }
    roots
}

/// The authenticator alone, for commands that judge tokens.
///
/// # Errors
/// Every fault of the keys and the target policy.
pub fn build_authenticator(
    layered: &Layered,
    keys: &KeyTexts,
) -> Result<Authenticator, Vec<Fault>> {
    let mut faults = Vec::new();
    authenticator(layered, keys, &mut faults).ok_or(faults)
}

fn authenticator(
    layered: &Layered,
    keys: &KeyTexts,
    faults: &mut Vec<Fault>,
) -> Option<Authenticator> {
    let config = &layered.config;
    let allow = config.auth.allow_published_keys;
    let mut keep = |key: &str, error: &dyn Display| faults.push(layered.fault(key, error));
    let signing = load(&keys.signing, |files| SigningKeys::load(files, allow))
        .map_err(|error| keep("auth.signing_keys", &error))
        .ok();
    let payload = load(&keys.payload, |files| PayloadKeys::load(files, allow))
        .map_err(|error| keep("auth.payload_keys", &error))
        .ok();
    let policy = TargetPolicy::new(Some(&config.desktop.domain()), config.desktop.cidrs.clone())
        .map_err(|error| keep("desktop", &error))
        .ok();
    let limits = CacheLimits { entries: config.auth.cache_entries };
    Some(Authenticator::new(signing?, payload?, policy?, limits))
}

fn load<K>(
    texts: &[(String, Zeroizing<Vec<u8>>)],
    load: impl FnOnce(&[KeyFile<'_>]) -> Result<K, KeyError>,
) -> Result<K, KeyError> {
    let files: Vec<_> = texts.iter().map(|(name, pem)| KeyFile { name, pem }).collect();
    load(&files)
}

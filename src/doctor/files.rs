//! The configuration and the files that it names: D01 to D06.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::finding::{
    CERTIFICATES, CONFIGURATION, Code, Finding, KEY_PAIRS, PAYLOAD_KEYS, SETTINGS, SIGNING_KEYS,
};
use crate::auth::mint::Minter;
use crate::auth::{Authenticator, KeyError, KeyFault, KeyFile, PayloadKeys, SigningKeys};
use crate::config::{self, Fault, Layered};
use crate::proxy::clock;
use crate::server::{self, KeyTexts};
use crate::tls::{Certificates, Description, PemFile, Source};

/// Life that a certificate should still have.
const ENDS_SOON: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// Life of the token that is made to try keys, in seconds. Nobody gets it.
const TRIAL: u64 = 60;

/// A key file that holds a whole pair's secret is small; what is larger is none.
const MAX_KEY: u64 = 64 << 10;

/// Looks at them all; also says whether the configuration can be used.
pub(super) fn examine(
    layered: &Layered,
    texts: &KeyTexts,
    unread: &[Fault],
) -> (Vec<Finding>, bool) {
    let built = server::build(layered, texts, None).err().unwrap_or_default();
    // An unreadable file is told once.
    let again = |fault: &&Fault| !unread.iter().any(|known| known.key == fault.key);
    let faults: Vec<&Fault> = unread.iter().chain(built.iter().filter(again)).collect();
    let about = |key: &str| -> Vec<&Fault> {
        faults.iter().copied().filter(|fault| fault.key.starts_with(key)).collect()
    };
    let mut findings = vec![
        configuration(&faults),
        settings(layered),
        signing(layered, texts, &about("auth.signing_keys")),
        payload(layered, texts, &about("auth.payload_keys")),
        pairs(layered, texts),
    ];
    findings.extend(certificates(layered, texts, &about("tls.")));
    (findings, faults.is_empty())
}

/// The finding where the configuration cannot be read.
pub(super) fn invalid(faults: &[Fault]) -> Finding {
    configuration(&faults.iter().collect::<Vec<_>>())
}

fn configuration(faults: &[&Fault]) -> Finding {
    if faults.is_empty() {
        return Finding::ok(CONFIGURATION, "valid");
    }
    let remedy = "correct each line; `deskgate check` prints every value and its origin";
    let count = format!("faults: {}; deskgate does not start", faults.len());
    Finding::problem(CONFIGURATION, count, remedy).and(faults.iter().map(ToString::to_string))
}

fn settings(layered: &Layered) -> Finding {
    let warnings = config::warnings(layered);
    let Some(((key, why), rest)) = warnings.split_first() else {
        return Finding::ok(SETTINGS, "none");
    };
    let remedy = "change each of them, unless it is meant so";
    let line = |(key, why): &(String, String)| format!("{key}: {why}");
    Finding::warning(SETTINGS, format!("{key}: {why}"), remedy).and(rest.iter().map(line))
}

type Texts = [(String, Zeroizing<Vec<u8>>)];

fn key_files(texts: &Texts) -> Vec<KeyFile<'_>> {
    texts.iter().map(|(name, pem)| KeyFile { name, pem }).collect()
}

fn signing(layered: &Layered, texts: &KeyTexts, faults: &[&Fault]) -> Finding {
    match SigningKeys::load(&key_files(&texts.signing), false) {
        Ok(keys) => Finding::ok(SIGNING_KEYS, "read").and(keys.describe()),
        Err(error) => bad_key(SIGNING_KEYS, layered, &error, faults),
    }
}

fn payload(layered: &Layered, texts: &KeyTexts, faults: &[&Fault]) -> Finding {
    match PayloadKeys::load(&key_files(&texts.payload), false) {
        Ok(keys) => {
            let private = texts.payload.iter().any(|(_, pem)| is_private(pem));
            let mode = if private {
                "mode B: pyos seals with the public key (released pyos), deskgate opens with the \
                 private one"
            } else {
                "mode A: pyos seals with the private key (as the documents say), deskgate opens \
                 with the public one"
            };
            Finding::ok(PAYLOAD_KEYS, mode).and(keys.describe())
        }
        Err(error) => bad_key(PAYLOAD_KEYS, layered, &error, faults),
    }
}

fn bad_key(code: Code, layered: &Layered, error: &KeyError, faults: &[&Fault]) -> Finding {
    let published = matches!(error, KeyError::Unusable { fault: KeyFault::Published, .. });
    let remedy = if published {
        "make keys of your own (deskgate keygen --out DIR --kubernetes), replace the Secrets of \
         pyos and of the edge together, and restart pyos"
    } else {
        "mount the Secret with this key, and let uid and mode of the file permit reading; \
         `deskgate keygen --out DIR` makes keys"
    };
    let said = match faults.first() {
        // An accepted danger is one all the same.
        None if published && layered.config.auth.allow_published_keys => {
            format!("{error} (allowed by auth.allow_published_keys)")
        }
        None => error.to_string(),
        Some(fault) => fault.message.clone(),
    };
    let more = faults.iter().skip(1).map(|fault| fault.message.clone());
    Finding::problem(code, said, remedy).and(more)
}

/// By its label, as the loader decides.
fn is_private(pem: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    pem.windows(MARK.len()).any(|window| window == MARK)
}

/// The other halves are usually elsewhere; where the Secrets are mounted whole, a token is made and
/// opened again.
fn pairs(layered: &Layered, texts: &KeyTexts) -> Finding {
    let auth = &layered.config.auth;
    let other = |files: &[PathBuf]| files.iter().find_map(|file| other_half(file));
    let Some(signing) = other(&auth.signing_keys) else {
        let why = "the private signing key is not here, as it should be; try a token of pyos: \
                   deskgate token explain";
        return Finding::skipped(KEY_PAIRS, why);
    };
    let Ok(authenticator) = server::build_authenticator(layered, texts) else {
        return Finding::skipped(KEY_PAIRS, "the keys cannot be used: see D03 and D04");
    };
    let Some(host) = some_host(layered) else {
        return Finding::skipped(KEY_PAIRS, "desktop.cidrs names no network");
    };
    let own = texts.payload.first().map(|(_, pem)| pem.clone());
    let payload = other(&auth.payload_keys);
    let sealed = payload.is_some();
    let Some(payload) = payload.or(own) else {
        return Finding::skipped(KEY_PAIRS, "there is no payload key");
    };
    try_keys(&authenticator, &signing, &payload, (sealed, &host))
}

fn try_keys(
    authenticator: &Authenticator,
    signing: &[u8],
    payload: &[u8],
    (sealed, host): (bool, &str),
) -> Finding {
    let now = clock::now();
    let token =
        Minter::new(signing, payload).map_err(|error| error.to_string()).and_then(|minter| {
            minter.mint(host, now.wall.as_secs(), TRIAL).map_err(|error| error.to_string())
        });
    let token = match token {
        Ok(token) => Zeroizing::new(token),
        Err(error) => return Finding::skipped(KEY_PAIRS, format!("no trial: {error}")),
    };
    let steps = authenticator.explain(&token, now);
    let signed = steps.iter().any(|step| step.name == "signature" && step.outcome.is_ok());
    let opened =
        steps.iter().any(|step| step.name == "seal" && step.target.as_deref() == Some(host));
    let remedy = "take both files from the same Secret as pyos, and restart what has the old one";
    let said = match (signed, opened) {
        (false, _) => {
            let said = "the private signing key beside it belongs to another public key";
            return Finding::problem(KEY_PAIRS, said, remedy);
        }
        (true, false) if sealed => {
            let said = "the payload key beside it belongs to another pair";
            return Finding::problem(KEY_PAIRS, said, remedy);
        }
        (true, true) => "a trial token is verified and opened",
        (true, false) => "the signing keys are a pair; of the payload keys only one is here",
    };
    let beside = "the private signing key lies beside the public one: deskgate does not need it, \
                  mount only the public one";
    Finding::ok(KEY_PAIRS, said).and([beside.to_owned()])
}

/// The other half of a key by the names of the install documents.
fn other_half(file: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let name = file.file_name()?.to_str()?;
    let other = if name.contains("_public_") {
        name.replace("_public_", "_private_")
    } else if name.contains("_private_") {
        name.replace("_private_", "_public_")
    } else {
        return None;
    };
    let other = file.with_file_name(other);
    let fits = fs::metadata(&other).is_ok_and(|data| data.is_file() && data.len() <= MAX_KEY);
    fits.then(|| fs::read(other).ok()).flatten().map(Zeroizing::new)
}

/// An address that a token may name. Nobody is asked there.
fn some_host(layered: &Layered) -> Option<String> {
    Some(layered.config.desktop.cidrs.first()?.network().to_string())
}

fn certificates(layered: &Layered, texts: &KeyTexts, faults: &[&Fault]) -> Vec<Finding> {
    let remedy = "mount the Secret with certificate and key (PEM, chain included)";
    if let Some((first, rest)) = faults.split_first() {
        let more = rest.iter().map(|fault| fault.message.clone());
        return vec![Finding::problem(CERTIFICATES, first.message.clone(), remedy).and(more)];
    }
    if texts.certificates.is_empty() {
        let why = if layered.config.listen.https.is_empty() {
            "listen.https is empty: there is no HTTPS"
        } else {
            "there is no certificate, hence no HTTPS here"
        };
        return vec![Finding::skipped(CERTIFICATES, why)];
    }
    let sources: Vec<_> = texts
        .certificates
        .iter()
        .map(|[chain, key]| Source {
            chain: PemFile { name: &chain.0, pem: &chain.1 },
            key: PemFile { name: &key.0, pem: &key.1 },
        })
        .collect();
    let now = clock::now().wall.as_secs();
    match Certificates::parse(&sources, now) {
        Ok(found) => found
            .describe()
            .iter()
            .map(|of| dates(CERTIFICATES, of, now).of(of.file.clone()))
            .collect(),
        Err(error) => vec![Finding::problem(CERTIFICATES, error.to_string(), remedy)],
    }
}

/// What a certificate's dates and names say at this Unix time.
pub(super) fn dates(code: Code, of: &Description, now: u64) -> Finding {
    let names = match of.names.as_slice() {
        [] => "no name".to_owned(),
        names => names.join(", "),
    };
    let renew = "renew it; a new file is served within seconds, without a restart";
    let left = of.not_after.saturating_sub(now);
    let finding = if of.not_after <= now {
        let days = (now - of.not_after) / DAY;
        Finding::problem(code, format!("it expired {days} days ago"), renew)
    } else if of.not_before > now {
        let remedy = "set this machine's clock, or wait";
        let hours = (of.not_before - now).div_ceil(3600);
        Finding::problem(code, format!("it becomes valid in {hours} hours"), remedy)
    } else if of.names.is_empty() {
        let remedy = "issue one with subject alternative names: browsers refuse it";
        Finding::problem(code, "it names no host", remedy)
    } else if left < ENDS_SOON.as_secs() {
        Finding::warning(code, format!("it expires in {} days", left / DAY), renew)
    } else {
        Finding::ok(code, format!("valid for another {} days", left / DAY))
    };
    finding.and([format!("for {names}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::doctor::finding::Status;

    #[test]
    fn published_keys_are_a_problem_even_where_they_are_allowed() {
        let error = KeyError::Unusable { file: "key.pem".to_owned(), fault: KeyFault::Published };
        for (toml, allowed) in [("", false), ("[auth]\nallow_published_keys = true\n", true)] {
            let layered = Config::from_text("t", toml).unwrap();
            let finding = bad_key(SIGNING_KEYS, &layered, &error, &[]);
            assert_eq!(finding.status, Status::Problem);
            let remedy = finding.remedy.unwrap();
            assert!(remedy.contains("deskgate keygen --out DIR"), "{remedy}");
            let said = finding.details.concat();
            assert!(said.starts_with("key.pem: "), "{said}");
            assert_eq!(said.contains("(allowed by auth.allow_published_keys)"), allowed, "{said}");
        }
    }
}

//! `deskgate keygen`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deskgate::auth::mint::KeySet;
use zeroize::Zeroizing;

use super::{Failure, say};

/// File of the manifests.
const MANIFESTS: &str = "abcdesktop-secrets.yaml";

/// The Secrets of the install documents and the files that each holds.
const SECRETS: [(&str, [&str; 2]); 3] = [
    ("abcdesktopjwtdesktoppayload", [KeySet::PAYLOAD_PRIVATE, KeySet::PAYLOAD_PUBLIC]),
    ("abcdesktopjwtdesktopsigning", [KeySet::SIGNING_PRIVATE, KeySet::SIGNING_PUBLIC]),
    ("abcdesktopjwtusersigning", [KeySet::USER_SIGNING_PRIVATE, KeySet::USER_SIGNING_PUBLIC]),
];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Folder for the files; made if missing. Files that exist are never overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Size of each key in bits.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1024..=8192))]
    bits: u16,
    /// Write one file with the three Secret manifests instead of six PEM files.
    #[arg(long)]
    kubernetes: bool,
}

pub(super) fn keygen(arguments: &Arguments) -> Result<(), Failure> {
    // Before anything is written: half of a new set beside half of an old one opens nothing.
    let names: Vec<_> = if arguments.kubernetes {
        vec![MANIFESTS]
    } else {
        SECRETS.into_iter().flat_map(|(_, names)| names).collect()
    };
    for path in names.into_iter().map(|name| arguments.out.join(name)) {
        if path.symlink_metadata().is_ok() {
            let said = format!("{} exists, and is not overwritten", path.display());
            return Err(Failure::other(said));
        }
    }
    let keys = KeySet::generate(usize::from(arguments.bits)).map_err(Failure::other)?;
    fs::create_dir_all(&arguments.out)
        .map_err(|error| Failure::other(format!("{}: {error}", arguments.out.display())))?;
    if arguments.kubernetes {
        return create(&arguments.out.join(MANIFESTS), &manifests(&keys));
    }
    for (name, text) in keys.files() {
        create(&arguments.out.join(name), text)?;
    }
    Ok(())
}

/// Writes a new file that only its owner can read.
fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::other(format!("{}: {error}", path.display()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    say(&format!("{}\n", path.display()))
}

fn manifests(keys: &KeySet) -> Zeroizing<String> {
    let files = keys.files();
    let mut text = Zeroizing::new(String::new());
    for (secret, names) in SECRETS {
        text.push_str("---\napiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata:\n  name: ");
        text.push_str(secret);
        text.push_str("\ndata:\n");
        for (name, pem) in files.iter().filter(|(name, _)| names.contains(name)) {
            text.push_str(&format!("  {name}: {}\n", STANDARD.encode(pem)));
        }
    }
    text
}

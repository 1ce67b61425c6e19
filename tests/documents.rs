//! What the documents say is what the program does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deskgate::admission::Limit;
use deskgate::auth::mint::KeySet;
use deskgate::config::env::OVERRIDES;
use deskgate::error::Error;
use deskgate::telemetry::metrics::{Discovery, Metrics, State};
use deskgate::tunnel::ends::End;
use deskgate::{auth, upstream};

use crate::support::{KeyDir, Site, binary};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_readme_lists_the_routes_that_the_program_has() {
    let printed = Command::new(binary()).arg("routes").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let readme = document("README.md");
    let (_, rest) = readme.split_once("<!-- routes -->\n").unwrap();
    let (listed, _) = rest.split_once("<!-- /routes -->").unwrap();
    assert_eq!(listed, printed, "put the output of `deskgate routes` there");
}

#[test]
fn the_readme_names_every_environment_variable() {
    let readme = document("README.md");
    for entry in OVERRIDES {
        assert!(readme.contains(entry.variable), "{}", entry.variable);
    }
}

#[test]
fn the_architecture_page_names_every_room() {
    let page = document("ARCHITECTURE.md");
    for line in document("src/lib.rs").lines() {
        let Some(name) = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")) else {
            continue;
        };
        assert!(page.contains(&format!("| `{}` |", name.trim_end_matches(';'))), "{name}");
    }
}

#[test]
fn every_field_and_reason_of_the_access_log_is_described() {
    let page = document("docs/logs.md");
    let site = Site::start();
    site.get("/API/x", "");
    let line = site.gateway.logged("/API/x");
    let mut names: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
    names.extend(End::ALL.iter().map(|end| end.reason().to_owned()));
    names.extend(auth::Error::REASONS.map(ToOwned::to_owned));
    names.extend(upstream::Error::ALL.iter().map(|error| error.reason().to_owned()));
    names.extend(Error::OWN_REASONS.map(ToOwned::to_owned));
    names.extend(Limit::ALL.map(|limit| limit.reason().to_owned()));
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/logs.md does not say what {name} is");
    }
}

#[test]
fn every_metric_is_described() {
    let page = document("docs/operate.md");
    let discovery = Discovery { age: Some(1.0), state: "synced", states: &["synced"] };
    let state = State { discovery: Some(discovery), ..State::default() };
    let text = Metrics::default().exposition(state);
    let mut found = 0;
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE deskgate_")) {
        let name = name.split(' ').next().unwrap();
        assert!(page.contains(&format!("`deskgate_{name}")), "docs/operate.md has no {name}");
        found += 1;
    }
    assert!(found > 20, "{text}");
}

#[test]
fn the_manifests_configurations_are_valid() {
    let keys = KeyDir::new();
    let key = |name| keys.path().join(name);
    // What the Secret of the operators' token is mounted as.
    let token = key("token");
    fs::write(&token, "0".repeat(32)).unwrap();
    for file in ["base/deskgate.toml", "components/admin/deskgate.toml"] {
        let text = document(&format!("conf/kubernetes/{file}"));
        let text = text.replace("/config.admin/token", token.to_str().unwrap());
        let config = key("deskgate.toml");
        fs::write(&config, text).unwrap();
        for profile in ["abcdesktop-3", "abcdesktop-4"] {
            let output = Command::new(binary())
                .args(["check", "--config"])
                .arg(&config)
                .env_clear()
                .env("DESKGATE_PROFILE", profile)
                .env("JWT_DESKTOP_SIGNING_PUBLIC_KEY", key(KeySet::SIGNING_PUBLIC))
                .env("JWT_DESKTOP_PAYLOAD_PRIVATE_KEY", key(KeySet::PAYLOAD_PRIVATE))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{file}, {profile}: {said}");
        }
    }
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_security_page_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [sources(&root.join("tests")), sources(&root.join("src"))].concat();
    let page = document("docs/security.md");
    let mut named = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
        };
        let Some((module, test)) = name.rsplit_once("::") else { continue };
        if !name.split("::").all(word) {
            continue;
        }
        named += 1;
        let place = module.replace("::", "/");
        let there = files.iter().any(|file| {
            let mut path = file.with_extension("");
            if path.ends_with("tests") && path.starts_with(root.join("src")) {
                path.pop();
            }
            let text = || fs::read_to_string(file).unwrap();
            path.ends_with(&place) && text().contains(&format!("fn {test}("))
        });
        assert!(there, "no test {name}");
    }
    assert!(named > 50, "{named} tests are named");
}

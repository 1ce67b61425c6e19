//! Who may import whom: the table of ARCHITECTURE.md, held against the source.

use std::fs;
use std::path::{Path, PathBuf};

/// A room, the rooms of this crate that it may import, and crates that it may not name.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("config", &[], &["pingora", "tokio", "http", "hyper"]),
    ("route", &["config"], &["pingora", "tokio", "hyper", "std::fs", "std::env", "SystemTime"]),
    ("auth", &["config"], &["pingora", "tokio", "hyper", "std::fs", "std::env", "SystemTime"]),
    ("redact", &["auth"], &["pingora", "tokio"]),
    ("admin", &["telemetry"], &["pingora", "std::env", "SystemTime::now"]),
    ("admission", &["config"], &["pingora", "tokio", "hyper", "std::fs", "std::env", "SystemTime"]),
    ("tls", &[], &["pingora", "hyper", "std::fs", "std::env", "SystemTime::now"]),
    ("transport", &["admission"], &[]),
    ("http1", &["config", "transport"], &["std::fs", "std::env"]),
    ("session", &["http1", "transport"], &["std::fs", "std::env", "SystemTime"]),
    ("discovery", &[], &["pingora", "std::env", "SystemTime::now"]),
    ("upstream", &["auth", "config", "discovery", "http1", "transport"], &[]),
    ("files", &[], &["pingora", "hyper", "std::env", "SystemTime::now"]),
    ("error", &["admission", "auth", "files", "http1", "route", "upstream"], &["tokio"]),
    ("respond", &["error", "session", "upstream"], &["tracing"]),
    ("telemetry", &["auth", "config"], &["pingora", "tokio"]),
    ("tunnel", &["admission", "config", "http1", "session", "telemetry", "transport"], &[]),
    (
        "proxy",
        &[
            "admission",
            "auth",
            "config",
            "error",
            "files",
            "http1",
            "redact",
            "respond",
            "route",
            "session",
            "telemetry",
            "transport",
            "tunnel",
            "upstream",
        ],
        &["std::fs", "std::env"],
    ),
    (
        "server",
        &[
            "admin",
            "admission",
            "auth",
            "config",
            "discovery",
            "error",
            "files",
            "http1",
            "proxy",
            "respond",
            "route",
            "session",
            "telemetry",
            "tls",
            "transport",
            "tunnel",
            "upstream",
        ],
        &["std::env"],
    ),
    (
        "doctor",
        &["auth", "config", "discovery", "proxy", "server", "tls", "upstream"],
        &["pingora", "std::env", "SystemTime::now"],
    ),
    ("demo", &[], &["pingora"]),
];

fn files(room: &str) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![source.join(format!("{room}.rs"))];
    let mut folders = vec![source.join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The product lines of a file: without comments, and without tests.
fn product(path: &Path) -> String {
    let name = path.to_string_lossy();
    if name.contains("tests") || name.ends_with("testing.rs") {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(code).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (room, allowed, forbidden) in ROOMS {
        for file in files(room) {
            let text = product(&file);
            for (_, rest) in
                text.match_indices("crate::").map(|(at, found)| text.split_at(at + found.len()))
            {
                let name: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name != *room && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{}: imports {name}", file.display()));
                }
            }
            for word in *forbidden {
                let named = [format!("use {word}"), format!("{word}::")];
                if named.iter().any(|named| text.contains(named)) {
                    wrong.push(format!("{}: names {word}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_of_the_library_is_in_the_table() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for line in lib.lines() {
        let Some(name) = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod ")) else {
            continue;
        };
        let name = name.trim_end_matches(';');
        assert!(ROOMS.iter().any(|room| room.0 == name), "{name} is not in the table");
    }
}

#[test]
fn every_file_opens_with_its_duty() {
    for (room, ..) in ROOMS {
        for file in files(room) {
            let text = fs::read_to_string(&file).unwrap();
            let test = file.to_string_lossy().contains("test");
            assert!(test || text.starts_with("//! "), "{}", file.display());
        }
    }
}

#[test]
fn only_respond_turns_an_error_into_a_response() {
    for (room, ..) in ROOMS.iter().filter(|room| !["respond", "admin", "demo"].contains(&room.0)) {
        for file in files(room) {
            let text = product(&file);
            for word in ["respond_error", "BAD_GATEWAY", "UNAUTHORIZED", "write_error_response"] {
                assert!(!text.contains(word), "{}: {word}", file.display());
            }
        }
    }
}

//! What a scanner finds of TLS: testssl.sh, nothing of medium severity or above.

use std::process::Command;

use crate::support::free_port;
use crate::tls::Issued;

/// Longest time for one connection of the scanner, in seconds.
const PATIENCE: &str = "30";

/// What is no matter of this program: that the scanner's openssl has no engines, and that the certificate of
/// the tests lives long and names no list of revoked ones.
const NOT_OURS: [&str; 3] = ["engine_problem", "cert_validityPeriod", "cert_revocation"];

#[test]
fn testssl_finds_nothing_of_medium_or_above() {
    let issued = Issued::new();
    let port = free_port();
    // The scanner connects before it has made up what to say.
    let patient = "handshake_timeout = \"60s\"\n";
    let site = issued.site_with(port, "[listen]\nredirect = true\nhsts = \"730d\"\n", patient);
    let report = issued.path("report.json");
    let output = Command::new("testssl")
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--nodns",
            "none",
            "--ip",
            "127.0.0.1",
        ])
        // All that judges the server; not the list of simulated clients, which takes longest.
        .args(["-p", "-s", "-f", "-P", "-S", "-h", "-U"])
        .args(["--openssl-timeout", PATIENCE, "--connect-timeout", PATIENCE, "--add-ca"])
        .arg(issued.path("ca.pem"))
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("desk.example:{port}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let findings = report.as_array().unwrap();
    let of = |id: &str| findings.iter().find(|finding| finding["id"] == id);
    // That the scan was a scan.
    for (id, found) in [
        ("TLS1_3", "offered with final"),
        ("TLS1_2", "offered"),
        ("TLS1_1", "not offered"),
        ("TLS1", "not offered"),
        ("SSLv3", "not offered"),
        ("heartbleed", "not vulnerable"),
        ("ROBOT", "not vulnerable"),
        ("LUCKY13", "not vulnerable"),
        ("HSTS_time", "63072000"),
    ] {
        let finding = of(id).unwrap_or_else(|| panic!("no {id}: {said}"));
        assert!(finding["finding"].as_str().unwrap().contains(found), "{finding}\n{said}");
    }
    // WARN is a check that could not be made, for want of time; those that must be are named above.
    let harmless = ["OK", "INFO", "LOW", "DEBUG", "WARN"];
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| !NOT_OURS.contains(&finding["id"].as_str().unwrap()))
        .filter(|finding| !harmless.contains(&finding["severity"].as_str().unwrap()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}\n{said}");
    drop(site);
}

//! The operators' interface against its own description, by schemathesis.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::support::{Site, echo, eventually, free_port, raw};

const TOKEN: &str = "a-token-of-the-operators";

/// Requests that are made up for each operation.
const EXAMPLES: &str = "20";

#[test]
fn every_answer_of_the_interface_is_as_its_description_says() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let text = format!("[admin]\nlisten = [\"{address}\"]\ntoken = {file:?}\n");
    let site = Site::configured_serving(&text, echo);
    let _tunnels: Vec<_> = (0..3).map(|_| site.websocket(&Site::screen())).collect();
    play(folder.path(), address, &["--exclude-path", "/admin/drain"]);
    // What is ready fails on purpose after this one.
    play(folder.path(), address, &["--include-path", "/admin/drain"]);
    // It still works, and nothing that was made up has told it otherwise.
    let head = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    eventually("it lives", || (raw(address, head).unwrap().status == 200).then_some(()));
    assert!(!site.gateway.output().contains("panicked"));
}

/// Makes up requests for some operations; each answer must be one that the description has.
fn play(folder: &Path, address: SocketAddr, operations: &[&str]) {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv/bin");
    let output = Command::new(tools.join("python"))
        .args(["-m", "schemathesis.cli", "run", "--no-color", "--seed", "1"])
        .args(["--max-examples", EXAMPLES, "--phases", "examples,coverage,fuzzing"])
        .args(["--checks", "all", "--request-timeout", "20", "--suppress-health-check", "all"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(operations)
        .arg(format!("http://{address}/openapi.json"))
        .current_dir(folder)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{operations:?}: {said}");
    assert!(said.contains("generated"), "{said}");
}

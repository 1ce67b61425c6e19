use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deskgate::auth::mint::KeySet;
use tempfile::TempDir;

use crate::support::{Gateway, KeyDir, Origin, binary, eventually, free_port, tokens};

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

fn deskgate(arguments: &[&str]) -> Said {
    told(arguments, "")
}

/// Runs a command with this text on its standard input.
fn told(arguments: &[&str], input: &str) -> Said {
    let mut child = Command::new(binary())
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no input may have ended already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A configuration file beside the run's keys.
fn config(keys: &KeyDir, more: &str) -> String {
    let path = keys.path().join("deskgate.toml");
    std::fs::write(&path, format!("{}{more}", keys.auth())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn check_prints_every_value_and_where_it_comes_from() {
    let keys = KeyDir::new();
    let path = config(&keys, "[server]\ndrain = \"3s\"\n");
    let said = deskgate(&["check", "--config", &path]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", said.out);
    assert!(said.out.ends_with("the configuration is valid\n"), "{}", said.out);
    let line = |key: &str| {
        let start = format!("{key} = ");
        said.out.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{key}"))
    };
    assert!(line("server.drain").contains("deskgate.toml"), "{}", line("server.drain"));
    assert!(!line("log.level").contains(&path), "{}", line("log.level"));
    assert!(said.out.contains("RSA 1024"), "{}", said.out);
}

#[test]
fn check_warns_of_what_is_valid_and_dangerous() {
    let keys = KeyDir::new();
    let path =
        config(&keys, "[server]\ndrain = \"5m\"\n[listen]\ntrusted_proxies = [\"0.0.0.0/0\"]\n");
    let said = deskgate(&["check", "--config", &path]);
    assert_eq!(said.code, 0);
    for key in ["server.drain", "listen.trusted_proxies"] {
        assert!(said.err.contains(&format!("warning: {key}: ")), "{}", said.err);
    }
}

#[test]
fn check_and_the_start_say_the_same_of_a_collector_that_is_none() {
    let keys = KeyDir::new();
    let endpoint = "http://collector:99999/v1/traces";
    let path = config(&keys, &format!("[tracing]\nendpoint = {endpoint:?}\n"));
    let [check, run] = ["check", "run"].map(|command| deskgate(&[command, "--config", &path]));
    assert!(check.err.contains("tracing.endpoint"), "{}", check.err);
    assert_eq!((check.code, &check.err), (run.code, &run.err));
}

#[test]
fn check_reports_every_fault_at_once() {
    let keys = KeyDir::new();
    let path = config(
        &keys,
        "[desktop.ports]\nvnc = 0\n[dns]\nservers = [\"nowhere\"]\n\
         [[route]]\nname = \"mine\"\nmatch = { exact = \"x\" }\nbackend = { upstream = \"nobody\" }\n",
    );
    let said = deskgate(&["check", "--config", &path]);
    assert_eq!(said.code, 64, "{}", said.all());
    for want in [
        "deskgate.toml:7: dns.servers: ",
        "deskgate.toml:10: route.mine.match: ",
        "deskgate.toml:11: route.mine.backend: ",
        "desktop.ports.vnc is 0",
    ] {
        assert!(said.err.contains(want), "{want}: {}", said.err);
    }
    let said = deskgate(&["check", "--config", "/nowhere.toml"]);
    assert_eq!(said.code, 64, "{}", said.all());
    assert!(said.err.contains("/nowhere.toml"), "{}", said.err);
}

#[test]
fn check_tells_a_missing_key_file_and_everything_else_too() {
    let keys = KeyDir::new();
    let path = keys.path().join("x.toml");
    let other = keys.path().join("other.pem");
    std::fs::write(&other, "no key").unwrap();
    let text = format!(
        "[auth]\nsigning_keys = [\"/nowhere.pem\"]\npayload_keys = [{other:?}]\n\
         [desktop.ports]\nvnc = 0\n"
    );
    std::fs::write(&path, text).unwrap();
    let said = deskgate(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!(said.code, 64);
    assert!(said.err.contains("x.toml:2: auth.signing_keys: /nowhere.pem"), "{}", said.err);
    assert_eq!(said.err.matches("auth.signing_keys").count(), 1, "{}", said.err);
    assert!(said.err.contains("x.toml:3: auth.payload_keys: "), "{}", said.err);
    assert!(said.err.contains("desktop.ports.vnc is 0"), "{}", said.err);
}

#[test]
fn check_reads_the_admin_token_as_serving_does() {
    let keys = KeyDir::new();
    let file = keys.path().join("token");
    let path = config(&keys, &format!("[admin]\ntoken = {file:?}\n"));
    let check = || deskgate(&["check", "--config", &path]);
    let wrong = format!("deskgate.toml:5: admin.token: {}", file.display());
    let said = check();
    assert_eq!(said.code, 64, "{}", said.all());
    assert!(said.err.contains(&format!("{wrong} cannot be read: ")), "{}", said.err);
    std::fs::write(&file, "sesame").unwrap();
    let said = check();
    assert_eq!(said.code, 64, "{}", said.all());
    assert!(said.err.contains(&format!("{wrong}: the token must have 16")), "{}", said.err);
    assert!(!said.all().contains("sesame"), "{}", said.all());
    std::fs::write(&file, "open-sesame-of-the-operators\n").unwrap();
    let said = check();
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(!said.all().contains("sesame"), "{}", said.all());
}

#[test]
fn no_command_prints_a_key() {
    let keys = KeyDir::new();
    let path = config(&keys, "[desktop.ports]\nvnc = 1\n");
    // Every line of the private keys' text.
    let secrets: Vec<_> = [&tokens::keys().payload_private, &tokens::keys().signing_private]
        .iter()
        .flat_map(|pem| pem.lines().filter(|line| line.len() > 40))
        .collect();
    assert!(secrets.len() > 10);
    let broken = keys.path().join("broken.toml");
    let swapped = format!(
        "[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n",
        keys.path().join(KeySet::SIGNING_PRIVATE),
        keys.path().join(KeySet::PAYLOAD_PRIVATE)
    );
    std::fs::write(&broken, swapped).unwrap();
    for arguments in [
        ["check", "--config", &path],
        ["check", "--config", broken.to_str().unwrap()],
        ["check", "--config", keys.path().join(KeySet::PAYLOAD_PRIVATE).to_str().unwrap()],
        ["routes", "--config", &path],
    ] {
        let said = deskgate(&arguments).all();
        for secret in &secrets {
            assert!(!said.contains(*secret), "{arguments:?}: {said}");
        }
    }
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn keygen_makes_six_files_that_openssl_takes_and_never_overwrites_one() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("new/keys");
    let arguments = ["keygen", "--bits", "1024", "--out", out.to_str().unwrap()];
    let said = deskgate(&arguments);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out.lines().count(), 6);
    let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
    for (private, public, form) in [
        (KeySet::PAYLOAD_PRIVATE, KeySet::PAYLOAD_PUBLIC, "-RSAPublicKey_in"),
        (KeySet::SIGNING_PRIVATE, KeySet::SIGNING_PUBLIC, "-pubin"),
        (KeySet::USER_SIGNING_PRIVATE, KeySet::USER_SIGNING_PUBLIC, "-pubin"),
    ] {
        openssl(&["rsa", "-in", &path(private), "-check", "-noout"]);
        openssl(&["rsa", form, "-in", &path(public), "-noout"]);
    }
    let before = texts(&out);
    assert_eq!(before.len(), 6);
    for entry in std::fs::read_dir(&out).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = deskgate(&arguments);
    assert_eq!(again.code, 1, "{}", again.all());
    assert!(again.err.contains("exists"), "{}", again.err);
    assert_eq!(texts(&out), before);
    // Nor does it make a set that is half old.
    std::fs::remove_file(path(KeySet::PAYLOAD_PRIVATE)).unwrap();
    let again = deskgate(&arguments);
    assert_eq!((again.code, again.out.as_str()), (1, ""), "{}", again.err);
    assert_eq!(texts(&out).len(), 5);
}

fn texts(dir: &Path) -> Vec<(String, String)> {
    let mut texts: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap()))
        .collect();
    texts.sort();
    texts
}

#[test]
fn keys_that_keygen_made_serve() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().to_str().unwrap();
    assert_eq!(deskgate(&["keygen", "--bits", "1024", "--out", out]).code, 0);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let config = dir.path().join("deskgate.toml");
    let auth = format!(
        "[auth]\nsigning_keys = [{:?}]\npayload_keys = [{:?}]\n",
        path(KeySet::SIGNING_PUBLIC),
        path(KeySet::PAYLOAD_PRIVATE)
    );
    std::fs::write(&config, auth).unwrap();
    let minted = deskgate(&[
        "token",
        "mint",
        "--signing-key",
        &path(KeySet::SIGNING_PRIVATE),
        "--payload-key",
        &path(KeySet::PAYLOAD_PUBLIC),
        "--target",
        "10.1.2.3",
    ]);
    assert_eq!(minted.code, 0, "{}", minted.err);
    let said = told(&["token", "explain", "--config", config.to_str().unwrap()], &minted.out);
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(said.out.contains("10.1.2.3"), "{}", said.out);
}

#[test]
fn keygen_for_kubernetes_makes_three_secrets() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().to_str().unwrap();
    let arguments = ["keygen", "--bits", "1024", "--kubernetes", "--out", out];
    let said = deskgate(&arguments);
    assert_eq!(said.code, 0, "{}", said.err);
    let path = dir.path().join("abcdesktop-secrets.yaml");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let documents: Vec<_> = text.split("---\n").filter(|text| !text.is_empty()).collect();
    assert_eq!(documents.len(), 3);
    let mut files = 0;
    for (document, name) in documents.iter().zip([
        "abcdesktopjwtdesktoppayload",
        "abcdesktopjwtdesktopsigning",
        "abcdesktopjwtusersigning",
    ]) {
        let (head, data) = document.split_once("\ndata:\n").unwrap();
        let want = format!("apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata:\n  name: {name}");
        assert_eq!(head, want);
        for line in data.lines() {
            let (file, base64) = line.strip_prefix("  ").unwrap().split_once(": ").unwrap();
            let pem = String::from_utf8(STANDARD.decode(base64).unwrap()).unwrap();
            let private = file.contains("_private_");
            assert!(pem.starts_with("-----BEGIN ") && pem.ends_with("-----\n"), "{file}: {pem}");
            assert_eq!(pem.contains("PRIVATE KEY"), private, "{file}");
            files += 1;
        }
    }
    assert_eq!(files, 6);
    assert_eq!(deskgate(&arguments).code, 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn explain_names_the_step_that_refuses_and_never_prints_the_token() {
    let keys = KeyDir::new();
    let path = config(&keys, "[desktop]\ncidrs = [\"127.0.0.0/8\"]\n");
    let pod = "127.0.0.2";
    let good = tokens::valid(pod);
    for (token, code, want) in [
        (good.clone(), 0, "the token opens this desktop"),
        (format!("  Bearer {good}\n"), 0, "the token opens this desktop"),
        (tokens::expired(pod), 1, "the token is refused: expired"),
        (tokens::foreign(pod), 1, "the token is refused: bad_signature"),
        (tokens::valid("10.1.2.3"), 1, "the token is refused: outside_policy"),
        ("garbage that is no token at all".to_owned(), 1, "the token is refused: malformed"),
        (String::new(), 1, "the token is refused: missing"),
        ("x".repeat(100_000), 1, "the token is refused: too_long"),
    ] {
        let said = told(&["token", "explain", "--config", &path], &token);
        assert_eq!(said.code, code, "{}", said.all());
        assert!(said.all().contains(want), "{want}: {}", said.all());
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(!said.all().contains(part.trim()), "{}", said.all());
        }
    }
}

#[test]
fn mint_refuses_what_cannot_be_sealed() {
    let keys = KeyDir::new();
    let path = |name: &str| keys.path().join(name).to_str().unwrap().to_owned();
    let (signing, payload) = (path(KeySet::SIGNING_PRIVATE), path(KeySet::PAYLOAD_PUBLIC));
    let mint = |signing: &str, target: &str| {
        deskgate(&[
            "token",
            "mint",
            "--signing-key",
            signing,
            "--payload-key",
            &payload,
            "--target",
            target,
        ])
    };
    assert_eq!(mint(&signing, &"a".repeat(118)).code, 1);
    assert_eq!(mint(&signing, "h\u{f4}te").code, 1);
    assert_eq!(mint(&path(KeySet::SIGNING_PUBLIC), "10.1.2.3").code, 1);
    assert_eq!(mint("/nowhere", "10.1.2.3").code, 1);
}

/// What the probe says of somebody who answers, though not always in the probe's three seconds.
fn health(url: &str) -> Said {
    eventually("an answer in the probe's time", || {
        let said = deskgate(&["health", "--url", url]);
        (!said.err.contains("no answer within")).then_some(said)
    })
}

#[test]
fn health_says_whether_an_instance_answers() {
    let gateway = Gateway::start("");
    let url = |path: &str| format!("http://{}{path}", gateway.address());
    assert_eq!(health(&url("/healthz")).code, 0);
    let said = health(&url("/filer"));
    assert_eq!((said.code, said.err.contains("401")), (1, true), "{}", said.err);
    let refused = format!("http://127.0.0.1:{}/healthz", free_port());
    assert_eq!(deskgate(&["health", "--url", &refused]).code, 1);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/healthz", silent.local_addr().unwrap());
    assert_eq!(deskgate(&["health", "--url", &silent]).code, 1);
    assert_ne!(deskgate(&["health", "--url", "https://127.0.0.1/"]).code, 0);
}

#[test]
fn health_asks_every_address_of_a_name_for_the_whole_target() {
    // Nobody listens at ::1, which the name may have, too.
    let origin = Origin::start(|exchange| exchange.answer("200 OK", "", ""));
    let url = |rest: &str| format!("http://localhost:{}{rest}", origin.address().port());
    for (rest, target) in [("/x?y=1", "/x?y=1"), ("?y=1", "/?y=1"), ("", "/")] {
        let said = health(&url(rest));
        assert_eq!(said.code, 0, "{}", said.err);
        assert_eq!(origin.last().target(), target);
    }
}

#[test]
fn top_names_the_token_file_that_it_cannot_read() {
    let said = deskgate(&["top", "--token-file", "/nowhere/token"]);
    assert_eq!(said.code, 1, "{}", said.all());
    assert!(said.err.contains("/nowhere/token: "), "{}", said.err);
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_demo_tells_where_it_is_and_goes_nowhere_else() {
    let mut demo = Command::new(binary())
        .args(["demo", "--listen", "127.0.0.1:0"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Ended)
        .unwrap();
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let port: u16 = lines
        .find_map(|line| {
            let line = line.unwrap();
            let rest = line.strip_prefix("deskgate demo: open http://localhost:")?;
            rest.split('/').next()?.parse().ok()
        })
        .unwrap();
    assert_ne!(port, 0);
    eventually("the demo answers", || TcpStream::connect(("127.0.0.1", port)).ok());
    let taken = format!("127.0.0.1:{port}");
    let said = deskgate(&["demo", "--listen", &taken]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{}", said.err);
    assert!(said.err.contains(&format!("cannot listen on {taken}: ")), "{}", said.err);
}

#[test]
fn routes_prints_one_row_for_each_route() {
    let said = deskgate(&["routes"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let layered = deskgate::config::Config::from_text("empty", "").unwrap();
    let rows = layered.config.routes.len();
    assert_eq!(said.out.lines().count(), rows + 2, "{}", said.out);
    assert!(said.out.contains("| websockify | `/websockify` |"), "{}", said.out);
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(said.out.lines().all(|line| columns(line) == 8), "{}", said.out);
}

#[test]
fn completions_are_a_script_that_bash_takes() {
    let said = deskgate(&["completions", "bash"]);
    assert_eq!(said.code, 0);
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("deskgate.bash");
    std::fs::write(&script, &said.out).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
    assert!(said.out.contains("keygen"));
}

#[test]
fn help_mentions_every_command() {
    let said = deskgate(&["--help"]);
    assert_eq!(said.code, 0);
    for command in ["run", "check", "doctor", "keygen", "token", "routes", "health", "completions"]
    {
        assert!(said.out.contains(&format!("\n  {command} ")), "{command}: {}", said.out);
        assert_eq!(deskgate(&[command, "--help"]).code, 0, "{command}");
    }
    assert_eq!(deskgate(&["--version"]).out, format!("deskgate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for arguments in [
        &["run", "--nonsense"][..],
        &["nonsense"],
        &[],
        &["keygen"],
        &["keygen", "--out", "/tmp", "--bits", "512"],
        &["demo", "--token-life", "0s"],
        &["demo", "--token-life", "25days"],
        &["token", "mint"],
        &["completions", "nonsense"],
    ] {
        let said = deskgate(arguments);
        assert_eq!(said.code, 64, "{arguments:?}: {}", said.all());
        assert!(!said.err.is_empty() && said.out.is_empty(), "{arguments:?}");
    }
}

//! The contract, played row by row from `conformance.toml` against one gateway per profile, or
//! against any other gateway (`make conformance TARGET=http://host:port KEYS=folder`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::OnceLock;

use deskgate::config::Config;
use deskgate::route::{NormalPath, Table};

use crate::support::{Client, PODS, Response, Seen, eventually};

mod rig;
mod rows;
mod tokens;

use rig::{Rig, SERVICES, UPSTREAMS};
use rows::{Conformance, Row, Words};

const PROFILES: [&str; 2] = ["abcdesktop-3", "abcdesktop-4"];

/// Fewer rows than this cannot be the whole contract.
const LEAST_ROWS: usize = 350;

#[test]
fn abcdesktop_3_gets_what_oc_nginx_gave_it() {
    play_all("abcdesktop-3");
}

#[test]
fn abcdesktop_4_gets_what_route_gave_it() {
    play_all("abcdesktop-4");
}

fn play_all(profile: &str) {
    let rig = Rig::start(profile);
    let words = words(&rig.ports);
    let mut played = 0;
    let mut report = String::new();
    for row in Conformance::get().rows_of(profile) {
        played += 1;
        rig.prepare(row.answer(&words));
        let mut faults = match ask(rig.address(), row, &words) {
            Ok(response) => client_faults(row, &response, &words),
            Err(error) => vec![format!("no response: {error}")],
        };
        if row.upstream == "any" {
            // So that it is not taken for somebody's who saw the next one.
            eventually("an upstream saw it", || rig.seen().pop().map(drop));
        }
        faults.extend(upstream_faults(row, &rig.seen(), &words));
        if !faults.is_empty() {
            writeln!(report, "{}: {}", row.id, faults.join("; ")).unwrap();
        }
    }
    let failed = report.lines().count();
    assert_eq!(failed, 0, "{profile}: {failed} of {played} rows failed\n{report}");
}

/// The addresses of the two pods: ours, or those behind another gateway.
fn pods() -> [&'static str; 2] {
    static GIVEN: OnceLock<Option<String>> = OnceLock::new();
    let given = GIVEN.get_or_init(|| std::env::var("CONFORMANCE_PODS").ok());
    given.as_deref().and_then(|pods| pods.split_once(',')).map_or(PODS, |(a, b)| [a, b])
}

/// What placeholders stand for when services have these ports.
fn words(ports: &BTreeMap<String, u16>) -> Words {
    let mut words: BTreeMap<String, String> =
        tokens::all().into_iter().map(|(name, token)| (name.to_owned(), token)).collect();
    words.extend(ports.iter().map(|(name, port)| (format!("PORT:{name}"), port.to_string())));
    words.insert("PORT".to_owned(), ports["user"].to_string());
    words.insert("LF".to_owned(), "\n".to_owned());
    words.insert("CRLF".to_owned(), "\r\n".to_owned());
    Words(words)
}

/// Sends a row's request over a new connection and reads the answer, without interim ones.
fn ask(address: SocketAddr, row: &Row, words: &Words) -> std::io::Result<Response> {
    let mut client = Client::connect(address);
    // A refusal may come, and the connection end, before everything was sent.
    drop(client.stream().write_all(&row.request(words)));
    loop {
        let response = client.try_response(&row.method)?;
        if !matches!(response.status, 100 | 102 | 103) {
            return Ok(response);
        }
    }
}

/// What is wrong with what the client got.
fn client_faults(row: &Row, response: &Response, words: &Words) -> Vec<String> {
    let mut faults = Vec::new();
    if response.status != row.status {
        faults.push(format!("status {} instead of {}", response.status, row.status));
    }
    let header = |name: &str| response.header(name);
    faults.extend(header_faults("response", &row.response_headers, header, words));
    let text = response.text();
    if let Some(body) = row.body.as_ref().map(|body| words.fill(body)).filter(|body| *body != text)
    {
        faults.push(format!("body {text:.80?} instead of {body:?}"));
    }
    if let Some(part) = row.body_contains.as_ref().filter(|part| !text.contains(part.as_str())) {
        faults.push(format!("body {text:.80?} without {part:?}"));
    }
    let word = row.error.as_ref().filter(|word| !word.is_empty());
    if let Some(word) = word.filter(|word| !is_error(&text, row.status, word)) {
        faults.push(format!("body {text:.80?} instead of the error {word}"));
    }
    if row.is_answered_here() && text.contains("eyJ") {
        faults.push("the answer repeats a part of the token".to_owned());
    }
    faults
}

/// Whether this is the gateway's own JSON with this status and word.
fn is_error(text: &str, status: u16, word: &str) -> bool {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    json["status"] == status && json["error"] == word && json["message"].is_string()
}

/// What is wrong with what the upstreams saw.
fn upstream_faults(row: &Row, seen: &[(String, Seen)], words: &Words) -> Vec<String> {
    if row.is_answered_here() {
        let names = seen.iter().map(|(name, seen)| format!("{name} saw {}", seen.line()));
        return names.collect();
    }
    if row.upstream == "any" {
        return Vec::new();
    }
    let Some((name, seen)) = seen.last() else { return vec!["no upstream saw it".to_owned()] };
    let mut faults = Vec::new();
    if *name != row.upstream {
        faults.push(format!("{name} saw it instead of {}", row.upstream));
    }
    let want = row.sent.as_ref().map(|sent| format!("{} {}", row.method, words.fill(sent)));
    if let Some(want) = want.filter(|want| want != seen.line()) {
        faults.push(format!("sent {:.200} instead of {want:.200}", seen.line()));
    }
    let version = seen.head.lines().next().and_then(|line| line.rsplit(' ').next());
    if let Some(want) = row.sent_version.as_deref().filter(|want| Some(*want) != version) {
        faults.push(format!("sent as {version:?} instead of {want}"));
    }
    faults.extend(header_faults("sent", &row.sent_headers, |name| seen.header(name), words));
    if name.starts_with("pod-") && seen.head.contains("eyJ") {
        faults.push("the desktop got a token".to_owned());
    }
    faults
}

/// Each wanted header that is not as wanted; "" wants none, "*" any.
fn header_faults(
    what: &str,
    wanted: &BTreeMap<String, String>,
    header: impl Fn(&str) -> Option<String>,
    words: &Words,
) -> Vec<String> {
    let judge = |(name, want): (&String, &String)| {
        let got = header(name);
        let right = match want.as_str() {
            "" => got.is_none(),
            "*" => got.is_some(),
            want => got.as_deref() == Some(words.fill(want).as_str()),
        };
        (!right).then(|| format!("{what} {name}: {got:.80?} instead of {want:?}"))
    };
    wanted.iter().filter_map(judge).collect()
}

#[test]
fn what_is_not_as_a_row_says_is_noticed() {
    let words = Words(BTreeMap::new());
    let right = Conformance::get().rows().iter().find(|row| row.id == "FILE-01").unwrap().clone();
    let right = Row {
        upstream: "pyos".to_owned(),
        sent: Some("/".to_owned()),
        response_headers: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
        body: Some("body".to_owned()),
        body_contains: None,
        ..right
    };
    let head = "HTTP/1.1 200 OK\r\nA: 1\r\n\r\n".to_owned();
    let response = Response { status: 200, head, body: b"body".to_vec() };
    let head = "GET / HTTP/1.1\r\nB: 1\r\n\r\n".to_owned();
    let seen = vec![("pyos".to_owned(), Seen { head, body: Vec::new() })];
    let faults = |row: &Row| {
        client_faults(row, &response, &words).len() + upstream_faults(row, &seen, &words).len()
    };
    assert_eq!(faults(&right), 0);
    let text = |text: &str| Some(text.to_owned());
    let header = |value: &str| BTreeMap::from([("b".to_owned(), value.to_owned())]);
    for wrong in [
        Row { status: 201, ..right.clone() },
        Row { error: text("x"), ..right.clone() },
        Row { upstream: "none".to_owned(), ..right.clone() },
        Row { upstream: "pod-a:vnc".to_owned(), ..right.clone() },
        Row { sent: text("/x"), ..right.clone() },
        Row { method: "POST".to_owned(), ..right.clone() },
        Row { sent_version: text("HTTP/1.0"), ..right.clone() },
        Row { sent_headers: header(""), ..right.clone() },
        Row { sent_headers: header("2"), ..right.clone() },
        Row { response_headers: header("*"), ..right.clone() },
        Row { body: text(""), ..right.clone() },
        Row { body_contains: text("x"), ..right.clone() },
    ] {
        assert_eq!(faults(&wrong), 1, "{wrong:?}");
    }
    assert_eq!(upstream_faults(&right, &[], &words).len(), 1);
}

#[test]
fn each_row_is_a_fact_of_its_own() {
    let file = Conformance::get();
    let rows = file.rows();
    assert!(rows.len() >= LEAST_ROWS, "{}", rows.len());
    let mut ids = BTreeSet::new();
    for row in rows {
        assert!(ids.insert(&row.id), "two rows are {}", row.id);
        assert!(!row.from.is_empty(), "{}: no section", row.id);
        assert!(row.profile.iter().all(|name| PROFILES.contains(&name.as_str())), "{}", row.id);
        let known = row.differs.as_ref().is_none_or(|key| file.deviations.contains_key(key));
        assert!(known, "{}: no such deviation", row.id);
    }
    for key in file.deviations.keys() {
        assert!(rows.iter().any(|row| row.differs.as_ref() == Some(key)), "no row is {key}");
    }
}

#[test]
fn each_route_is_reached_by_a_row() {
    let ports = SERVICES.iter().chain(&UPSTREAMS);
    let ports = ports.map(|(name, port)| ((*name).to_owned(), *port)).collect();
    let words = words(&ports);
    for profile in PROFILES {
        let config = Config::from_text("row", &format!("profile = {profile:?}")).unwrap();
        let table = Table::new(&config).unwrap();
        let mut reached = BTreeSet::new();
        for row in Conformance::get().rows_of(profile).filter(|row| row.status < 400) {
            let target = words.fill(&row.target);
            let path = target.split('?').next().unwrap_or_default();
            if let Ok(path) = NormalPath::parse(path.as_bytes()) {
                reached.extend(table.find(&path).map(|found| found.route.row.name.clone()));
            }
        }
        for route in table.iter() {
            assert!(reached.contains(&route.row.name), "{profile}: no row of {}", route.row.name);
        }
    }
}

#[test]
fn the_operators_page_names_every_deviation_and_its_rows() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
    let page = std::fs::read_to_string(path).unwrap();
    let file = Conformance::get();
    for key in file.deviations.keys() {
        let start = format!("| `{key}` |");
        let line = page.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("the page lacks {key}"));
        for row in file.rows().iter().filter(|row| row.differs.as_ref() == Some(key)) {
            let group = row.id.rsplit_once('-').unwrap().0;
            assert!(line.contains(&format!("`{group}`")), "{key}: the page lacks {group}");
        }
    }
    for route in PROFILES.into_iter().flat_map(|profile| {
        let config = Config::from_text("row", &format!("profile = {profile:?}")).unwrap();
        config.config.routes
    }) {
        assert!(page.contains(&format!("| {} |", route.name)), "the page lacks {}", route.name);
    }
}

/// Plays what a client sees of the rows against the gateway that the environment names, and writes
/// a table of what differs. Its upstreams are its own, so rows about their answers are left out.
/// Without such a name it plays against deskgate, of which nothing may differ.
#[test]
fn another_gateway() {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let target = variable("CONFORMANCE_TARGET");
    let profile = variable("CONFORMANCE_PROFILE").unwrap_or_else(|| PROFILES[1].to_owned());
    let own = target.is_none().then(|| Rig::start(&profile));
    let address = match (&own, &target) {
        (Some(rig), _) => rig.address(),
        (None, target) => {
            let target = target.as_deref().unwrap_or_default();
            let authority = target.trim_start_matches("http://").trim_end_matches('/');
            authority.to_socket_addrs().unwrap().next().unwrap()
        }
    };
    let words = match &own {
        Some(rig) => words(&rig.ports),
        None => {
            let ports = SERVICES.iter().chain(&UPSTREAMS);
            words(&ports.map(|(name, port)| ((*name).to_owned(), *port)).collect())
        }
    };
    let (mut same, mut skipped, mut table) = (0, 0, String::new());
    for row in Conformance::get().rows_of(&profile) {
        // Only an upstream of ours gives the answer that the row is about.
        if row.answer.is_some() || row.length.is_some() && row.status < 400 {
            skipped += 1;
            continue;
        }
        // The words of errors are ours; rows of their own look at their form.
        let row = Row { error: None, ..row.clone() };
        let faults = match ask(address, &row, &words) {
            Ok(response) if !row.is_answered_here() && matches!(response.status, 502 | 504) => {
                skipped += 1;
                continue;
            }
            Ok(response) => client_faults(&row, &response, &words),
            Err(error) => vec![format!("no response: {error}")],
        };
        if faults.is_empty() {
            same += 1;
            continue;
        }
        let known = row.differs.as_deref().unwrap_or("");
        let faults = faults.join("; ").replace('|', "\\|");
        writeln!(table, "| {} | {faults} | {known} |", row.id).unwrap();
    }
    let differ = table.lines().count();
    let text = format!(
        "{profile} at {address}: {same} rows alike, {differ} differ, {skipped} lack their upstream\n\
         | row | what differs | known deviation of deskgate |\n|---|---|---|\n{table}"
    );
    if own.is_some() {
        assert!(differ == 0 && same > 300, "{text}");
    } else {
        std::io::stdout().write_all(text.as_bytes()).unwrap();
    }
}

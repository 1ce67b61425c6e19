use super::*;

fn table() -> Table {
    Table::new(&Config::from_text("empty", "").unwrap()).unwrap()
}

fn path(raw: &str) -> NormalPath {
    NormalPath::parse(raw.as_bytes()).unwrap()
}

/// `(path, winning row, port, target with the query "q=1")`
const ROWS: &[(&str, &str, u16, &str)] = &[
    ("/healthz", "healthz", 0, "/healthz?q=1"),
    ("/gw/renew", "renew", 0, "/gw/renew?q=1"),
    ("/node", "node", 0, "/node?q=1"),
    ("/websockify", "websockify", 6081, "/"),
    ("/websockify/", "website", 80, "/websockify/?q=1"),
    ("/Websockify", "website", 80, "/Websockify?q=1"),
    ("/signalling", "signalling", 29787, "/"),
    ("/signalling/x", "website", 80, "/signalling/x?q=1"),
    ("/sound", "sound", 29788, "/"),
    ("/sound/x", "sound", 29788, "/"),
    ("/soundx", "website", 80, "/soundx?q=1"),
    ("/microphone", "microphone", 29789, "/"),
    ("/gamepad", "gamepad", 29790, "/"),
    ("/snapshot/full", "snapshot", 29785, "/snapshot/full?q=1"),
    ("/console", "console", 80, "/?q=1"),
    ("/console/a", "console", 80, "/a?q=1"),
    ("/consolefoo", "website", 80, "/consolefoo?q=1"),
    ("/container/8080", "container-header", 8080, "/container/8080?q=1"),
    ("/API/composer/launchdesktop", "launch", 8000, "/API/composer/launchdesktop?q=1"),
    ("/API/manager/image", "images", 8000, "/API/manager/image?q=1"),
    ("/.well-known/acme-challenge/x", "well-known", 0, "/.well-known/acme-challenge/x?q=1"),
    ("/spawner", "spawner", 29786, "/spawner?q=1"),
    ("/spawner/about", "spawner", 29786, "/spawner/about?q=1"),
    ("/spawnerx", "website", 80, "/spawnerx?q=1"),
    ("/filer/directory/list/", "filer", 29783, "/filer/directory/list/?q=1"),
    ("/filerfoo", "website", 80, "/filerfoo?q=1"),
    ("/printerfiler", "printerfiler", 29782, "/printerfiler?q=1"),
    ("/terminals", "terminals", 29781, "/terminals?q=1"),
    ("/terminals/", "terminal", 29781, "/terminals/?q=1"),
    ("/terminals/12", "terminal", 29781, "/terminals/12?q=1"),
    ("/terminals/12/size", "terminal-size", 29781, "/terminals/12/size?q=1"),
    ("/terminals/12/sizefoo", "terminal", 29781, "/terminals/12/sizefoo?q=1"),
    ("/terminals/a/b/size", "terminal", 29781, "/terminals/a/b/size?q=1"),
    ("/terminals//size", "terminal", 29781, "/terminals/size?q=1"),
    ("/terminalsfoo", "website", 80, "/terminalsfoo?q=1"),
    ("/x/terminals/12/size", "website", 80, "/x/terminals/12/size?q=1"),
    ("/API/terminals/3/size", "pyos", 8000, "/API/terminals/3/size?q=1"),
    ("/broadcast", "broadcast", 29784, "/broadcast?q=1"),
    ("/broadcast/x", "broadcast", 29784, "/broadcast/x?q=1"),
    ("/broadcastfoo", "website", 80, "/broadcastfoo?q=1"),
    ("/container/T/8080/foo", "container", 8080, "/foo?q=1"),
    ("/container/T/8080/", "container", 8080, "/?q=1"),
    ("/container/T/8080", "container", 8080, "/?q=1"),
    ("/container/T/8080/a%20b/%2e%2e/c", "container", 8080, "/c?q=1"),
    ("/container/T/8080abc", "website", 80, "/container/T/8080abc?q=1"),
    ("/container/8080/", "website", 80, "/container/8080/?q=1"),
    ("/x/container/T/8080/foo", "website", 80, "/x/container/T/8080/foo?q=1"),
    ("/API/container/8080", "pyos", 8000, "/API/container/8080?q=1"),
    (
        "/API/manager/desktop/p/container/8080",
        "pyos",
        8000,
        "/API/manager/desktop/p/container/8080?q=1",
    ),
    ("/API", "pyos", 8000, "/API?q=1"),
    ("/APIfoo", "website", 80, "/APIfoo?q=1"),
    ("/api/x", "website", 80, "/api/x?q=1"),
    ("//API/x", "pyos", 8000, "/API/x?q=1"),
    ("/foo/../API/x", "pyos", 8000, "/API/x?q=1"),
    ("/API%2Fx", "website", 80, "/API%2Fx?q=1"),
    ("/status", "pyos", 8000, "/status?q=1"),
    ("/statusfoo.html", "website", 80, "/statusfoo.html?q=1"),
    ("/oauth/x", "pyos", 8000, "/oauth/x?q=1"),
    ("/oauthx", "website", 80, "/oauthx?q=1"),
    ("/autologin", "pyos", 8000, "/autologin?q=1"),
    ("/speedtest", "speedtest", 80, "/?q=1"),
    ("/speedtest/garbage.php", "speedtest", 80, "/garbage.php?q=1"),
    ("/speedtestfoo", "website", 80, "/speedtestfoo?q=1"),
    ("/", "website", 80, "/?q=1"),
    ("/index.html", "website", 80, "/index.html?q=1"),
];

#[test]
fn each_path_finds_its_row_port_and_upstream_target() {
    let table = table();
    for (raw, name, port, target) in ROWS {
        let path = path(raw);
        let found = table.find(&path).unwrap();
        assert_eq!(found.route.row.name, *name, "{raw}");
        assert_eq!(found.port().unwrap_or(0), *port, "{raw}");
        assert_eq!(found.upstream_target(&path, Some("q=1")), *target, "{raw}");
    }
}

/// What profile 3 does otherwise.
const ROWS_3: &[(&str, &str, u16, &str)] = &[
    ("/speedtest/garbage.php", "speedtest", 80, "/speedtest/garbage.php?q=1"),
    ("/img/app/x.svg", "app-icons", 8000, "/img/app/x.svg?q=1"),
    ("/img/x.svg", "website", 0, "/img/x.svg?q=1"),
    ("/u8_1_11025", "audio", 4714, "/listen/source/u8_1_11025.monitor"),
    ("/s16_1_44100", "audio", 4714, "/listen/source/s16_1_44100.monitor"),
    ("/ulaw8_1_8000/x", "audio", 4714, "/listen/source/ulaw8_1_8000.monitor"),
    ("/u16_1_44100", "website", 0, "/u16_1_44100?q=1"),
    ("/mimetypes/a.svg", "mimetypes", 0, "/mimetypes/a.svg?q=1"),
    ("/node.txt", "node", 0, "/node.txt?q=1"),
    ("/node", "website", 0, "/node?q=1"),
    ("/sound", "website", 0, "/sound?q=1"),
    ("/console", "website", 0, "/console?q=1"),
    ("/websockify", "websockify", 6081, "/"),
];

#[test]
fn profile_3_has_rows_of_its_own() {
    let layered = Config::from_text("t", "profile = \"abcdesktop-3\"").unwrap();
    let table = Table::new(&layered).unwrap();
    for (raw, name, port, target) in ROWS_3 {
        let path = path(raw);
        let found = table.find(&path).unwrap();
        assert_eq!(found.route.row.name, *name, "{raw}");
        assert_eq!(found.port().unwrap_or(0), *port, "{raw}");
        assert_eq!(found.upstream_target(&path, Some("q=1")), *target, "{raw}");
    }
    for route in table.iter() {
        let mut found = ROWS_3.iter().chain(ROWS).map(|row| row.1);
        assert!(found.any(|name| name == route.row.name), "{}", route.row.name);
    }
}

#[test]
fn what_was_taken_off_the_path_is_known() {
    let table = table();
    for (raw, want) in [
        ("/console/a/b", Some("/console")),
        ("/console", Some("/console")),
        ("/container/T/8080/x/y", Some("/container/T/8080")),
        ("/container/T/8080", Some("/container/T/8080")),
        ("/websockify", None),
        ("/API/x", None),
    ] {
        let path = path(raw);
        assert_eq!(table.find(&path).unwrap().public_prefix(&path), want, "{raw}");
    }
}

#[test]
fn every_shipped_row_is_found_by_some_path_of_the_table() {
    for route in table().iter() {
        assert!(ROWS.iter().any(|row| row.1 == route.row.name), "{}", route.row.name);
    }
}

#[test]
fn a_pods_own_ports_are_not_open_to_container() {
    let table = table();
    let ports = [0, 22, 631, 4714, 6000, 6081, 29780, 29781, 29786, 29790, 65535, 70000];
    for port in ports {
        let path = path(&format!("/container/T/{port}/x"));
        let found = table.find(&path).unwrap();
        assert_eq!((found.route.row.name.as_str(), found.port()), ("container", None), "{port}");
    }
}

#[test]
fn captures_give_the_token_and_the_rest() {
    let path = path("/container/abc.def.ghi/8080/rest/of/it");
    let table = table();
    let found = table.find(&path).unwrap();
    assert_eq!(found.captures.token, Some("abc.def.ghi"));
    assert_eq!(found.captures.rest, "/rest/of/it");
}

#[test]
fn exact_beats_pattern_beats_longest_prefix() {
    let layered = Config::from_text(
        "t",
        r#"
        [[route]]
        name = "p1"
        match = { prefix = "/a/b" }
        backend = { text = "p1" }
        [[route]]
        name = "p2"
        match = { prefix = "/a" }
        backend = { text = "p2" }
        [[route]]
        name = "r1"
        match = { pattern = "/a/[a-z]+/x" }
        backend = { text = "r1" }
        [[route]]
        name = "r2"
        match = { pattern = "/a/b/[a-z]" }
        backend = { text = "r2" }
        [[route]]
        name = "e"
        match = { exact = "/a/b/x" }
        backend = { text = "e" }
        "#,
    )
    .unwrap();
    let table = Table::new(&layered).unwrap();
    for (raw, want) in [
        ("/a/b/x", "e"),
        ("/a/c/x", "r1"),
        ("/a/b/y", "r2"),
        ("/a/b/longer", "p1"),
        ("/a/c", "p2"),
        ("/ab", "website"),
    ] {
        let path = path(raw);
        assert_eq!(table.find(&path).unwrap().route.row.name, want, "{raw}");
    }
}

#[test]
fn every_fault_of_every_row_is_reported() {
    let layered = Config::from_text(
        "t.toml",
        r#"
[[route]]
name = "bad name"
match = { exact = "nope" }
backend = { desktop = "nowhere" }
rewrite = "{user}"
headers = "none"
[[route]]
name = "no-token"
match = { exact = "/a" }
backend = { desktop = "vnc" }
[[route]]
name = "no-capture"
match = { pattern = "/b/.*" }
token = "path"
backend = { desktop_ports = [80] }
[[route]]
name = "open"
match = { pattern = "/c(" }
backend = { upstream = "nobody" }
[[route]]
name = "needless"
match = { exact = "/d" }
token = "header"
backend = { upstream = "pyos" }
[[route]]
name = "again"
match = { exact = "/healthz" }
backend = { upstream = "pyos" }
[[route]]
name = "brackets"
match = { pattern = "/e)|(?:/f" }
backend = { upstream = "pyos" }
"#,
    )
    .unwrap();
    let faults = Table::new(&layered).unwrap_err();
    let found: Vec<_> = faults.iter().map(ToString::to_string).collect();
    for want in [
        "t.toml:3: route.bad name.name: may hold only",
        "t.toml:4: route.bad name.match: \"nope\" must start with /",
        "t.toml:5: route.bad name.backend: no port \"nowhere\"",
        "t.toml:6: route.bad name.rewrite: ",
        "t.toml:7: route.bad name.headers: no set \"none\"",
        "t.toml:8: route.no-token.token: a desktop backend needs a token",
        "t.toml:15: route.no-capture.token: \"path\" needs a pattern",
        "t.toml:16: route.no-capture.backend: desktop_ports needs a pattern",
        "t.toml:19: route.open.match: is no valid pattern",
        "t.toml:20: route.open.backend: no service \"nobody\"",
        "t.toml:24: route.needless.token: only desktop backends",
        "route.healthz: an earlier row has the same match",
        "route.brackets.match: is no valid pattern",
    ] {
        assert!(found.iter().any(|fault| fault.contains(want)), "no «{want}» in {found:#?}");
    }
}

proptest::proptest! {
    #[test]
    fn a_row_that_a_path_cannot_begin_like_is_no_row_of_its(
        rows in proptest::collection::vec(
            proptest::sample::select(&[
                "exact = \"/\"", "exact = \"/a\"", "prefix = \"/\"", "prefix = \"/a\"", "prefix = \"/b/\"",
                "prefix = \"/ab\"", "pattern = \"/a?b(?<rest>.*)\"", "pattern = \"/(a|b)+\"",
                "pattern = \"/(a|b/)?\"", "pattern = \"/.*b\"", "pattern = \"/(?i:A)b*\"",
            ]),
            1..6,
        ),
        raw in "/[abAB/]{0,4}",
    ) {
        let mut text = String::from("profile = \"abcdesktop-4\"\n");
        for (index, matches) in rows.iter().enumerate() {
            let backend = "backend = { text = \"\" }\nheaders = \"static\"";
            text += &format!("[[route]]\nname = \"r{index}\"\nmatch = {{ {matches} }}\n{backend}\n");
        }
        // Rows that are the same are a fault, which is not the point.
        let Ok(table) = Table::new(&Config::from_text("rows", &text).unwrap()) else { return Ok(()) };
        let path = path(&raw);
        let name = |found: Option<Found<'_, '_>>| found.map(|found| found.route.name.clone());
        let among_all = Table::best_of(&table.routes, &path);
        proptest::prop_assert_eq!(name(table.find(&path)), name(among_all));
    }
}

#[test]
fn a_policy_takes_the_origin_away_or_does_not() {
    for (policy, takes) in [
        ("sandbox", true),
        ("default-src 'self'; SANDBOX allow-scripts allow-forms", true),
        ("default-src *, sandbox allow-scripts", true),
        ("sandbox allow-scripts Allow-Same-Origin", false),
        ("default-src 'self'", false),
        ("frame-src https://sandbox.example; report-uri /sandbox", false),
        ("", false),
    ] {
        assert_eq!(is_sandbox(policy), takes, "{policy}");
    }
    let text = "[headers.boxed]\nresponse = { content-security-policy = \"sandbox\" }\n\
                [[route]]\nname = \"container\"\nheaders = \"boxed\"\n";
    let table = Table::new(&Config::from_text("boxed", text).unwrap()).unwrap();
    for row in table.iter() {
        assert_eq!(row.headers.takes_the_origin, &*row.name == "container", "{}", row.name);
    }
}

use super::*;
use crate::config::env;
use crate::config::{Backend, Config, Match, WebSocket};

fn faults(text: &str) -> Vec<String> {
    Config::from_text("my.toml", text)
        .expect_err("must be refused")
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_built_in_file_is_a_whole_configuration() {
    let layered = Config::load(None, &env::None).unwrap();
    assert_eq!(layered.config.desktop.domain(), "desktop.abcdesktop.svc.cluster.local");
    assert_eq!(layered.config.routes.len(), 25);
}

#[test]
fn the_profile_is_chosen_by_the_file_or_the_environment() {
    let row = |layered: &Layered, name: &str| {
        layered.config.routes.iter().any(|route| route.name == name)
    };
    let three = Config::from_text("t", "profile = \"abcdesktop-3\"").unwrap();
    assert!(row(&three, "audio") && !row(&three, "console"));
    let four = Config::load(None, &env::None).unwrap();
    assert!(row(&four, "console") && !row(&four, "audio"));
    let three = Config::load(None, &Set(&[("DESKGATE_PROFILE", "abcdesktop-3")])).unwrap();
    assert!(row(&three, "audio"));
    let found = faults("profile = \"abcdesktop-5\"\n");
    assert!(found[0].starts_with("my.toml:1: profile: unknown variant"), "{found:#?}");
}

#[test]
fn a_shipped_profile_can_be_given_as_a_file() {
    let built_in = Config::from_text("t", "profile = \"abcdesktop-3\"").unwrap();
    let text = Profile::Abcdesktop3.text();
    let given = Config::from_text("abcdesktop-3.toml", text).unwrap();
    assert_eq!(format!("{:?}", given.config), format!("{:?}", built_in.config));
}

#[test]
fn an_operators_file_holds_only_what_differs() {
    let text = r#"
[listen]
http = ["127.0.0.1:8080"]

[[route]]
name = "filer"
limits = { body = "16GiB" }

[[route]]
name = "mine"
match = { prefix = "/mine" }
backend = { upstream = "website" }

[[route]]
name = "node"
disabled = true
"#;
    let config = Config::from_text("my.toml", text).unwrap().config;
    assert_eq!(config.listen.http, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.listen.keepalive.as_secs(), 120);
    assert_eq!(config.routes.first().unwrap().name, "mine", "new rows are tried first");
    assert!(config.routes.iter().all(|route| route.name != "node"));
    let filer = config.routes.iter().find(|route| route.name == "filer").unwrap();
    assert_eq!(filer.limits.body.as_u64(), 16 << 30);
    assert_eq!(filer.matches, Match::Prefix("/filer".into()));
}

#[test]
fn a_rows_match_and_backend_are_replaced_as_a_whole() {
    let text = "[[route]]\nname = \"websockify\"\nmatch = { prefix = \"/vnc\" }\n\
                backend = { desktop_ports = [6081] }\n";
    let config = Config::from_text("my.toml", text).unwrap().config;
    let row = config.routes.iter().find(|route| route.name == "websockify").unwrap();
    assert_eq!(row.matches, Match::Prefix("/vnc".into()));
    assert!(matches!(&row.backend, Backend::DesktopPorts(ports) if ports.len() == 1));
}

#[test]
fn every_fault_of_a_file_is_reported_with_its_line_and_key() {
    let text = r#"[listen]
http = ["nonsense"]
keepalive = 120
colour = "red"

[auth]
cache_entries = "many"

[[route]]
name = "filer"
limits = { body = "8 furlongs" }
token = "cookie"

[[route]]
name = "mine"
match = { suffix = "/x" }
backend = { upstream = "website" }

[[route]]
name = "incomplete"
match = { exact = "/i" }

[[route]]
match = { exact = "/nameless" }
backend = { upstream = "website" }

[wrong]
"#;
    let found = faults(text);
    let expected = [
        ("my.toml:2: listen.http[0]: ", "invalid socket address"),
        ("my.toml:3: listen.keepalive: ", "expected"),
        ("my.toml:4: listen.colour: ", "unknown field `colour`"),
        ("my.toml:7: auth.cache_entries: ", "invalid type"),
        ("my.toml:11: route.filer.limits.body: ", "8 furlongs"),
        ("my.toml:12: route.filer.token: ", "unknown variant `cookie`"),
        ("my.toml:16: route.mine.match", "unknown variant `suffix`"),
        ("my.toml:19: route.incomplete: ", "missing field `backend`"),
        ("my.toml:23: route.?: ", "missing field `name`"),
        ("my.toml:27: wrong: ", "unknown field `wrong`"),
    ];
    for (place, what) in expected {
        assert!(
            found.iter().any(|fault| fault.starts_with(place) && fault.contains(what)),
            "no fault «{place}…{what}» among {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn faults_of_syntax_name_the_line() {
    let found = faults("[listen]\nhttp = [\n\n[auth\n");
    assert!(found.iter().all(|fault| fault.starts_with("my.toml:")), "{found:#?}");
    assert!(!found.is_empty());
}

#[test]
fn a_missing_file_is_named() {
    let path = Path::new("/nonexistent/deskgate.toml");
    let found = Config::load(Some(path), &env::None).unwrap_err();
    assert!(found[0].to_string().starts_with("/nonexistent/deskgate.toml:1: cannot be read"));
}

struct Set(&'static [(&'static str, &'static str)]);

impl Environment for Set {
    fn var(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }
}

#[test]
fn the_incumbents_variables_override_the_files() {
    let env = Set(&[
        ("JWT_DESKTOP_SIGNING_PUBLIC_KEY", "/keys/s.pem"),
        ("JWT_DESKTOP_PAYLOAD_PRIVATE_KEY", "/keys/p.pem"),
        ("NODE_NAME", "worker-7"),
        ("POD_NAMESPACE", "desks"),
        ("PYOS_FQDN", "pyos.desks.svc.cluster.local"),
        ("PYOS_SERVICE_PORT", "8001"),
        ("NAMESERVER_RESOLVER", "10.96.0.10 [fd00::10] valid=10s ipv6=off"),
    ]);
    let layered = Config::load(None, &env).unwrap();
    let config = &layered.config;
    assert_eq!(config.auth.signing_keys, [Path::new("/keys/s.pem")]);
    assert_eq!(config.auth.payload_keys, [Path::new("/keys/p.pem")]);
    assert_eq!(config.server.node_name, "worker-7");
    assert_eq!(config.desktop.domain(), "desktop.desks.svc.cluster.local");
    assert_eq!(config.upstreams["pyos"].host, "pyos.desks.svc.cluster.local");
    assert_eq!(config.upstreams["pyos"].port, 8001);
    assert_eq!(config.dns.servers, ["10.96.0.10", "[fd00::10]"]);
    let effective = layered.effective();
    let origin =
        |key: &str| effective.iter().find(|row| row.0 == key).map(|row| row.2.to_string()).unwrap();
    assert_eq!(origin("server.node_name"), "$NODE_NAME");
    assert!(origin("server.drain").starts_with("built-in:"));
    assert!(origin("route.filer.limits.body").starts_with("built-in:"));
    assert_eq!(origin("route.filer.timeouts.read"), "default");
}

#[test]
fn a_variable_that_is_no_number_is_named() {
    let env = Set(&[("PYOS_SERVICE_PORT", "tcp://10.0.0.1:8000")]);
    let found = Config::load(None, &env).unwrap_err();
    assert!(found[0].to_string().starts_with("$PYOS_SERVICE_PORT: upstreams.pyos.port: "));
}

#[test]
fn values_print_with_the_place_they_came_from() {
    let layered = Config::from_text("my.toml", "[log]\nlevel = \"debug\"\n").unwrap();
    let effective = layered.effective();
    let row = effective.iter().find(|row| row.0 == "log.level").unwrap();
    assert_eq!((row.1.as_str(), row.2.to_string().as_str()), ("\"debug\"", "my.toml:2"));
}

#[test]
fn a_row_takes_upgrades_never_too_or_alone() {
    let row = |value: &str| format!("[[route]]\nname = \"filer\"\nwebsocket = {value}\n");
    for (value, expected) in
        [("false", WebSocket::Never), ("true", WebSocket::Allowed), ("\"only\"", WebSocket::Only)]
    {
        let config = Config::from_text("my.toml", &row(value)).unwrap().config;
        let filer = config.routes.iter().find(|row| row.name == "filer").unwrap();
        assert_eq!(filer.websocket, expected);
        // What `check` prints can be read again.
        let text = toml::to_string(&filer).unwrap();
        assert!(text.contains(&format!("websocket = {value}\n")), "{text}");
    }
    for value in ["\"sometimes\"", "1"] {
        let found = faults(&row(value));
        let told = "my.toml:3: route.filer.websocket: expected true, false or \"only\"";
        assert!(found.iter().any(|fault| fault.starts_with(told)), "{found:#?}");
    }
}

//! Which row takes a path, by a second reading of the rule: exact, then the first pattern, then the
//! longest prefix of whole segments.
//!
//! Input: lines of a row each, `e/x`, `p/x` or `r/x` (exact, prefix, pattern), then the path.
#![no_main]

use deskgate_fuzz::config::{Config, Match};
use deskgate_fuzz::route::{NormalPath, Route, Table};
use libfuzzer_sys::fuzz_target;
use regex::Regex;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(deskgate_fuzz::seed(data));
    let mut lines: Vec<_> = text.lines().take(12).collect();
    let Some(path) = lines.pop() else { return };
    let Ok(path) = NormalPath::parse(path.as_bytes()) else { return };
    let layered = Config::from_text("fuzz.toml", &configuration(&lines)).unwrap();
    let table = match Table::new(&layered) {
        Ok(table) => table,
        Err(faults) => return assert!(!faults.is_empty(), "refused without a reason"),
    };
    let want = chosen(&table, path.as_str());
    let found = table.find(&path);
    let found = found.map(|found| found.route.row.name.as_str());
    assert_eq!(found, want.map(|route| route.row.name.as_str()), "{}", path.as_str());
});

/// A configuration with these rows beside the built-in ones.
fn configuration(lines: &[&str]) -> String {
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let kind = match line.chars().next() {
            Some('e') => "exact",
            Some('p') => "prefix",
            Some('r') => "pattern",
            _ => continue,
        };
        let path = toml::Value::String(line[1..].to_owned());
        text += &format!(
            "[[route]]\nname = \"f{number}\"\nmatch = {{ {kind} = {path} }}\n\
             backend = {{ text = \"x\" }}\n"
        );
    }
    text
}

/// The second reading.
fn chosen<'t>(table: &'t Table, path: &str) -> Option<&'t Route> {
    let exact =
        table.iter().find(|route| matches!(&route.row.matches, Match::Exact(x) if x == path));
    let pattern = || {
        table.iter().find(|route| match &route.row.matches {
            Match::Pattern(pattern) => {
                let found = Regex::new(pattern).ok().and_then(|known| whole(&known, path));
                found.is_some()
            }
            _ => false,
        })
    };
    let prefix = || {
        let fitting = table.iter().filter_map(|route| match &route.row.matches {
            Match::Prefix(prefix) => segments(prefix, path).then_some((prefix.len(), route)),
            _ => None,
        });
        // The first one of the longest.
        fitting.fold(None, |best: Option<(usize, &Route)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        })
    };
    exact.or_else(pattern).or_else(|| prefix().map(|(_, route)| route))
}

/// Whether a pattern can take all of a path.
fn whole(known: &Regex, path: &str) -> Option<()> {
    let anchored = Regex::new(&format!(r"\A(?:{known})\z")).ok()?;
    anchored.is_match(path).then_some(())
}

/// Whether a prefix is made of a path's first segments.
fn segments(prefix: &str, path: &str) -> bool {
    let (mut wanted, mut there): (Vec<_>, Vec<_>) =
        (prefix.split('/').collect(), path.split('/').collect());
    if wanted.last() == Some(&"") {
        // `/x/` takes what is below `/x`, and `/x/` itself.
        wanted.pop();
        return there.len() > wanted.len() && there.starts_with(&wanted);
    }
    there.truncate(wanted.len());
    there == wanted
}

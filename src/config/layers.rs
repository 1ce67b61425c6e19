//! Merges the layers of the configuration: built-in, file, environment.
//!
//! Tables merge key by key and `[[route]]` rows merge by name, so that an operator's file holds
//! only what differs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::decode::decode;
use super::env::{Environment, Kind, OVERRIDES};
use super::origin::{Fault, Layered, Origin, Origins, join};
use super::{BUILT_IN, Profile};

/// How messages call the embedded `conf/deskgate.toml`.
pub(super) const BUILT_IN_NAME: &str = "built-in";

/// Keys of a row that a later layer replaces as a whole: they are one choice, not a collection.
const CHOICES: [&str; 2] = ["match", "backend"];

/// Reads the operator's file, if there is one, and merges all layers.
pub(super) fn load(file: Option<&Path>, env: &dyn Environment) -> Result<Layered, Vec<Fault>> {
    let Some(path) = file else { return build(None, env) };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => build(Some((&name, &text)), env),
        Err(error) => Err(vec![Fault {
            origin: Origin::File { name, line: 1 },
            key: String::new(),
            message: format!("cannot be read: {error}"),
        }]),
    }
}

/// Merges the built-in layers, the operator's `(name, text)` and the environment, then decodes the
/// result.
pub(super) fn build(
    file: Option<(&str, &str)>,
    env: &dyn Environment,
) -> Result<Layered, Vec<Fault>> {
    let mut table = Table::new();
    let mut origins = Origins::default();
    let mut faults = Vec::new();
    let profile = profile(file, env);
    let built_in = [(BUILT_IN_NAME, BUILT_IN), (profile.name(), profile.text())];
    for (name, text) in built_in.into_iter().chain(file) {
        match parse(name, text) {
            Ok((layer, keys)) => {
                merge(&mut table, layer);
                origins.0.extend(keys);
            }
            Err(found) => faults.extend(found),
        }
    }
    for entry in OVERRIDES {
        if let Some(text) = env.var(entry.variable) {
            override_key(&mut table, entry.key, entry.kind, &text);
            origins.0.insert(entry.key.to_owned(), Origin::Env(entry.variable));
        }
    }
    let decoded = decode(table, &origins, &mut faults);
    match decoded {
        Some(mut config) if faults.is_empty() => {
            config.routes.retain(|route| !route.disabled);
            Ok(Layered { config, origins })
        }
        _ => Err(faults),
    }
}

/// The profile that the environment or the file chooses. One that does not exist is reported when
/// the merged table is decoded.
fn profile(file: Option<(&str, &str)>, env: &dyn Environment) -> Profile {
    let chosen = env.var("DESKGATE_PROFILE").or_else(|| {
        let table = file?.1.parse::<Table>().ok()?;
        table.get("profile")?.as_str().map(ToOwned::to_owned)
    });
    match chosen.as_deref() {
        Some("abcdesktop-3") => Profile::Abcdesktop3,
        _ => Profile::Abcdesktop4,
    }
}

/// One layer's table and the line of each of its keys.
fn parse(name: &str, text: &str) -> Result<(Table, BTreeMap<String, Origin>), Vec<Fault>> {
    let feeds: Vec<_> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line_of = |offset: usize| 1 + feeds.partition_point(|feed| *feed < offset);
    let file = |offset| Origin::File { name: name.to_owned(), line: line_of(offset) };
    let fault = |error: toml::de::Error| Fault {
        origin: file(error.span().map_or(0, |span| span.start)),
        key: String::new(),
        message: error.message().to_owned(),
    };
    let (spanned, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.into_iter().map(fault).collect());
    }
    let table = text.parse::<Table>().map_err(|error| vec![fault(error)])?;
    let mut keys = BTreeMap::new();
    walk("", spanned.get_ref(), &mut |key, offset| {
        keys.insert(key, file(offset));
    });
    Ok((table, keys))
}

/// Calls `found` with the dotted name and the offset of every key below `table`.
fn walk(prefix: &str, table: &DeTable<'_>, found: &mut impl FnMut(String, usize)) {
    for (key, value) in table {
        let path = join(prefix, key.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            walk(&path, inner, found);
        } else if path == "route"
            && let DeValue::Array(rows) = value.get_ref()
        {
            for row in rows.iter() {
                let DeValue::Table(inner) = row.get_ref() else { continue };
                let name = inner.get("name").and_then(|name| name.get_ref().as_str());
                let path = join("route", name.unwrap_or("?"));
                found(path.clone(), row.span().start);
                walk(&path, inner, found);
            }
        }
        found(path, key.span().start);
    }
}

/// Lays `over` onto `base`.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(value)) if !CHOICES.contains(&&*key) => {
                merge(under, value);
            }
            (Some(Value::Array(under)), Value::Array(rows)) if key == "route" => {
                merge_rows(under, rows);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// A row of a known name changes that row in its place; the others come first, in their order, so
/// that an operator's pattern is tried before the shipped ones.
fn merge_rows(base: &mut Vec<Value>, over: Vec<Value>) {
    let mut added = Vec::new();
    for row in over {
        let name = row.get("name").cloned();
        let known =
            base.iter_mut().find(|under| name.is_some() && under.get("name") == name.as_ref());
        match (known, row) {
            (Some(Value::Table(under)), Value::Table(row)) => merge(under, row),
            (_, row) => added.push(row),
        }
    }
    base.splice(0..0, added);
}

/// Sets a dotted key to the text of a variable.
fn override_key(table: &mut Table, key: &str, kind: Kind, text: &str) {
    let value = match kind {
        Kind::Number => {
            text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
        }
        Kind::Text => Value::String(text.to_owned()),
        Kind::Resolver => {
            let addresses = text.split_whitespace().filter(|word| !word.contains('='));
            Value::Array(addresses.map(|word| Value::String(word.to_owned())).collect())
        }
    };
    let mut table = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_owned(), value);
            return;
        }
        let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else { return };
        table = inner;
    }
}

/// Accepts a single value where a list is meant, as environment variables give.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}

#[cfg(test)]
mod tests;

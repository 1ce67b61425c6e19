//! The merged table as typed values, with every fault on the way.
//!
//! After a fault the key gets a sound value and decoding goes on, only to find the next fault.

use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::origin::{Fault, Origins, join};
use super::{BUILT_IN, Config};

/// Faults after which decoding gives up: more than any operator wants to read at once.
const MAX_FAULTS: usize = 50;

/// Valid stand-ins for required keys of a row, so that one bad key does not hide the next.
const SPARE_ROW: &str = r#"match = { exact = "/" }
backend = { text = "" }"#;

/// Decodes the merged table; nothing if there is a fault that cannot be got over.
pub(super) fn decode(
    mut table: Table,
    origins: &Origins,
    faults: &mut Vec<Fault>,
) -> Option<Config> {
    let sound: Table = BUILT_IN.parse().unwrap_or_default();
    while faults.len() < MAX_FAULTS {
        let error = match serde_path_to_error::deserialize(Value::Table(table.clone())) {
            Ok(config) => return Some(config),
            Err(error) => error,
        };
        let message = error.inner().message().to_owned();
        let segments: Vec<_> = error.path().iter().cloned().collect();
        let key = dotted(&segments, &table);
        faults.push(Fault { origin: origins.nearest(&key), key, message });
        if !replace(&mut table, &segments, &sound) {
            return None;
        }
    }
    None
}

/// The dotted key of a path, with rows by name.
fn dotted(segments: &[Segment], table: &Table) -> String {
    let mut key = String::new();
    for segment in segments {
        match segment {
            Segment::Map { key: part } => key = join(&key, part),
            Segment::Seq { index } if key == "route" => {
                let row = table.get("route").and_then(|rows| rows.get(*index));
                let name = row.and_then(|row| row.get("name")).and_then(Value::as_str);
                key = join(&key, name.unwrap_or("?"));
            }
            Segment::Seq { index } => key = format!("{key}[{index}]"),
            Segment::Enum { variant } => key = join(&key, variant),
            Segment::Unknown => {}
        }
    }
    key
}

/// Puts a sound value in place of the faulty one, or takes it out. False if nothing could be done.
fn replace(table: &mut Table, segments: &[Segment], sound: &Table) -> bool {
    match segments {
        [Segment::Map { key }, Segment::Seq { index }, rest @ ..] if key == "route" => {
            let Some(Value::Array(rows)) = table.get_mut("route") else { return false };
            match (rest.first(), rows.get_mut(*index)) {
                (Some(Segment::Map { key }), Some(Value::Table(row))) => {
                    reset(row, key, &SPARE_ROW.parse().unwrap_or_default())
                }
                (_, Some(_)) => {
                    rows.remove(*index);
                    true
                }
                (_, None) => false,
            }
        }
        [Segment::Map { key: section }, Segment::Map { key }, ..] => {
            let inner = sound.get(section).and_then(Value::as_table).cloned().unwrap_or_default();
            match table.get_mut(section) {
                Some(Value::Table(table)) => reset(table, key, &inner),
                _ => reset(table, section, sound),
            }
        }
        [Segment::Map { key }, ..] => reset(table, key, sound),
        _ => false,
    }
}

/// Gives `key` the sound value, or takes it out; false if that changes nothing.
fn reset(table: &mut Table, key: &str, sound: &Table) -> bool {
    match sound.get(key) {
        Some(value) => table.insert(key.to_owned(), value.clone()).as_ref() != Some(value),
        None => table.remove(key).is_some(),
    }
}

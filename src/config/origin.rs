//! Where each value of the configuration came from, and what is wrong with one.

use std::collections::BTreeMap;
use std::fmt;

use toml::Value;

use super::Config;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No layer sets it: the default of the program.
    Default,
    /// A line of a file.
    File {
        /// Path of the file, or `built-in`.
        name: String,
        /// Line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Env(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Env(variable) => write!(f, "${variable}"),
        }
    }
}

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub origin: Origin,
    /// Dotted key, with rows by name (`route.filer.limits.body`); empty for a fault of syntax.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration together with the origin of each of its values.
#[derive(Clone, Debug)]
pub struct Layered {
    /// The values.
    pub config: Config,
    pub(super) origins: Origins,
}

impl Layered {
    /// A fault of meaning, found while building a room from the value under `key`.
    #[must_use]
    pub fn fault(&self, key: &str, message: impl fmt::Display) -> Fault {
        Fault {
            origin: self.origins.nearest(key),
            key: key.to_owned(),
            message: message.to_string(),
        }
    }

    /// Every effective value as `(key, value, origin)`, in the order of the sections' names.
    #[must_use]
    pub fn effective(&self) -> Vec<(String, String, Origin)> {
        let mut rows = Vec::new();
        if let Ok(value) = Value::try_from(&self.config) {
            flatten("", &value, &mut rows);
        }
        rows.into_iter()
            .map(|(key, value)| {
                let origin = self.origins.of(&key);
                (key, value, origin)
            })
            .collect()
    }
}

/// The origin of every key that some layer sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    /// The origin of a value: the layer that sets exactly this key.
    fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The line to show for a fault: that of the key, or of the nearest table around it.
    pub(super) fn nearest(&self, key: &str) -> Origin {
        let mut key = key.split_once('[').map_or(key, |(list, _)| list);
        loop {
            match (self.0.get(key), key.rsplit_once('.')) {
                (Some(origin), _) => return origin.clone(),
                (None, Some((parent, _))) => key = parent,
                (None, None) => return Origin::Default,
            }
        }
    }
}

/// Every leaf of a value as `(dotted key, text)`.
fn flatten(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    if let Value::Table(table) = value {
        for (key, value) in table {
            flatten(&join(prefix, key), value, rows);
        }
    } else if prefix == "route"
        && let Value::Array(items) = value
    {
        for item in items {
            let name = item.get("name").and_then(Value::as_str).unwrap_or("?");
            flatten(&join(prefix, name), item, rows);
        }
    } else {
        // JSON keeps a text with line breaks on one line.
        rows.push((prefix.to_owned(), serde_json::to_string(value).unwrap_or_default()));
    }
}

/// One dotted key from its parts.
pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

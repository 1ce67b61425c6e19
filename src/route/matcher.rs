//! What a row matches, and which of several matching rows wins.

use regex::{Regex, RegexBuilder};

use crate::config::Match;

/// Most memory of one compiled pattern, in bytes.
const MAX_PATTERN_SIZE: usize = 256 * 1024;

/// A compiled [`Match`].
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Exact(String),
    Prefix(String),
    Pattern(Regex),
}

/// The parts of a path that a row's `rewrite`, token place and backend may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captures<'a> {
    /// What follows a prefix, or the capture `rest` of a pattern.
    pub rest: &'a str,
    /// The capture `token` of a pattern.
    pub token: Option<&'a str>,
    /// The capture `port` of a pattern.
    pub port: Option<&'a str>,
}

impl Matcher {
    /// Compiles a match; the error is for the operator.
    pub(super) fn new(matches: &Match) -> Result<Self, String> {
        match matches {
            Match::Exact(path) | Match::Prefix(path) if !path.starts_with('/') => {
                Err(format!("\"{path}\" must start with /"))
            }
            Match::Exact(path) => Ok(Self::Exact(path.clone())),
            Match::Prefix(path) => Ok(Self::Prefix(path.clone())),
            Match::Pattern(pattern) if pattern.starts_with('/') => {
                let compiled =
                    |text: &str| RegexBuilder::new(text).size_limit(MAX_PATTERN_SIZE).build();
                // Anchored here for every row: an unanchored pattern captures paths of other rows.
                // It must be whole in itself, or its brackets would close ours: `/a)|(?:/b`.
                compiled(pattern)
                    .and_then(|_| compiled(&format!("^(?:{pattern})$")))
                    .map(Self::Pattern)
                    .map_err(|error| format!("is no valid pattern: {error}"))
            }
            Match::Pattern(pattern) => Err(format!("pattern \"{pattern}\" must start with /")),
        }
    }

    /// The captures if the path matches.
    pub(super) fn captures<'a>(&self, path: &'a str) -> Option<Captures<'a>> {
        match self {
            Self::Exact(exact) => (path == exact).then(Captures::default),
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.as_str())?;
                // Whole segments: /filer takes /filer/x and never /filerfoo.
                let whole = rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/');
                whole.then_some(Captures { rest, ..Captures::default() })
            }
            Self::Pattern(pattern) => {
                // Captures need memory, which most paths are not worth.
                let found = pattern.is_match(path).then(|| pattern.captures(path))??;
                let group = |name| found.name(name).map(|group| group.as_str());
                Some(Captures {
                    rest: group("rest").unwrap_or_default(),
                    token: group("token"),
                    port: group("port"),
                })
            }
        }
    }

    /// Whether a pattern has a capture of this name.
    pub(super) fn has_capture(&self, name: &str) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.capture_names().flatten().any(|n| n == name))
    }
}

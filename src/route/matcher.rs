//! What a row matches, and which of several matching rows wins.

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::literal::Extractor;

use crate::config::Match;

/// Most memory of one compiled pattern, in bytes.
const MAX_PATTERN_SIZE: usize = 256 * 1024;

/// A compiled [`Match`].
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Exact(String),
    Prefix(String),
    Pattern(Pattern),
}

/// A pattern, and what can be said of a path without it.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// Every path that matches begins with one of these; empty if that is not known.
    beginnings: Vec<Vec<u8>>,
    /// Whether it captures anything that a row may use.
    captures: bool,
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
                let regex = compiled(pattern).and_then(|_| compiled(&format!("^(?:{pattern})$")));
                let regex = regex.map_err(|error| format!("is no valid pattern: {error}"))?;
                Ok(Self::Pattern(Pattern::new(pattern, regex)))
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
                if !pattern.may_match(path) || !pattern.regex.is_match(path) {
                    return None;
                }
                // Captures need memory, which few paths are worth.
                if !pattern.captures {
                    return Some(Captures::default());
                }
                let found = pattern.regex.captures(path)?;
                let group = |name| found.name(name).map(|group| group.as_str());
                Some(Captures {
                    rest: group("rest").unwrap_or_default(),
                    token: group("token"),
                    port: group("port"),
                })
            }
        }
    }

    /// Whether a path whose first slash is followed by this byte, or by none for 0, may match.
    pub(super) fn may_follow(&self, byte: u8) -> bool {
        let fits = |start: &[u8], whole: bool| match start.get(1) {
            Some(second) => *second == byte,
            None => !whole || byte == 0,
        };
        match self {
            Self::Exact(path) => fits(path.as_bytes(), true),
            Self::Prefix(path) => fits(path.as_bytes(), false),
            Self::Pattern(pattern) if pattern.beginnings.is_empty() => true,
            Self::Pattern(pattern) => pattern.beginnings.iter().any(|start| fits(start, false)),
        }
    }

    /// Whether a pattern has a capture of this name.
    pub(super) fn has_capture(&self, name: &str) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.names(name))
    }
}

impl Pattern {
    fn new(text: &str, regex: Regex) -> Self {
        let literals = regex_syntax::parse(text).ok().map(|hir| Extractor::new().extract(&hir));
        let literals = literals.as_ref().and_then(|literals| literals.literals());
        let beginnings = literals.unwrap_or_default().iter();
        let beginnings = beginnings.map(|literal| literal.as_bytes().to_vec()).collect();
        let mut pattern = Self { regex, beginnings, captures: false };
        pattern.captures = ["rest", "token", "port"].into_iter().any(|name| pattern.names(name));
        pattern
    }

    fn names(&self, name: &str) -> bool {
        self.regex.capture_names().flatten().any(|known| known == name)
    }

    /// Whether it is worth looking closer.
    fn may_match(&self, path: &str) -> bool {
        let begins = |beginning: &Vec<u8>| path.as_bytes().starts_with(beginning);
        self.beginnings.is_empty() || self.beginnings.iter().any(begins)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_that_cannot_match_is_known_by_its_beginning() {
        for (text, begins, not) in [
            ("/(API|status)(/.*)?", "/API/x", "/filer"),
            ("/container/(?<port>[0-9]+)", "/container/1", "/containers"),
            ("/a?b", "/b", "/c"),
            ("/x|/y", "/y", "/z"),
            ("(?i)/api", "/aPi", "/b"),
        ] {
            let Ok(Matcher::Pattern(pattern)) = Matcher::new(&Match::Pattern(text.into())) else {
                assert!(!text.starts_with('/'), "{text}");
                continue;
            };
            assert!(pattern.may_match(begins) && !pattern.may_match(not), "{text}");
        }
    }

    proptest! {
        #[test]
        fn beginnings_change_no_answer(
            text in "/(a|b|ab|a\\|b|a\\||\\[ab\\]|a\\?|b\\*|\\(a\\|bb\\)|.){0,6}",
            path in "/[ab/]{0,6}",
        ) {
            if let Ok(Matcher::Pattern(pattern)) = Matcher::new(&Match::Pattern(text)) {
                prop_assert!(!pattern.regex.is_match(&path) || pattern.may_match(&path));
            }
        }
    }
}

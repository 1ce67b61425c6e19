//! The path and the query that are sent upstream.

use super::matcher::Captures;
use crate::config::QueryRule;

/// A compiled `rewrite`: text with at most one `{rest}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rewrite {
    before: String,
    /// What follows `{rest}`; none if the rewrite is fixed text.
    after: Option<String>,
}

impl Rewrite {
    /// Compiles the text of a row; the error is for the operator.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let (before, after) = match text.split_once("{rest}") {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        if [before, after.unwrap_or_default()].iter().any(|part| part.contains(['{', '}'])) {
            return Err(format!("\"{text}\": only one {{rest}} can be filled in"));
        }
        if after.is_none() && !before.starts_with('/') {
            return Err(format!("\"{text}\" must start with /"));
        }
        Ok(Self { before: before.to_owned(), after: after.map(ToOwned::to_owned) })
    }

    /// Whether nothing but what follows the prefix is sent.
    pub(super) fn is_bare_rest(&self) -> bool {
        matches!(self.before.as_str(), "" | "/") && self.after.as_deref() == Some("")
    }

    /// The path for these captures; always absolute, with one slash where the parts meet.
    pub(super) fn apply(&self, captures: &Captures<'_>) -> String {
        let Some(after) = &self.after else { return self.before.clone() };
        let rest = captures.rest;
        let mut path = String::with_capacity(self.before.len() + rest.len() + after.len() + 1);
        path.push_str(self.before.strip_suffix('/').unwrap_or(&self.before));
        if !rest.starts_with('/') {
            path.push('/');
        }
        path.push_str(rest);
        path.push_str(after);
        path
    }
}

/// Path and query as one request target; `query` is already without its token.
pub(super) fn target(path: &str, rule: QueryRule, query: Option<&str>) -> String {
    match (rule, query) {
        (QueryRule::Keep, Some(query)) => format!("{path}?{query}"),
        (QueryRule::Keep, None) | (QueryRule::Drop, _) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_joined_by_one_slash() {
        let rows = [
            ("{rest}", "/a", "/a"),
            ("{rest}", "", "/"),
            ("{rest}", "a", "/a"),
            ("/", "ignored", "/"),
            ("/base{rest}", "/a", "/base/a"),
            ("/base/{rest}", "/a", "/base/a"),
            ("/base/{rest}.json", "x", "/base/x.json"),
        ];
        for (text, rest, want) in rows {
            let captures = Captures { rest, ..Captures::default() };
            assert_eq!(Rewrite::new(text).unwrap().apply(&captures), want, "{text} {rest}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        for text in ["relative", "{rest}{rest}", "/{user}", ""] {
            assert!(Rewrite::new(text).is_err(), "{text}");
        }
    }
}

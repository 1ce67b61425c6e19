//! What an examination finds: numbers that stay, words for people, JSON for programs.

use std::fmt::Write;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A kind of finding. Its number is never given to another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// Such as `D01`.
    pub id: &'static str,
    /// What is looked at.
    pub title: &'static str,
}

const fn code(id: &'static str, title: &'static str) -> Code {
    Code { id, title }
}

/// Everything that is looked at, in the order of the report.
pub(super) const CONFIGURATION: Code = code("D01", "configuration");
pub(super) const SETTINGS: Code = code("D02", "dangerous settings");
pub(super) const SIGNING_KEYS: Code = code("D03", "signing keys");
pub(super) const PAYLOAD_KEYS: Code = code("D04", "payload keys");
pub(super) const KEY_PAIRS: Code = code("D05", "key pairs");
pub(super) const CERTIFICATES: Code = code("D06", "certificates");
pub(super) const SERVICE: Code = code("D07", "service");
pub(super) const PYOS_CLOCK: Code = code("D08", "clock of pyos");
pub(super) const API: Code = code("D09", "Kubernetes API");
pub(super) const API_CLOCK: Code = code("D10", "clock of the Kubernetes API");
pub(super) const PODS: Code = code("D11", "desktops");
pub(super) const NAMES: Code = code("D12", "desktops in DNS");
pub(super) const EDGE_NAME: Code = code("D13", "the edge's Service");
pub(super) const EDGE_MEMBER: Code = code("D14", "this pod in the edge's Service");
pub(super) const EDGE_REVERSE: Code = code("D15", "reverse lookup of this pod");
pub(super) const HOST_NETWORK: Code = code("D16", "pod network");
pub(super) const FRONT: Code = code("D17", "public address");
pub(super) const FRONT_UPGRADE: Code = code("D18", "WebSocket through the public address");
pub(super) const FRONT_SCHEME: Code = code("D19", "X-Forwarded-Proto");
pub(super) const FRONT_CERTIFICATE: Code = code("D20", "certificate of the public address");
pub(super) const LISTENING: Code = code("D21", "listening address");

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, and deserves a look.
    Warning,
    /// Something does not work.
    Problem,
    /// Nothing can be told, and why.
    Skipped,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
            Self::Skipped => "skipped",
        }
    }
}

/// One finding. Holds no secret and no address of a pod.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its kind.
    pub code: Code,
    /// Which one, where there are several of a kind.
    pub subject: Option<String>,
    /// How it stands.
    pub status: Status,
    /// What was seen.
    pub details: Vec<String>,
    /// What to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(code: Code, status: Status, detail: impl Into<String>) -> Self {
        Self { code, subject: None, status, details: vec![detail.into()], remedy: None }
    }

    pub(super) fn ok(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Status::Ok, detail)
    }

    pub(super) fn skipped(code: Code, why: impl Into<String>) -> Self {
        Self::new(code, Status::Skipped, why)
    }

    pub(super) fn warning(
        code: Code,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(code, Status::Warning, detail) }
    }

    pub(super) fn problem(
        code: Code,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(code, Status::Problem, detail) }
    }

    /// Says which one of several.
    pub(super) fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    /// Says more.
    pub(super) fn and(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Finding", 6)?;
        object.serialize_field("id", self.code.id)?;
        object.serialize_field("title", self.code.title)?;
        object.serialize_field("subject", &self.subject)?;
        object.serialize_field("status", &self.status)?;
        object.serialize_field("details", &self.details)?;
        object.serialize_field("remedy", &self.remedy)?;
        object.end()
    }
}

/// All findings, in the order of their numbers.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
    /// Whether the configuration can be used at all.
    pub valid: bool,
}

impl Report {
    pub(super) fn new(mut findings: Vec<Finding>, valid: bool) -> Self {
        findings.sort_by(|a, b| (a.code, &a.subject).cmp(&(b.code, &b.subject)));
        Self { findings, valid }
    }

    /// Whether there is no problem.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.count(Status::Problem) == 0
    }

    fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { code, subject, status, details, remedy } in &self.findings {
            let subject =
                subject.as_ref().map(|name| format!(" {}", clean(name))).unwrap_or_default();
            let Code { id, title } = code;
            // Writing to a text does not fail.
            let _ = writeln!(text, "{id} {:<8} {title}{subject}", status.name());
            for line in details.iter().flat_map(|detail| detail.lines()) {
                let _ = writeln!(text, "    {}", clean(line));
            }
            for (at, line) in remedy.iter().flat_map(|remedy| remedy.lines()).enumerate() {
                let mark = if at == 0 { "->" } else { "  " };
                let _ = writeln!(text, "    {mark} {}", clean(line));
            }
        }
        let of = |status| self.count(status);
        let _ = writeln!(
            text,
            "{} ok, {} to look at, {} wrong, {} not checked",
            of(Status::Ok),
            of(Status::Warning),
            of(Status::Problem),
            of(Status::Skipped)
        );
        text
    }

    /// For programs: one object.
    #[must_use]
    pub fn json(&self) -> String {
        let object = serde_json::json!({
            "healthy": self.is_healthy(),
            "ok": self.count(Status::Ok),
            "warnings": self.count(Status::Warning),
            "problems": self.count(Status::Problem),
            "skipped": self.count(Status::Skipped),
            "findings": self.findings,
        });
        format!("{object:#}\n")
    }
}

/// A line without what a terminal would obey: names in certificates, headers and files are strangers'.
fn clean(line: &str) -> String {
    line.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_nothing_that_a_terminal_obeys() {
        let finding = Finding::warning(CERTIFICATES, "for a\u{1b}[2Jb\nand c", "renew\u{7} it");
        let text = Report::new(vec![finding.of("tls\r.crt\u{9b}")], true).text();
        for line in ["certificates tls?.crt?", "    for a?[2Jb", "    and c", "    -> renew? it"] {
            assert!(text.lines().any(|found| found.ends_with(line)), "{line}: {text:?}");
        }
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

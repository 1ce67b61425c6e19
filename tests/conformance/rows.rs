//! The rows of `conformance.toml` and their placeholders.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conformance {
    /// What differs from the incumbent, and why.
    pub(super) deviations: BTreeMap<String, String>,
    rows: Rows,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    all: Vec<Row>,
}

impl Conformance {
    pub(super) fn get() -> &'static Self {
        static FILE: OnceLock<Conformance> = OnceLock::new();
        FILE.get_or_init(|| {
            toml::from_str(include_str!("../conformance.toml"))
                .unwrap_or_else(|error| panic!("conformance.toml: {error}"))
        })
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows.all
    }

    pub(super) fn rows_of(&self, profile: &str) -> impl Iterator<Item = &Row> {
        let holds = move |row: &&Row| row.profile.iter().any(|name| name == profile);
        self.rows.all.iter().filter(holds)
    }
}

/// One fact: a request, and what becomes of it. The file explains the fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) from: String,
    #[serde(default = "both")]
    pub(super) profile: Vec<String>,
    #[serde(default = "get")]
    pub(super) method: String,
    pub(super) target: String,
    #[serde(default = "http_11")]
    pub(super) version: String,
    #[serde(default = "host")]
    pub(super) host: String,
    #[serde(default)]
    pub(super) headers: Vec<String>,
    #[serde(default)]
    pub(super) upgrade: bool,
    pub(super) body_bytes: Option<usize>,
    pub(super) chunked_bytes: Option<usize>,
    pub(super) length: Option<u64>,
    pub(super) answer: Option<Answer>,
    pub(super) status: u16,
    pub(super) error: Option<String>,
    #[serde(default = "nobody")]
    pub(super) upstream: String,
    pub(super) sent: Option<String>,
    pub(super) sent_version: Option<String>,
    #[serde(default)]
    pub(super) sent_headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) response_headers: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    pub(super) body_contains: Option<String>,
    pub(super) differs: Option<String>,
}

/// What an upstream answers; its own name by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Answer {
    pub(super) status: Option<String>,
    pub(super) headers: Vec<String>,
    pub(super) body: Option<String>,
    pub(super) body_bytes: usize,
    pub(super) raw: Option<String>,
    pub(super) close: bool,
    /// Without waiting for the request's body.
    #[serde(skip)]
    pub(super) early: bool,
}

fn both() -> Vec<String> {
    vec!["abcdesktop-3".to_owned(), "abcdesktop-4".to_owned()]
}

fn get() -> String {
    "GET".to_owned()
}

fn http_11() -> String {
    "HTTP/1.1".to_owned()
}

fn host() -> String {
    "desk.example".to_owned()
}

fn nobody() -> String {
    "none".to_owned()
}

impl Row {
    /// Whether a gateway itself answers, without an upstream.
    pub(super) fn is_answered_here(&self) -> bool {
        matches!(self.upstream.as_str(), "none" | "file")
    }

    /// The answer that the row's upstream gives.
    pub(super) fn answer(&self, words: &Words) -> Answer {
        let mut answer = self.answer.clone().unwrap_or_default();
        for text in answer.headers.iter_mut().chain(&mut answer.raw) {
            *text = words.fill(text);
        }
        answer.early = self.length.is_some();
        answer
    }

    /// The request's bytes.
    pub(super) fn request(&self, words: &Words) -> Vec<u8> {
        let target = words.fill(&self.target);
        let mut head = format!("{} {target} {}\r\n", self.method, self.version);
        let mut line = |text: &str| {
            head.push_str(text);
            head.push_str("\r\n");
        };
        if !self.host.is_empty() {
            line(&format!("Host: {}", self.host));
        }
        if self.upgrade {
            line("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13");
            line("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
        }
        for header in &self.headers {
            line(&words.fill(header));
        }
        let mut body = Vec::new();
        if let Some(length) = self.length {
            line(&format!("Content-Length: {length}"));
        } else if let Some(length) = self.body_bytes {
            line(&format!("Content-Length: {length}"));
            body.resize(length, b'x');
        } else if let Some(length) = self.chunked_bytes {
            line("Transfer-Encoding: chunked");
            for start in (0..length).step_by(64 * 1024) {
                let size = (length - start).min(64 * 1024);
                body.extend(format!("{size:x}\r\n").bytes());
                body.resize(body.len() + size, b'x');
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
        }
        line("");
        let mut request = head.into_bytes();
        request.extend(body);
        request
    }
}

/// What placeholders stand for.
pub(super) struct Words(pub(super) BTreeMap<String, String>);

impl Words {
    /// The text with its placeholders filled in. Other braces stay.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let word = after.split_once('}').and_then(|(name, _)| Some((name, self.word(name)?)));
            rest = match word {
                Some((name, word)) => {
                    filled.push_str(&word);
                    &after[name.len() + 1..]
                }
                None => {
                    filled.push('{');
                    after
                }
            };
        }
        filled.push_str(rest);
        filled
    }

    fn word(&self, name: &str) -> Option<String> {
        match name.strip_prefix("X:") {
            Some(count) => Some("x".repeat(count.parse().ok()?)),
            None => self.0.get(name).cloned(),
        }
    }
}

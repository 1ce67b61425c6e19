//! Events as JSON, one object a line, its fields flat: `timestamp`, `level`, those of the event, `target`.
//!
//! Written straight into the line. The library's own form collects the fields in a map first, which cost
//! a quarter of a small request.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::access_log::Record;
use super::{LINE, privacy};

/// The form.
#[derive(Debug)]
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // A line of its own first: each piece through the writer would be a call through a table.
        let mut line = String::with_capacity(LINE);
        line.push_str("{\"timestamp\":\"");
        #[expect(clippy::disallowed_methods, reason = "the time of the line, not of a decision")]
        time(&mut line, SystemTime::now());
        line.push_str("\",\"level\":\"");
        line.push_str(event.metadata().level().as_str());
        line.push('"');
        let mut fields = Fields { to: &mut line, outcome: Ok(()) };
        event.record(&mut fields);
        fields.outcome?;
        line.push_str(",\"target\":\"");
        Escaped(&mut line).write_str(event.metadata().target())?;
        line.push_str("\"}\n");
        writer.write_str(&line)
    }
}

/// Writes the line of a request that took this long.
pub(super) fn request(line: &mut String, record: &Record, duration: Duration, now: SystemTime) {
    let Record { method, target, version, host, referer, user_agent, .. } = record;
    line.push_str("{\"timestamp\":\"");
    time(line, now);
    line.push_str("\",\"level\":\"INFO");
    text(line, "request_id", &record.id);
    let trace = record.trace.map(|trace| format!("{:032x}", trace.context.trace));
    text(line, "trace_id", trace.as_deref().unwrap_or_default());
    let client = record.client.map(privacy::told);
    text(line, "client", client.as_deref().unwrap_or_default());
    text(line, "method", method);
    text(line, "uri", target);
    text(line, "version", version);
    text(line, "host", host);
    line.push('"');
    number(line, "status", record.status.into());
    number(line, "received", record.received);
    number(line, "sent", record.sent);
    number(line, "duration", duration.as_secs());
    fraction(line, duration.subsec_micros());
    line.push_str(",\"route\":\"");
    escape(line, record.route());
    let token = record.token.map(|fingerprint| fingerprint.to_string());
    text(line, "token", token.as_deref().unwrap_or_default());
    text(line, "reason", record.reason);
    text(line, "referer", referer);
    text(line, "user_agent", user_agent);
    line.push_str("\",\"target\":\"access\"}\n");
}

/// Ends the text before, and begins another one under this name.
fn text(line: &mut String, name: &str, value: &str) {
    for part in ["\",\"", name, "\":\""] {
        line.push_str(part);
    }
    escape(line, value);
}

fn number(line: &mut String, name: &str, value: u64) {
    for part in [",\"", name, "\":", itoa::Buffer::new().format(value)] {
        line.push_str(part);
    }
}

/// Six digits of a second.
fn fraction(line: &mut String, micros: u32) {
    line.push('.');
    for unit in [100_000, 10_000, 1_000, 100, 10, 1] {
        line.push(char::from(b'0' + (micros / unit % 10) as u8));
    }
}

/// A string takes whatever is written to it.
fn escape(line: &mut String, value: &str) {
    let _ = Escaped(line).write_str(value);
}

/// A time (RFC 3339) to the microsecond. Everything but the fraction is the last line's, as long as the
/// second is.
fn time(to: &mut String, now: SystemTime) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() || text.is_empty() {
            *text = format_rfc3339_seconds(now).to_string();
            text.truncate(text.len() - 1); // Z
            *second = since.as_secs();
        }
        to.push_str(text);
        fraction(to, since.subsec_micros());
        to.push('Z');
    });
}

/// Writes fields; the first error ends it.
struct Fields<'a, W> {
    to: &'a mut W,
    outcome: fmt::Result,
}

impl<W: Write> Fields<'_, W> {
    fn name(&mut self, field: &Field) -> fmt::Result {
        self.to.write_str(",\"")?;
        self.to.write_str(field.name())?;
        self.to.write_str("\":")
    }

    fn put(&mut self, field: &Field, value: impl FnOnce(&mut W) -> fmt::Result) {
        if self.outcome.is_ok() {
            // Names of fields are ours: nothing to escape.
            self.outcome = self.name(field).and_then(|()| value(self.to));
        }
    }
}

impl<W: Write> Visit for Fields<'_, W> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |to| {
            to.write_char('"')?;
            Escaped(to).write_str(value)?;
            to.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, |to| {
            to.write_char('"')?;
            Escaped(to).write_fmt(format_args!("{value:?}"))?;
            to.write_char('"')
        });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, |to| write!(to, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, |to| write!(to, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, |to| write!(to, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, |to| match value.is_finite() {
            true => write!(to, "{value}"),
            false => to.write_str("null"),
        });
    }
}

/// Text within the quotes of a JSON string (RFC 8259 section 7).
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
        // Most texts have none, which is seen many bytes at a time if no byte ends the search.
        if !text.as_bytes().iter().fold(false, |found, byte| found | special(byte)) {
            return self.0.write_str(text);
        }
        let mut rest = text;
        while let Some(at) = rest.as_bytes().iter().position(special) {
            let (plain, special) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut characters = special.chars();
            match characters.next() {
                Some('"') => self.0.write_str("\\\"")?,
                Some('\\') => self.0.write_str("\\\\")?,
                Some('\n') => self.0.write_str("\\n")?,
                Some(other) => write!(self.0, "\\u{:04x}", u32::from(other))?,
                None => {}
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use proptest::prelude::*;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::access_log::InFlight;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(event: impl FnOnce()) -> serde_json::Value {
        let lines = Lines::default();
        let to = lines.clone();
        let layer =
            tracing_subscriber::fmt::layer().event_format(Json).with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.matches('\n').count(), 1, "{written}");
        serde_json::from_str(&written).unwrap()
    }

    #[test]
    fn the_time_of_a_line_is_its_own() {
        let mut told = String::new();
        for micros in [1_790_000_000_999_999, 1_790_000_001_000_000, 1_790_000_001_000_042] {
            time(&mut told, UNIX_EPOCH + Duration::from_micros(micros));
            told.push(' ');
        }
        let expected =
            "2026-09-21T14:13:20.999999Z 2026-09-21T14:13:21.000000Z 2026-09-21T14:13:21.000042Z ";
        assert_eq!(told, expected);
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let value = line(|| {
            let (count, ratio) = (7_u64, 0.000_001_5_f64);
            let none = f64::NAN;
            tracing::info!(target: "access", count, ratio, none, minus = -1, yes = true, "say \"it\"");
        });
        assert_eq!(value["level"], "INFO");
        assert_eq!(value["target"], "access");
        assert_eq!(value["message"], "say \"it\"");
        assert_eq!((value["count"].as_u64(), value["minus"].as_i64()), (Some(7), Some(-1)));
        assert_eq!(
            (value["ratio"].as_f64(), value["yes"].as_bool()),
            (Some(0.000_001_5), Some(true))
        );
        assert!(value["none"].is_null());
        let stamp = value["timestamp"].as_str().unwrap();
        assert!(stamp.ends_with('Z') && stamp.contains('T'), "{stamp}");
    }

    #[test]
    fn a_request_is_one_flat_object_with_all_its_fields() {
        let mut record =
            Record::empty(None, "id".into(), InFlight::default().enter(), Instant::now());
        record.client = Some("203.0.113.77".parse().unwrap());
        record.method = "GET".into();
        record.target = "/a?\"b\\".into();
        record.version = "HTTP/1.1";
        record.user_agent = "a\nb\u{1f980}".into();
        record.route = Some("pyos".into());
        record.status = 200;
        (record.received, record.sent) = (0, u64::MAX);
        let mut line = String::new();
        let moment = UNIX_EPOCH + Duration::from_micros(1_790_000_000_000_007);
        request(&mut line, &record, Duration::from_nanos(3_000_045_999), moment);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2026-09-21T14:13:20.000007Z", "level": "INFO", "target": "access",
            "request_id": "id", "trace_id": "", "client": "203.0.113.77", "method": "GET",
            "uri": "/a?\"b\\", "version": "HTTP/1.1", "host": "", "status": 200, "received": 0,
            "sent": u64::MAX, "duration": 3.000_045, "route": "pyos", "token": "", "reason": "",
            "referer": "", "user_agent": "a\nb\u{1f980}",
        });
        assert_eq!(value, expected);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in any::<String>()) {
            let value = line(|| tracing::warn!(text, debug = ?text));
            prop_assert_eq!(value["text"].as_str(), Some(text.as_str()));
            let debug = format!("{text:?}");
            prop_assert_eq!(value["debug"].as_str(), Some(debug.as_str()));
        }
    }
}

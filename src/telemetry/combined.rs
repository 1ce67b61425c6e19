//! Lines for people and for tools that read nginx's `combined` access log.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Requests in `combined` form, every other event as text.
#[derive(Debug)]
pub(super) struct Combined;

impl<S, N> FormatEvent<S, N> for Combined
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().target() != "access" {
            return Format::default().with_ansi(false).format_event(context, writer, event);
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        #[expect(clippy::disallowed_methods, reason = "the time of the line, not of a decision")]
        let now = SystemTime::now();
        writeln!(writer, "{}", line(&fields, &clf_time(now)))
    }
}

/// The fields of one event as text.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty()).unwrap_or("-")
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), escape(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// What would end a quoted field or a line, escaped as nginx does.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '"' | '\\' => out.push_str(&format!("\\x{:02X}", u32::from(character))),
            character if character.is_control() => {
                out.push_str(&format!("\\x{:02X}", u32::from(character)));
            }
            character => out.push(character),
        }
    }
    out
}

fn line(fields: &Fields, time: &str) -> String {
    format!(
        "{client} - {token} [{time}] \"{method} {target} {version}\" {status} {sent} \
         \"{referer}\" \"{agent}\" {route} {reason} {duration} {id}",
        client = fields.text("client"),
        token = fields.text("token"),
        method = fields.text("method"),
        target = fields.text("uri"),
        version = fields.text("version"),
        status = fields.text("status"),
        sent = fields.text("sent"),
        referer = fields.text("referer"),
        agent = fields.text("user_agent"),
        route = fields.text("route"),
        reason = fields.text("reason"),
        duration = fields.text("duration"),
        id = fields.text("request_id"),
    )
}

/// `23/Nov/2026:06:14:59 +0000`, from the fixed form `Mon, 23 Nov 2026 06:14:59 GMT`.
fn clf_time(time: SystemTime) -> String {
    let date = httpdate::fmt_http_date(time);
    let mut parts = date.split(' ').skip(1);
    let mut next = || parts.next().unwrap_or("-");
    format!("{}/{}/{}:{} +0000", next(), next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_has_the_common_log_form() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_414_499);
        assert_eq!(clf_time(time), "23/Nov/2026:06:14:59 +0000");
    }

    #[test]
    fn a_field_cannot_forge_a_line() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\x22b\\x5Cc\\x0Ad");
    }
}

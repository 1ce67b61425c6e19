//! Lines for people and for tools that read nginx's `combined` access log.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::access_log::Record;
use super::privacy;

/// Writes the line of a request that took this long.
pub(super) fn request(line: &mut String, record: &Record, duration: Duration, now: SystemTime) {
    // A string takes whatever is written to it.
    let _ = writeln!(
        line,
        "{client} - {token} [{time}] \"{method} {target} {version}\" {status} {sent} \
         \"{referer}\" \"{agent}\" {route} {reason} {duration:.6} {id}",
        client = told(&record.client.map(privacy::told).unwrap_or_default()),
        token = told(&record.token.map(|token| token.to_string()).unwrap_or_default()),
        time = clf_time(now),
        method = told(&record.method),
        target = told(&record.target),
        version = told(record.version),
        status = record.status,
        sent = record.sent,
        referer = told(&record.referer),
        agent = told(&record.user_agent),
        route = told(record.route()),
        reason = told(record.reason),
        duration = duration.as_secs_f64(),
        id = told(&record.id),
    );
}

/// What would end a quoted field or a line, escaped as nginx does; nothing is a dash.
fn told(value: &str) -> String {
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
    if out.is_empty() {
        out.push('-');
    }
    out
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

    #[test]
    fn time_has_the_common_log_form() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_414_499);
        assert_eq!(clf_time(time), "23/Nov/2026:06:14:59 +0000");
    }

    #[test]
    fn a_field_cannot_forge_a_line() {
        assert_eq!(told("a\"b\\c\nd"), "a\\x22b\\x5Cc\\x0Ad");
    }
}

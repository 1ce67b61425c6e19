//! Below the tunnels: desktops, refused tokens, certificates and keys, reloads.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::view::{BAD, BOLD, DIM, GOOD, WARN, clean, span};
use deskgate::admin::Overview;

/// Lines of the panels, their frame included, and of a terminal that has room for them.
pub(super) const HEIGHT: u16 = 8;
pub(super) const LEAST: u16 = 26;

/// A certificate that ends within this time is told as a warning, in seconds.
const ENDS_SOON: f64 = 7.0 * 86_400.0;

/// Draws all four.
pub(super) fn draw(frame: &mut Frame<'_>, overview: &Overview, area: Rect) {
    let columns = Layout::horizontal([
        Constraint::Ratio(3, 12),
        Constraint::Ratio(2, 12),
        Constraint::Ratio(4, 12),
        Constraint::Ratio(3, 12),
    ]);
    let [desktops, refused, keys, reloads] = columns.areas(area);
    let title = match &overview.discovery {
        Some(discovery) => {
            let known = overview.desktops_known;
            // Not all are listed, and those that are not ready come first.
            let not_ready: u64 = overview.desktops.iter().map(|one| u64::from(!one.ready)).sum();
            let ready = known.saturating_sub(not_ready);
            format!("desktops: {ready} of {known} ready, {}", discovery.state)
        }
        None => "desktops: not watched".to_owned(),
    };
    panel(frame, desktops, title, desktop_lines(overview));
    let sum: u64 = overview.auth_failures.iter().map(|entry| entry.count).sum();
    panel(frame, refused, format!("refused tokens: {sum}"), refused_lines(overview));
    panel(frame, keys, "certificates and keys".to_owned(), key_lines(overview));
    panel(frame, reloads, "reloads".to_owned(), reload_lines(overview));
}

fn panel(frame: &mut Frame<'_>, area: Rect, title: String, lines: Vec<Line<'_>>) {
    let block = Block::bordered().border_style(DIM).title(clean(&title).into_owned());
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A name and what is said of it.
fn line<'a>(name: &'a str, about: String, style: Style) -> Line<'a> {
    Line::from(vec![Span::raw(clean(name)), Span::raw("  "), Span::styled(about, style)])
}

fn desktop_lines(overview: &Overview) -> Vec<Line<'_>> {
    let lines = overview.desktops.iter().map(|desktop| {
        let age = desktop.age.map(span).unwrap_or_default();
        let about = format!("{} {age}, {} tunnels", clean(&desktop.state), desktop.tunnels);
        line(&desktop.pod, about, if desktop.ready { GOOD } else { WARN })
    });
    lines.take(usize::from(HEIGHT)).collect()
}

fn refused_lines(overview: &Overview) -> Vec<Line<'_>> {
    let mut entries: Vec<_> = overview.auth_failures.iter().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.count));
    let lines = entries.into_iter().map(|entry| line(&entry.reason, entry.count.to_string(), BOLD));
    lines.take(usize::from(HEIGHT)).collect()
}

fn key_lines(overview: &Overview) -> Vec<Line<'_>> {
    let certificates = overview.certificates.iter().map(|one| {
        let left = one.not_after - overview.time;
        let (about, style) = if left < 0.0 {
            ("expired".to_owned(), BAD)
        } else if one.not_before > overview.time {
            (format!("valid in {}", span(one.not_before - overview.time)), BAD)
        } else {
            (format!("{} left", span(left)), if left < ENDS_SOON { WARN } else { GOOD })
        };
        line(&one.name, about, style)
    });
    let keys = overview.keys.iter().map(|key| {
        let age = span(overview.time - key.loaded);
        let did = if key.kind == "signing" { "verified" } else { "opened" };
        let about = format!("{} {}, {age}, {} {did}", clean(&key.kind), key.bits, key.verified);
        line(&key.key, about, DIM)
    });
    certificates.chain(keys).take(usize::from(HEIGHT)).collect()
}

fn reload_lines(overview: &Overview) -> Vec<Line<'_>> {
    if overview.reloads.is_empty() {
        return vec![Line::styled("none since the start", DIM)];
    }
    let lines = overview.reloads.iter().map(|reload| {
        let ago = format!("{} ago", span(overview.time - reload.time));
        if reload.taken {
            line(&reload.cause, format!("taken, {ago}"), GOOD)
        } else {
            let why = reload.faults.first().map(String::as_str).unwrap_or_default();
            line(&reload.cause, format!("refused, {ago}: {}", clean(why)), BAD)
        }
    });
    lines.take(usize::from(HEIGHT)).collect()
}

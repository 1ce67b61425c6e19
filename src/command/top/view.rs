//! Draws the state.

use std::borrow::Cow;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table};

use super::panels;
use super::state::{Order, State};
use deskgate::admin::{Overview, Tunnel};

pub(super) const DIM: Style = Style::new().fg(Color::DarkGray);
pub(super) const GOOD: Style = Style::new().fg(Color::Green);
pub(super) const WARN: Style = Style::new().fg(Color::Yellow);
pub(super) const BAD: Style = Style::new().fg(Color::Red);
pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// The keys, in the order of the columns.
const KEYS: &str = " ↑↓ choose  c close  space refresh  q quit   sort: n number u user p pod \
                    r route a age b bytes/s t rtt i input";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Min(3),
        Constraint::Length(if frame.area().height < panels::LEAST { 0 } else { panels::HEIGHT }),
        Constraint::Length(1),
    ]);
    let [title, figures, history, tunnels, below, foot] = rows.areas(frame.area());
    frame.render_widget(title_line(state), title);
    frame.render_widget(figures_line(state), figures);
    draw_history(frame, state, history);
    draw_tunnels(frame, state, tunnels);
    if let Some(overview) = state.overview.as_ref().filter(|_| !below.is_empty()) {
        panels::draw(frame, overview, below);
    }
    let said = if state.said.is_empty() { KEYS } else { state.said.as_str() };
    let style = if state.said.is_empty() { DIM } else { WARN };
    frame.render_widget(Line::styled(clean(said), style), foot);
    if let Some(id) = state.closing {
        draw_question(frame, state, id);
    }
}

fn title_line(state: &State) -> Line<'_> {
    let mut spans = vec![Span::styled(" deskgate ", BOLD), Span::raw(clean(&state.name))];
    match (&state.lost, &state.overview) {
        (Some((why, since)), _) => {
            let for_ = span(since.elapsed().as_secs_f64());
            spans.push(Span::styled(format!("  no answer for {for_}: {}", clean(why)), BAD));
        }
        (None, None) => spans.push(Span::styled("  connecting", DIM)),
        (None, Some(overview)) => {
            spans.push(Span::raw("  "));
            spans.push(readiness(overview));
            let build = &overview.build;
            let about = format!(
                "  {} {}  up {}",
                clean(&build.node),
                clean(&build.version),
                span(overview.uptime)
            );
            spans.push(Span::styled(about, DIM));
        }
    }
    Line::from(spans)
}

fn readiness(overview: &Overview) -> Span<'static> {
    if overview.draining {
        Span::styled("● draining", WARN)
    } else if overview.missing.is_empty() {
        Span::styled("● ready", GOOD)
    } else {
        Span::styled(format!("● not ready: {}", clean(&overview.missing.join(", "))), BAD)
    }
}

fn figures_line(state: &State) -> Line<'_> {
    let Some(overview) = &state.overview else { return Line::default() };
    let (requests, errors) = state.requests();
    let (mut to_pods, mut to_clients) = (0.0, 0.0);
    for tunnel in &overview.tunnels {
        let (to_pod, to_client) = state.rates(tunnel.id);
        to_pods += to_pod;
        to_clients += to_client;
    }
    let shown = overview.tunnels.len();
    let all = u64::try_from(shown).is_ok_and(|shown| shown >= overview.tunnels_open);
    let of_those = if all { String::new() } else { format!("of the {shown} shown  ") };
    let refused: u64 = overview.auth_failures.iter().map(|entry| entry.count).sum();
    let bad = if errors > 0.01 * requests { BAD } else { Style::new() };
    Line::from(vec![
        Span::styled(format!(" {requests:.1}"), BOLD),
        Span::raw(" requests/s  "),
        Span::styled(format!("{errors:.2}"), bad.add_modifier(Modifier::BOLD)),
        Span::raw(" errors/s  "),
        Span::styled(overview.tunnels_open.to_string(), BOLD),
        Span::raw(" tunnels  "),
        Span::raw(format!("{}/s to users  {}/s to pods  ", bytes(to_clients), bytes(to_pods))),
        Span::raw(of_those),
        Span::raw(format!("{refused} tokens refused")),
    ])
}

fn draw_history(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let all = state.history();
    let width = usize::from(area.width.saturating_sub(2));
    let shown = all.get(all.len().saturating_sub(width)..).unwrap_or_default();
    let step = state.overview.as_ref().map_or(1, |overview| overview.series.step.max(1));
    let peak = shown.iter().max().map_or(0.0, |peak| *peak as f64 / step as f64);
    let title = format!("requests, {step} s a column, peak {peak:.0}/s");
    let block = Block::bordered().border_style(DIM).title(title);
    let style = Style::new().fg(Color::Cyan);
    frame.render_widget(Sparkline::default().data(shown).style(style).block(block), area);
}

/// Columns of text; those after them are numbers.
const TEXTS: usize = 4;

/// Columns: title, the order it stands for, and its width.
const COLUMNS: [(&str, Option<Order>, u16); 9] = [
    ("#", Some(Order::Number), 6),
    ("user", Some(Order::User), 12),
    ("pod", Some(Order::Pod), 24),
    ("route", Some(Order::Route), 14),
    ("age", Some(Order::Age), 9),
    ("to user", Some(Order::Rate), 11),
    ("to pod", None, 11),
    ("rtt", Some(Order::Rtt), 8),
    ("last input", Some(Order::Input), 10),
];

fn draw_tunnels(frame: &mut Frame<'_>, state: &mut State, area: Rect) {
    let heads = COLUMNS.into_iter().enumerate().map(|(index, (title, order, _))| {
        let sorted = order == Some(state.order);
        let arrow = match (sorted, state.reversed) {
            (false, _) => "",
            (true, false) => " ↓",
            (true, true) => " ↑",
        };
        let side = if index < TEXTS { Alignment::Left } else { Alignment::Right };
        let title = Text::from(format!("{title}{arrow}")).alignment(side);
        Cell::new(title).style(if sorted { BOLD } else { DIM })
    });
    let tunnels = state.overview.as_ref().map_or(&[][..], |overview| &overview.tunnels);
    let rows = tunnels.iter().map(|tunnel| row(tunnel, state.rates(tunnel.id)));
    // The pod's name takes what is left.
    let widths = COLUMNS.map(|(title, _, width)| {
        if title == "pod" { Constraint::Min(width) } else { Constraint::Length(width) }
    });
    let table = Table::new(rows, widths)
        .header(Row::new(heads))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state.table);
}

fn row(tunnel: &Tunnel, (to_pod, to_client): (f64, f64)) -> Row<'static> {
    let right = |text: String| Cell::new(Text::from(text).alignment(Alignment::Right));
    let input = tunnel.last_input.map_or_else(
        || "never".to_owned(),
        |since| {
            if since < 2.0 { "now".to_owned() } else { span(since) }
        },
    );
    let row = Row::new([
        Cell::new(tunnel.id.to_string()),
        Cell::new(clean(tunnel.token.as_deref().unwrap_or("-")).into_owned()),
        Cell::new(clean(&tunnel.pod).into_owned()),
        Cell::new(clean(&tunnel.route).into_owned()),
        right(span(tunnel.age)),
        right(format!("{}/s", bytes(to_client))),
        right(format!("{}/s", bytes(to_pod))),
        right(tunnel.rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.0} ms", rtt * 1000.0))),
        right(input),
    ]);
    if tunnel.closing.is_some() { row.style(DIM) } else { row }
}

fn draw_question(frame: &mut Frame<'_>, state: &State, id: u64) {
    let mut tunnels = state.overview.iter().flat_map(|overview| &overview.tunnels);
    let what = tunnels.find(|tunnel| tunnel.id == id).map_or_else(String::new, |tunnel| {
        format!("{} to {}, {}", clean(&tunnel.route), clean(&tunnel.pod), span(tunnel.age))
    });
    let area = frame.area().centered(Constraint::Max(60), Constraint::Length(5));
    let lines = vec![Line::raw(what), Line::default(), Line::raw("y closes it, any other key not")];
    let block = Block::bordered().border_style(WARN).title(format!("Close tunnel {id}?"));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).centered().block(block), area);
}

/// Text of the instance's without what a terminal would obey.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        return text.replace(char::is_control, "?").into();
    }
    text.into()
}

pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..172_800 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

fn bytes(mut count: f64) -> String {
    for unit in ["B", "KiB", "MiB"] {
        if count < 1000.0 {
            let digits = usize::from(unit != "B" && count < 100.0);
            return format!("{count:.digits$} {unit}");
        }
        count /= 1024.0;
    }
    format!("{count:.1} GiB")
}

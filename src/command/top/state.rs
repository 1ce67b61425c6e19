//! What is shown, and what keys do to it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Instant;

use crossterm::event::KeyCode;
use ratatui::widgets::TableState;

use deskgate::admin::{Overview, Tunnel};

/// Steps of the series that the current rates are taken over.
const RECENT: usize = 3;

/// Shortest time in seconds that a rate is taken over.
const SHORTEST: f64 = 0.9;

/// Rows that one key scrolls by.
const PAGE: usize = 10;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Quit,
    Refresh,
    Close(u64),
}

/// What the tunnels are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Number,
    User,
    Pod,
    Route,
    Age,
    Rate,
    Rtt,
    Input,
}

impl Order {
    /// The order that a key chooses.
    fn of(key: char) -> Option<Self> {
        Some(match key {
            'n' => Self::Number,
            'u' => Self::User,
            'p' => Self::Pod,
            'r' => Self::Route,
            'a' => Self::Age,
            'b' => Self::Rate,
            't' => Self::Rtt,
            'i' => Self::Input,
            _ => return None,
        })
    }
}

/// Bytes of a tunnel at an earlier time, and the rates until the next.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    time: f64,
    to_pod: u64,
    to_client: u64,
    rates: (f64, f64),
}

impl Flow {
    /// That of a tunnel now, with the rates since an earlier one.
    fn of(tunnel: &Tunnel, time: f64, before: Option<&Self>) -> Self {
        let Tunnel { to_pod, to_client, .. } = *tunnel;
        let now = Self { time, to_pod, to_client, rates: (0.0, 0.0) };
        let Some(before) = before else { return now };
        let passed = time - before.time;
        if (0.0..=SHORTEST).contains(&passed) {
            return *before;
        }
        if passed < 0.0 {
            // The clock was set back: rates begin anew.
            return now;
        }
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / passed;
        let rates = (rate(to_pod, before.to_pod), rate(to_client, before.to_client));
        Self { rates, ..now }
    }
}

/// Everything that is shown.
pub(super) struct State {
    /// How the instance was named.
    pub(super) name: String,
    pub(super) overview: Option<Overview>,
    /// Why there is no answer, and since when.
    pub(super) lost: Option<(String, Instant)>,
    /// What became of the last order.
    pub(super) said: String,
    pub(super) order: Order,
    pub(super) reversed: bool,
    /// The tunnel that is to be closed if that is confirmed.
    pub(super) closing: Option<u64>,
    pub(super) table: TableState,
    /// The tunnel under the bar: it stays chosen when the order changes.
    chosen: Option<u64>,
    flows: HashMap<u64, Flow>,
}

impl State {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            overview: None,
            lost: None,
            said: String::new(),
            order: Order::Number,
            reversed: false,
            closing: None,
            table: TableState::default(),
            chosen: None,
            flows: HashMap::new(),
        }
    }

    pub(super) fn say(&mut self, what: String) {
        self.said = what;
    }

    /// Notes that there was no answer.
    pub(super) fn lost(&mut self, why: String, now: Instant) {
        let since = self.lost.as_ref().map_or(now, |(_, since)| *since);
        self.lost = Some((why, since));
    }

    /// Takes a new answer.
    pub(super) fn take(&mut self, overview: Overview) {
        if self.overview.as_ref().is_some_and(|before| overview.uptime < before.uptime) {
            // Another process, which gives the same numbers to other tunnels.
            self.flows.clear();
            self.closing = None;
            self.chosen = None;
        }
        let flow = |tunnel: &Tunnel| {
            (tunnel.id, Flow::of(tunnel, overview.time, self.flows.get(&tunnel.id)))
        };
        self.flows = overview.tunnels.iter().map(flow).collect();
        self.lost = None;
        self.overview = Some(overview);
        self.sort();
    }

    /// Bytes per second to the pod and to the client.
    pub(super) fn rates(&self, id: u64) -> (f64, f64) {
        self.flows.get(&id).map_or((0.0, 0.0), |flow| flow.rates)
    }

    /// Requests and errors per second.
    pub(super) fn requests(&self) -> (f64, f64) {
        let Some(overview) = &self.overview else { return (0.0, 0.0) };
        let series = &overview.series;
        let recent = |values: &[u32]| {
            let taken = values.len().min(RECENT);
            let sum: u64 = values.iter().rev().take(taken).map(|value| u64::from(*value)).sum();
            sum as f64 / (taken.max(1) * series.step.max(1)) as f64
        };
        let routes = series.routes.iter();
        routes.fold((0.0, 0.0), |(requests, errors), route| {
            (requests + recent(&route.requests), errors + recent(&route.errors))
        })
    }

    /// Requests of all routes over time.
    pub(super) fn history(&self) -> Vec<u64> {
        let mut sums = Vec::new();
        let routes = self.overview.iter().flat_map(|overview| &overview.series.routes);
        for route in routes {
            sums.resize(sums.len().max(route.requests.len()), 0);
            for (sum, value) in sums.iter_mut().zip(&route.requests) {
                *sum += u64::from(*value);
            }
        }
        sums
    }

    fn sort(&mut self) {
        let Some(mut overview) = self.overview.take() else { return };
        overview.tunnels.sort_by(|a, b| {
            let order = self.compare(a, b).then(a.id.cmp(&b.id));
            if self.reversed { order.reverse() } else { order }
        });
        let chosen = overview.tunnels.iter().position(|tunnel| Some(tunnel.id) == self.chosen);
        let last = overview.tunnels.len().checked_sub(1);
        // One that is gone leaves the bar where it is.
        let row = chosen.or_else(|| self.table.selected()).or(Some(0)).zip(last);
        self.overview = Some(overview);
        self.choose(row.map(|(row, last)| row.min(last)));
    }

    fn compare(&self, a: &Tunnel, b: &Tunnel) -> Ordering {
        let rate = |tunnel: &Tunnel| {
            let (to_pod, to_client) = self.rates(tunnel.id);
            to_pod + to_client
        };
        let quiet = |tunnel: &Tunnel| tunnel.last_input.unwrap_or(f64::INFINITY);
        match self.order {
            Order::Number => Ordering::Equal,
            Order::User => a.token.cmp(&b.token),
            Order::Pod => a.pod.cmp(&b.pod),
            Order::Route => a.route.cmp(&b.route),
            Order::Age => b.age.total_cmp(&a.age),
            Order::Rate => rate(b).total_cmp(&rate(a)),
            Order::Rtt => b.rtt.unwrap_or(-1.0).total_cmp(&a.rtt.unwrap_or(-1.0)),
            Order::Input => quiet(a).total_cmp(&quiet(b)),
        }
    }

    fn choose(&mut self, row: Option<usize>) {
        self.table.select(row);
        let tunnels = self.overview.as_ref().map(|overview| &overview.tunnels);
        self.chosen = tunnels.zip(row).and_then(|(tunnels, row)| Some(tunnels.get(row)?.id));
    }

    fn step(&mut self, by: usize, down: bool) {
        let count = self.overview.as_ref().map_or(0, |overview| overview.tunnels.len());
        let Some(last) = count.checked_sub(1) else { return };
        let row = self.table.selected().unwrap_or(0);
        let row = if down { row.saturating_add(by).min(last) } else { row.saturating_sub(by) };
        self.choose(Some(row));
    }

    /// What a key does.
    pub(super) fn pressed(&mut self, key: KeyCode) -> Asked {
        self.said.clear();
        if let Some(id) = self.closing.take() {
            let confirmed = matches!(key, KeyCode::Char('y' | 'Y'));
            return if confirmed { Asked::Close(id) } else { Asked::Nothing };
        }
        match (key, self.chosen) {
            (KeyCode::Char('q') | KeyCode::Esc, _) => return Asked::Quit,
            (KeyCode::Char(' '), _) => return Asked::Refresh,
            (KeyCode::Char('c') | KeyCode::Delete, Some(id)) => self.closing = Some(id),
            (KeyCode::Down | KeyCode::Char('j'), _) => self.step(1, true),
            (KeyCode::Up | KeyCode::Char('k'), _) => self.step(1, false),
            (KeyCode::PageDown, _) => self.step(PAGE, true),
            (KeyCode::PageUp, _) => self.step(PAGE, false),
            (KeyCode::Home, _) => self.step(usize::MAX, false),
            (KeyCode::End, _) => self.step(usize::MAX, true),
            (KeyCode::Char(key), _) => {
                if let Some(order) = Order::of(key) {
                    self.reversed = self.order == order && !self.reversed;
                    self.order = order;
                    self.sort();
                }
            }
            _ => {}
        }
        Asked::Nothing
    }
}

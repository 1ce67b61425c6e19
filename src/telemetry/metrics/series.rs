//! The last ten minutes, second by second.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::cells::RouteCells;
use super::table::Table;

/// Seconds that are kept.
const KEPT: usize = 600;

/// One second of one route. The order of routes is that of their arrival, so it never changes.
#[derive(Clone, Copy, Default)]
struct Point {
    requests: u32,
    errors: u32,
}

/// Requests and errors of the routes over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Seconds that one value stands for.
    pub step: usize,
    /// Number of the last value, counted from the start of the process.
    pub last: u64,
    /// The routes, the busiest first; `other` is the sum of those that are not named.
    pub routes: Vec<RouteSeries>,
}

/// One route over time, the oldest value first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSeries {
    /// Name of the route.
    pub route: String,
    /// Requests that ended.
    pub requests: Vec<u32>,
    /// Those of them that were answered with 5xx.
    pub errors: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Samples {
    /// Sums at the last sample, by route.
    before: Vec<(u64, u64)>,
    ring: VecDeque<Box<[Point]>>,
    /// Samples taken since the start.
    taken: u64,
}

impl Samples {
    pub(super) fn take(&mut self, routes: &Table<RouteCells>) {
        let first = self.before.is_empty();
        let routes = routes.by_arrival();
        // A route that is new has counted from nought.
        self.before.resize(routes.len(), (0, 0));
        let mut points = Vec::with_capacity(routes.len());
        for ((_, cells), before) in routes.iter().zip(&mut self.before) {
            let classes = cells.classes();
            let [.., failed] = classes;
            let now = (classes.iter().sum::<u64>(), failed);
            let since =
                |now: u64, then: u64| u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX);
            points.push(Point { requests: since(now.0, before.0), errors: since(now.1, before.1) });
            *before = now;
        }
        if first {
            return;
        }
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(points.into());
        self.taken += 1;
    }

    pub(super) fn series(&self, names: &Table<RouteCells>, step: usize, most: usize) -> Series {
        let step = step.clamp(1, KEPT);
        // Only whole steps, whose edges stay where they are from one call to the next.
        let partial = (self.taken % step as u64) as usize;
        let whole = self.ring.len().saturating_sub(partial) / step;
        let skipped = self.ring.len().saturating_sub(partial + whole * step);
        let mut routes: Vec<RouteSeries> = Vec::new();
        for (index, (name, _)) in names.by_arrival().into_iter().enumerate() {
            let mut route = RouteSeries {
                route: name.to_owned(),
                requests: vec![0; whole],
                errors: vec![0; whole],
            };
            let points = self.ring.iter().skip(skipped).take(whole * step);
            for (number, points) in points.enumerate() {
                let Some(point) = points.get(index) else { continue };
                let sums =
                    route.requests.get_mut(number / step).zip(route.errors.get_mut(number / step));
                if let Some((requests, errors)) = sums {
                    *requests = requests.saturating_add(point.requests);
                    *errors = errors.saturating_add(point.errors);
                }
            }
            routes.push(route);
        }
        Series { step, last: self.taken / step as u64, routes: busiest(routes, most) }
    }
}

/// The busiest routes, and the sum of the rest.
fn busiest(mut routes: Vec<RouteSeries>, most: usize) -> Vec<RouteSeries> {
    let sum = |route: &RouteSeries| route.requests.iter().map(|n| u64::from(*n)).sum::<u64>();
    routes.retain(|route| sum(route) > 0);
    // `other` last: it takes in what is not named.
    routes.sort_by_key(|route| (route.route == super::OTHER, std::cmp::Reverse(sum(route))));
    let named = routes.iter().filter(|route| route.route != super::OTHER).count();
    if named > most {
        let rest = routes.split_off(most);
        let mut other = RouteSeries { route: super::OTHER.to_owned(), ..RouteSeries::default() };
        for route in rest {
            add(&mut other.requests, &route.requests);
            add(&mut other.errors, &route.errors);
        }
        routes.push(other);
    }
    routes
}

fn add(sums: &mut Vec<u32>, values: &[u32]) {
    sums.resize(sums.len().max(values.len()), 0);
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
}

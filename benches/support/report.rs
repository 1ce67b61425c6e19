//! Figures gathered over the rounds, as a Markdown table and as JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::Outcome;

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    name: &'static str,
    unit: &'static str,
    digits: usize,
}

impl Measure {
    pub(crate) const fn new(name: &'static str, unit: &'static str, digits: usize) -> Self {
        Self { name, unit, digits }
    }

    fn label(&self) -> String {
        if self.unit.is_empty() {
            self.name.into()
        } else {
            format!("{}, {}", self.name, self.unit)
        }
    }
}

/// One figure of one round.
pub(crate) type Sample = (Measure, f64);

/// The figures of one candidate for one measure of one load.
struct Series {
    load: String,
    measure: Measure,
    candidate: &'static str,
    values: Vec<f64>,
}

impl Series {
    fn median(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        }
    }

    fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

#[derive(Default)]
pub(crate) struct Report {
    series: Vec<Series>,
    pub(crate) notes: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, load: &str, candidate: &'static str, samples: &[Sample]) {
        for (measure, value) in samples {
            let known = self.series.iter_mut().find(|series| {
                series.load == load && series.measure == *measure && series.candidate == candidate
            });
            match known {
                Some(series) => series.values.push(*value),
                None => self.series.push(Series {
                    load: load.to_owned(),
                    measure: *measure,
                    candidate,
                    values: vec![*value],
                }),
            }
        }
    }

    /// A measurement that could not be made.
    pub(crate) fn fail(&mut self, what: String) {
        eprintln!("FAILED: {what}");
        self.failures.push(what.replace('\n', "; "));
    }

    /// Writes all figures to a file.
    pub(crate) fn write(&self, file: &Path, about: Value) -> Outcome<()> {
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(fs::write(file, format!("{:#}\n", self.json(about)))?)
    }

    /// Whether everything could be measured.
    pub(crate) fn verdict(&self) -> Outcome<()> {
        match self.failures.len() {
            0 => Ok(()),
            failures => Err(format!("{failures} measurements failed").into()),
        }
    }

    fn find(&self, load: &str, measure: Measure, candidate: &str) -> Option<&Series> {
        self.series.iter().find(|series| {
            series.load == load && series.measure == measure && series.candidate == candidate
        })
    }

    /// A median relative to another candidate's.
    fn ratio(&self, series: &Series, to: &'static str) -> Option<f64> {
        let other = self.find(&series.load, series.measure, to)?.median();
        (other > 0.0).then(|| series.median() / other)
    }

    /// A row for each load and measure, a column for each candidate.
    pub(crate) fn markdown(&self, candidates: &[&'static str]) -> String {
        let mut out = String::from("| load | measured |");
        candidates.iter().for_each(|candidate| _ = write!(out, " {} |", candidate));
        out += "\n|---|---|";
        out += &"---|".repeat(candidates.len());
        let mut rows: Vec<(&str, Measure)> = Vec::new();
        for series in &self.series {
            if !rows.contains(&(&series.load, series.measure)) {
                rows.push((&series.load, series.measure));
            }
        }
        for (load, measure) in rows {
            _ = write!(out, "\n| {load} | {} |", measure.label());
            for candidate in candidates {
                let cell = self.find(load, measure, candidate).map(|series| self.cell(series));
                _ = write!(out, " {} |", cell.as_deref().unwrap_or("-"));
            }
        }
        out += "\n\nEach figure: median (least-most); its ratio to nginx and to HAProxy.\n";
        let failures = self.failures.iter().map(|failure| format!("FAILED: {failure}"));
        for line in self.notes.iter().cloned().chain(failures) {
            _ = write!(out, "\n- {line}");
        }
        out
    }

    fn cell(&self, series: &Series) -> String {
        let digits = series.measure.digits;
        let (median, min, max) = (series.median(), series.min(), series.max());
        let ratio = |to| match self.ratio(series, to) {
            Some(ratio) => format!("{ratio:.2}"),
            None => "-".to_owned(),
        };
        let (nginx, haproxy) = (ratio("nginx"), ratio("haproxy"));
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$}); {nginx}, {haproxy}")
    }

    fn json(&self, about: Value) -> Value {
        let figures = self.series.iter().map(|series| {
            json!({
                "load": series.load,
                "measure": series.measure.name,
                "unit": series.measure.unit,
                "candidate": series.candidate,
                "median": series.median(),
                "min": series.min(),
                "max": series.max(),
                "values": series.values,
                "to_nginx": self.ratio(series, "nginx"),
                "to_haproxy": self.ratio(series, "haproxy"),
            })
        });
        let figures: Vec<_> = figures.collect();
        json!({
            "about": about,
            "figures": figures,
            "notes": self.notes,
            "failures": self.failures,
        })
    }
}

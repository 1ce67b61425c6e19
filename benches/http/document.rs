//! The figures of the last runs, filled into the marked sections of `docs/performance.md` and
//! `docs/capacity.md`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::capacity::Costs;
use crate::goals::{Against, GOALS, Goal, Kind};
use crate::support::Outcome;
use crate::{plots, work};

/// What a run of a bench wrote.
#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    about: About,
    pub(crate) figures: Vec<Figure>,
    failures: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct About {
    candidates: Vec<String>,
    rounds: usize,
    seconds: u64,
    #[serde(rename = "machine's load before")]
    load_before: String,
}

/// One measure of one candidate.
#[derive(Debug, Deserialize)]
pub(crate) struct Figure {
    pub(crate) load: String,
    pub(crate) measure: String,
    pub(crate) unit: String,
    pub(crate) candidate: String,
    pub(crate) median: f64,
    min: f64,
    max: f64,
    values: Vec<f64>,
}

impl Figure {
    fn cell(&self) -> String {
        let digits = if self.median < 10.0 { 2 } else { usize::from(self.median < 100.0) };
        format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max)
    }
}

impl Run {
    fn read(file: &Path) -> Outcome<Self> {
        let text =
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn find(&self, load: &str, measure: &str, candidate: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| {
            figure.load == load && figure.measure == measure && figure.candidate == candidate
        })
    }

    /// A candidate's median to another's, and the least and the most of the rounds' ratios.
    pub(crate) fn ratio(&self, load: &str, measure: &str, to: &str) -> Option<[f64; 3]> {
        let (ours, theirs) = (self.find(load, measure, "deskgate")?, self.find(load, measure, to)?);
        let ratios = ours.values.iter().zip(&theirs.values).map(|(ours, theirs)| ours / theirs);
        let (min, max) = ratios.fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), ratio| {
            (ratio.min(min), ratio.max(max))
        });
        Some([ours.median / theirs.median, min, max])
    }
}

/// Fills the marked sections of the documents in a folder, and draws their plots.
pub(crate) fn write(http: &Path, tunnels: &Path, docs: &Path) -> Outcome<()> {
    let (http, tunnels) = (Run::read(http)?, Run::read(tunnels)?);
    let sections = [
        ("machine", machine(&[("HTTP", &http), ("tunnels", &tunnels)])?),
        ("goals", goals(&http, &tunnels)),
        ("http", figures(&http, &["deskgate", "nginx", "nginx-incumbent", "haproxy"])),
        ("tunnels", figures(&tunnels, &["deskgate", "nginx", "nginx-64k", "haproxy"])),
    ];
    fill(&docs.join("performance.md"), &sections)?;
    plots::draw(&http, &tunnels, &docs.join("performance"))?;
    let costs = Costs::of(&http, &tunnels)?;
    fill(&docs.join("capacity.md"), &[("costs", costs.table()), ("sizes", costs.sizes())])
}

/// Puts text between the marks of its section.
fn fill(document: &Path, sections: &[(&str, String)]) -> Outcome<()> {
    let mut text = fs::read_to_string(document)?;
    for (name, section) in sections {
        let [begin, end] = ["", "/"].map(|slash| format!("<!-- {slash}figures: {name} -->\n"));
        let missing = || format!("{} has no section {name}", document.display());
        let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
        let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
        text = format!("{before}{begin}{section}{end}{after}");
    }
    Ok(fs::write(document, text)?)
}

/// The machine, the candidates and the runs.
fn machine(runs: &[(&str, &Run)]) -> Outcome<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or_default().trim_start_matches(['\t', ':', ' ']);
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory.split_whitespace().nth(1).unwrap_or_default().parse::<f64>()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output()?.stdout;
    let date = String::from_utf8(date)?;
    let mut out = format!(
        "- {}, {cores} cores of {model}, {:.0} GiB of memory, Linux {}\n",
        date.trim(),
        kib / f64::from(1 << 20),
        kernel.trim()
    );
    let mut versions: Vec<&str> = Vec::new();
    let all = runs.iter().flat_map(|(_, run)| &run.about.candidates);
    for version in all.map(|version| version.trim_end_matches(" - https://haproxy.org/")) {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    _ = writeln!(out, "- {}", versions.join("; "));
    for (name, run) in runs {
        let About { rounds, seconds, load_before, .. } = &run.about;
        let load = load_before.split(' ').next().unwrap_or_default();
        _ = writeln!(out, "- {name}: {rounds} rounds in {seconds} s; load average before: {load}");
        run.failures.iter().for_each(|failure| _ = writeln!(out, "- **not measured**: {failure}"));
    }
    Ok(out)
}

fn goals(http: &Run, tunnels: &Run) -> String {
    let mut out = String::from("| work | | compared with | goal | measured | rounds | |\n");
    out += "|---|---|---|---|---|---|---|\n";
    for goal in GOALS {
        let (run, load) = match goal.run {
            Kind::Http => (http, work::title(goal.load).unwrap_or_default()),
            Kind::Tunnels => (tunnels, goal.load.to_owned()),
        };
        out += &row(run, &load, goal);
    }
    out
}

fn row(run: &Run, load: &str, goal: &Goal) -> String {
    let Goal { measure, against, most, .. } = goal;
    let (with, found, digits, unit) = match against {
        Against::Candidate(name) => (label(name), run.ratio(load, measure, name), 2, ""),
        Against::Unit(unit) => {
            let figure = run.find(load, measure, "deskgate");
            let found = figure.map(|figure| [figure.median, figure.min, figure.max]);
            ("-", found, usize::from(*most < 100.0), *unit)
        }
    };
    let begin = format!("| {load} | {measure} | {with} | ≤ {most}{unit} |");
    let Some([measured, min, max]) = found else { return format!("{begin} not measured | | |\n") };
    let verdict = if measured <= *most { "met" } else { "**missed**" };
    format!("{begin} {measured:.digits$}{unit} | {min:.digits$}-{max:.digits$} | {verdict} |\n")
}

/// How a candidate is called in the document.
fn label(candidate: &str) -> &str {
    match candidate {
        "nginx-buffers" => "nginx, its own buffers",
        "nginx-incumbent" => "nginx, as the incumbent",
        "nginx-64k" => "nginx, 64 KiB buffers",
        "haproxy" => "HAProxy",
        other => other,
    }
}

/// A row for each load and measure: median (least-most).
fn figures(run: &Run, candidates: &[&str]) -> String {
    let mut out = String::from("| work | measured |");
    candidates.iter().for_each(|candidate| _ = write!(out, " {} |", label(candidate)));
    _ = write!(out, "\n|---|---|{}\n", "---|".repeat(candidates.len()));
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for figure in &run.figures {
        let (load, measure) = (figure.load.as_str(), figure.measure.as_str());
        if rows.contains(&(load, measure)) {
            continue;
        }
        rows.push((load, measure));
        let unit = if figure.unit.is_empty() { "" } else { ", " };
        _ = write!(out, "| {load} | {measure}{unit}{} |", figure.unit);
        for candidate in candidates {
            let cell = run.find(load, measure, candidate).map(Figure::cell);
            _ = write!(out, " {} |", cell.as_deref().unwrap_or("-"));
        }
        out.push('\n');
    }
    out
}

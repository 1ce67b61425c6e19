//! The plots of `docs/performance.md`.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::document::Run;
use crate::support::Outcome;
use crate::work::{CONNECTIONS, TOKENS, WORKS};

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 860;
const FONT: (&str, u32) = ("sans-serif", 13);

/// What stands for a candidate in every plot.
const COLOURS: [(&str, RGBColor); 5] = [
    ("deskgate", RGBColor(0xd9, 0x48, 0x01)),
    ("nginx", RGBColor(0x23, 0x8b, 0x45)),
    ("haproxy", RGBColor(0x21, 0x71, 0xb5)),
    ("nginx-incumbent", RGBColor(0x99, 0x99, 0x99)),
    ("nginx-64k", RGBColor(0x99, 0x99, 0x99)),
];

fn colour(candidate: &str) -> RGBColor {
    let known = COLOURS.iter().find(|(name, _)| *name == candidate);
    known.map_or(BLACK, |(_, colour)| *colour)
}

/// Draws all plots into a folder.
pub(crate) fn draw(http: &Run, tunnels: &Run, folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    let works = WORKS.iter().filter(|work| !work.name.starts_with("scale"));
    let works: Vec<_> = works.map(crate::work::Work::title).collect();
    bars(http, &works, ["deskgate", "haproxy", "nginx-incumbent"], &folder.join("http.svg"))?;
    let mut loads: Vec<String> = Vec::new();
    for figure in &tunnels.figures {
        if loads.last() != Some(&figure.load) {
            loads.push(figure.load.clone());
        }
    }
    bars(tunnels, &loads, ["deskgate", "haproxy", "nginx-64k"], &folder.join("tunnels.svg"))?;
    let mut curves = Vec::new();
    for (workers, s) in [(1, ""), (2, "s")] {
        for candidate in ["deskgate", "nginx", "haproxy"] {
            let title = |count| format!("{count} connections, {workers} worker{s}");
            let points = points(http, candidate, &CONNECTIONS, title);
            curves.push(Curve { candidate, faint: workers > 1, points });
        }
    }
    plot(&curves, "connections; faint: 2 workers", &folder.join("connections.svg"))?;
    let points = points(http, "deskgate", &TOKENS, |count| format!("{count} tokens, 1 worker"));
    let curve = Curve { candidate: "deskgate", faint: false, points };
    plot(&[curve], "distinct tokens", &folder.join("tokens.svg"))
}

const ROW: i32 = 15;
const LABELS: i32 = 330;
const TOP: i32 = 34;

/// No bar is longer than this many times nginx.
const LONGEST: f64 = 4.0;

/// The first measure of each load relative to nginx.
fn bars(run: &Run, loads: &[String], candidates: [&str; 3], file: &Path) -> Outcome<()> {
    let mut rows: Vec<(&str, Vec<(&str, f64)>)> = Vec::new();
    for load in loads {
        let Some(first) = run.figures.iter().find(|figure| figure.load == *load) else { continue };
        let Some(nginx) = run.find(load, &first.measure, "nginx") else { continue };
        let ratio = |candidate| {
            let figure = run.find(load, &first.measure, candidate)?;
            Some((candidate, figure.median / nginx.median))
        };
        rows.push((load, candidates.iter().copied().filter_map(ratio).collect()));
    }
    let lines: usize = rows.iter().map(|(_, bars)| bars.len() + 1).sum();
    let bottom = TOP + ROW * i32::try_from(lines)?;
    let size = (WIDTH, u32::try_from(bottom + ROW)?);
    let canvas = SVGBackend::new(file, size).into_drawing_area();
    canvas.fill(&WHITE)?;
    let unit = (f64::from(WIDTH) - f64::from(LABELS) - 60.0) / LONGEST;
    let at = |ratio: f64| LABELS + (ratio.min(LONGEST) * unit).round() as i32;
    let mut x = LABELS;
    for candidate in candidates {
        canvas.draw(&Rectangle::new([(x, 8), (x + 10, 18)], colour(candidate).filled()))?;
        write(&canvas, candidate, (x + 15, 7))?;
        x += 130;
    }
    let mut y = TOP;
    for (load, bars) in rows {
        write(&canvas, load, (8, y))?;
        for (candidate, ratio) in bars {
            let bar = [(LABELS, y + 2), (at(ratio), y + ROW - 2)];
            canvas.draw(&Rectangle::new(bar, colour(candidate).filled()))?;
            write(&canvas, &format!("{ratio:.2}"), (at(ratio) + 5, y))?;
            y += ROW;
        }
        y += ROW;
    }
    canvas.draw(&PathElement::new([(at(1.0), TOP - 6), (at(1.0), bottom)], colour("nginx")))?;
    write(&canvas, "nginx", (at(1.0) - 14, bottom - 4))?;
    Ok(canvas.present()?)
}

fn write(canvas: &Canvas<'_>, text: &str, at: (i32, i32)) -> Outcome<()> {
    Ok(canvas.draw(&Text::new(text.to_owned(), at, FONT.into_font()))?)
}

/// CPU per request by how many there are of something.
struct Curve<'c> {
    candidate: &'c str,
    faint: bool,
    points: Vec<(f64, f64)>,
}

fn points(
    run: &Run,
    candidate: &str,
    counts: &[usize],
    title: impl Fn(usize) -> String,
) -> Vec<(f64, f64)> {
    let point = |count: &usize| {
        let figure = run.find(&title(*count), "CPU per request", candidate)?;
        Some((*count as f64, figure.median))
    };
    counts.iter().filter_map(point).collect()
}

fn plot(curves: &[Curve<'_>], what: &str, file: &Path) -> Outcome<()> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let least = all().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
    let most = all().map(|(x, _)| *x).fold(0.0, f64::max);
    let highest = all().map(|(_, y)| *y).fold(0.0, f64::max);
    if all().next().is_none() {
        return Ok(());
    }
    let canvas = SVGBackend::new(file, (WIDTH, 380)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&canvas)
        .margin(12)
        .margin_right(36)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d((least..most).log_scale(), 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .x_desc(what)
        .y_desc("CPU per request, µs")
        .label_style(FONT)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for Curve { candidate, faint, points } in curves {
        let colour = colour(candidate).mix(if *faint { 0.4 } else { 1.0 });
        let drawn = chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        if !faint {
            let key = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2));
            drawn.label(*candidate).legend(key);
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(FONT)
        .border_style(BLACK)
        .draw()?;
    drop(chart);
    Ok(canvas.present()?)
}

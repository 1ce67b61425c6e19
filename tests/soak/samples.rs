//! What a process holds, again and again, and whether that grows.

use std::time::Duration;

use super::load::Done;

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Resident, in KiB.
    pub(super) memory: f64,
    pub(super) descriptors: f64,
    pub(super) threads: f64,
    pub(super) tasks: f64,
}

impl Sample {
    pub(super) fn of(pid: u32, metrics: &str) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |text: &str, name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self {
            memory: number(&status, "VmRSS:"),
            descriptors: descriptors as f64,
            threads: number(&status, "Threads:"),
            tasks: number(metrics, "deskgate_tasks "),
        }
    }

    fn figures(&self) -> [f64; 4] {
        [self.memory, self.descriptors, self.threads, self.tasks]
    }

    pub(super) fn within(&self, most: &Self) -> bool {
        self.figures().iter().zip(most.figures()).all(|(grown, most)| *grown <= most)
    }
}

/// All looks; those after the warm-up count.
#[derive(Default)]
pub(super) struct Samples {
    seen: usize,
    counted: Vec<(f64, Sample)>,
}

impl Samples {
    pub(super) fn add(&mut self, at: Duration, sample: Sample, counts: bool) {
        self.seen += 1;
        if counts {
            self.counted.push((at.as_secs_f64(), sample));
        }
    }

    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// How much each figure grew over the counted time, by the straight line of least squares.
    pub(super) fn growth(&self) -> Sample {
        let slope = |figure: fn(&Sample) -> f64| {
            let points: Vec<_> = self.counted.iter().map(|(at, of)| (*at, figure(of))).collect();
            let count = points.len() as f64;
            let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
            let (at, value) = (mean(|point| point.0), mean(|point| point.1));
            let both: f64 = points.iter().map(|point| (point.0 - at) * (point.1 - value)).sum();
            let square: f64 = points.iter().map(|point| (point.0 - at).powi(2)).sum();
            both / square * self.length()
        };
        Sample {
            memory: slope(|of| of.memory),
            descriptors: slope(|of| of.descriptors),
            threads: slope(|of| of.threads),
            tasks: slope(|of| of.tasks),
        }
    }

    fn length(&self) -> f64 {
        let (first, last) = (self.counted.first().unwrap(), self.counted.last().unwrap());
        last.0 - first.0
    }
}

/// The figures of a run.
#[expect(clippy::print_stdout, reason = "figures are what it is run for")]
pub(super) fn tell(done: &Done, samples: &Samples, reloads: u64) {
    let (first, last) = (samples.counted.first().unwrap(), samples.counted.last().unwrap());
    println!("soak: {done:?}, {reloads} reloads");
    println!("soak: from {:?} at {:.0} s", first.1, first.0);
    println!("soak: to   {:?} at {:.0} s", last.1, last.0);
    println!("soak: by the line of least squares {:?}", samples.growth());
}

#[test]
fn a_leak_is_told_from_what_comes_and_goes() {
    let mut still = Samples::default();
    let mut leak = Samples::default();
    for at in 0..90 {
        let time = Duration::from_secs(at);
        let wave = (at % 7) as f64 * 300.0;
        let of = |memory: f64| Sample { memory, tasks: 5.0, ..Sample::default() };
        still.add(time, of(50_000.0 + wave), true);
        leak.add(time, of(50_000.0 + wave + at as f64 * 100.0), true);
    }
    assert!(still.growth().memory.abs() < 200.0, "{:?}", still.growth());
    assert!((leak.growth().memory - 8_900.0).abs() < 200.0, "{:?}", leak.growth());
    assert!(still.growth().within(&super::MOST));
    assert!(!leak.growth().within(&super::MOST));
}

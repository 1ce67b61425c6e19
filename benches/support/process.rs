//! Processes that are started, measured and ended: by their id, with all their children.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::signal::unix::{self, SignalKind};

use super::Outcome;

/// What a process may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(3);

/// Linux tells CPU time in these units.
const TICKS_PER_SECOND: f64 = 100.0;

/// How far the two sources of CPU time may differ: they round.
const ROUNDING: f64 = 0.04;

/// A running process; dropping it ends it and its children.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program, what it says going to a file. The kernel ends it with us, whatever happens
    /// to us.
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: &[A],
        log: PathBuf,
    ) -> Outcome<Self> {
        let out = fs::File::create(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            // A terminal's ctrl-c is for us: we end what we started, in order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| format!("setpriv {}: {error}", program.display()))?;
        Ok(Self { child, log })
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> Outcome<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Why it is not running any more.
    pub(crate) fn ended(&mut self) -> Outcome<Option<String>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        Ok(Some(format!("{status}: {}", self.last_words())))
    }

    /// The last line it has said.
    pub(crate) fn last_words(&self) -> String {
        let said = self.said().unwrap_or_default();
        said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing said").to_owned()
    }

    /// Waits until it has said a line, which is its answer to being started.
    pub(crate) async fn first_line(&mut self, within: Duration) -> Outcome<String> {
        let deadline = Instant::now() + within;
        loop {
            if let Some((line, _)) = self.said()?.split_once('\n') {
                return Ok(line.to_owned());
            }
            if let Some(end) = self.ended()? {
                return Err(format!("it does not start: {end}").into());
            }
            if Instant::now() > deadline {
                return Err("it does not start".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// It and all its children.
    fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = tree.get(next) {
            for task in tasks(*pid) {
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                tree.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            next += 1;
        }
        tree
    }

    /// CPU time so far, user and system.
    pub(crate) fn cpu(&self) -> Cpu {
        let mut cpu = Cpu::default();
        for pid in self.tree() {
            cpu.ticks += ticks(pid).unwrap_or_default() / TICKS_PER_SECOND;
            cpu.exact += tasks(pid).iter().filter_map(|task| nanoseconds(task)).sum::<f64>() / 1e9;
        }
        cpu
    }

    /// Memory in KiB, what processes share counted once.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for pid in self.tree() {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let value = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name))?;
                line.split_whitespace().nth(1)?.parse::<f64>().ok()
            };
            memory.rss += value("Rss:").unwrap_or_default();
            memory.pss += value("Pss:").unwrap_or_default();
        }
        memory
    }

    /// The most descriptors that one of its processes has open, and the limit.
    pub(crate) fn descriptors(&self) -> (usize, usize) {
        self.tree().into_iter().map(descriptors).max().unwrap_or_default()
    }
}

/// Memory is stable when it stays within 0.5 % for so many looks at it.
const LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// Waits until memory does not change any more.
pub(crate) async fn settled(process: &Running) -> Memory {
    let deadline = Instant::now() + SETTLE_WITHIN;
    let mut looks = vec![process.memory()];
    loop {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let now = process.memory();
        looks.retain(|look| (look.pss - now.pss).abs() <= now.pss / 200.0);
        looks.push(now);
        if looks.len() > LOOKS || Instant::now() > deadline {
            return now;
        }
    }
}

/// CPU and time from a moment on.
pub(crate) struct Watch<'p> {
    process: &'p Running,
    cpu: Cpu,
    start: Instant,
}

impl<'p> Watch<'p> {
    pub(crate) fn start(process: &'p Running) -> Self {
        Self { process, cpu: process.cpu(), start: Instant::now() }
    }

    /// Seconds of each since the start.
    pub(crate) fn stop(self) -> (f64, f64) {
        let wall = self.start.elapsed().as_secs_f64();
        (self.process.cpu().since(self.cpu), wall)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The upstream ends when its input does; proxies do not mind.
        drop(self.child.stdin.take());
        signal("TERM", &[self.child.id()]);
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                signal("KILL", &self.tree());
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.wait());
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    pub(crate) pss: f64,
}

/// CPU seconds as two sources tell them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// utime and stime of the processes: complete, in steps of 10 ms.
    ticks: f64,
    /// The run time of the threads there are: fine, without threads that have ended.
    exact: f64,
}

impl Cpu {
    /// Seconds since an earlier time: the fine ones, unless something is missing in them.
    pub(crate) fn since(self, before: Self) -> f64 {
        let (ticks, exact) = (self.ticks - before.ticks, self.exact - before.exact);
        if (ticks - exact).abs() > ROUNDING + ticks / 20.0 { ticks } else { exact }
    }
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// utime and stime of a process, its ended threads included.
fn ticks(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<f64>().ok()).sum()
}

fn nanoseconds(task: &Path) -> Option<f64> {
    let stat = fs::read_to_string(task.join("schedstat")).ok()?;
    stat.split_whitespace().next()?.parse().ok()
}

/// How many descriptors a process has open, and may have.
pub(crate) fn descriptors(pid: u32) -> (usize, usize) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    (open, limit.unwrap_or_default())
}

/// Runs a bench until it is done or this process is told to end: what was started ends with it.
pub(crate) fn until_told(run: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = unix::signal(SignalKind::terminate())?;
        let mut interrupt = unix::signal(SignalKind::interrupt())?;
        tokio::select! {
            outcome = run => outcome,
            _ = terminate.recv() => Err("terminated".into()),
            _ = interrupt.recv() => Err("interrupted".into()),
        }
    })
}

/// Ends this process with its standard input, which ends with the process that asked for it.
pub(crate) fn end_with_input() {
    std::thread::spawn(|| {
        let end = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(i32::from(end.is_err()));
    });
}

/// Raises our limit of open descriptors as far as we may, and with it that of what we start.
pub(crate) fn raise_descriptors(wanted: usize) -> Outcome<usize> {
    let pid = std::process::id();
    for limit in [format!("{wanted}:{wanted}"), format!("{wanted}:"), String::new()] {
        let (_, now) = descriptors(pid);
        if now >= wanted {
            break;
        }
        // The last resort: as much as the hard limit allows.
        let limit = if limit.is_empty() { format!("{}:", hard_limit(pid)?) } else { limit };
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &pid.to_string(), &format!("--nofile={limit}")]);
        prlimit.stderr(Stdio::null()).status().map_err(|error| format!("prlimit: {error}"))?;
    }
    Ok(descriptors(pid).1)
}

fn hard_limit(pid: u32) -> Outcome<usize> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(4));
    Ok(limit.ok_or("/proc tells no limit of open files")?.parse()?)
}

fn signal(name: &str, pids: &[u32]) {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    drop(Command::new("/bin/kill").args(["-s", name]).args(pids).stderr(Stdio::null()).status());
}

//! What the kernel knows of this process, read from `/proc` at each scrape.

use std::fs;

/// Ticks of a second in `/proc` (`USER_HZ`): 100 on every architecture that Rust's std supports.
const TICKS: f64 = 100.0;

/// Figures of the process; each is `None` where the system does not tell.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) start_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let stat = read("/proc/self/stat");
        let status = read("/proc/self/status");
        let limits = read("/proc/self/limits");
        let boot = read("/proc/stat").lines().find_map(|line| number(line.strip_prefix("btime ")?));
        let ticks = |field| Some(number(stat_field(&stat, field)?)? as f64 / TICKS);
        let open = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
            start_seconds: boot.zip(ticks(22)).map(|(boot, since)| boot as f64 + since),
            resident_bytes: status_field(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: status_field(&status, "VmSize:").map(|kib| kib * 1024),
            threads: status_field(&status, "Threads:"),
            // Reading the list opens one more.
            open_fds: open.map(|count| count.saturating_sub(1) as u64),
            max_fds: limits.lines().find_map(|line| number(line.strip_prefix("Max open files")?)),
        }
    }
}

/// The first word as a number.
fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat`, counted from 1. The second may hold spaces and brackets.
fn stat_field(stat: &str, field: usize) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(field.checked_sub(3)?)
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| number(line.strip_prefix(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_process() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000, "{process:?}");
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.open_fds.unwrap() > 2);
        assert!(process.threads.unwrap() >= 1);
        assert!(process.start_seconds.unwrap() > 1.6e9);
        assert!(process.cpu_seconds.unwrap() < 1e6);
    }

    #[test]
    fn a_name_with_brackets_moves_no_field() {
        assert_eq!(stat_field("1 (a) b (c) S 4 5", 4), Some("4"));
        assert_eq!(stat_field("1 (a", 4), None);
    }
}

//! Looks at the memory of the cgroup, and tells the rooms how short it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::admission::pressure::{Files, Level, Memory};
use crate::proxy::Gateway;
use crate::tunnel;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Where cgroups are.
const ROOT: &str = "/sys/fs/cgroup";

/// Which of them this process is in.
const OWN: &str = "/proc/self/cgroup";

/// Looks for ever. The files are the kernel's and cost microseconds.
pub(super) async fn watch(gateway: Gateway) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let own = own_folders(&fs::read_to_string(OWN).unwrap_or_default());
    loop {
        look.tick().await;
        let admission = Arc::clone(&gateway.rooms().admission);
        let named = &admission.overload().cgroup;
        let memory = if named.as_os_str().is_empty() {
            own.iter().filter_map(|folder| memory_of(folder)).max_by(tighter)
        } else {
            memory_of(named)
        };
        let Some(level) = admission.note_memory(memory) else { continue };
        tunnel::read_small(level >= Level::SmallBuffers);
        let (used, limit) = memory.map_or((0, 0), |memory| (memory.used, memory.limit));
        if level == Level::None {
            info!(used, limit, "memory suffices again");
        } else {
            warn!(given_up = level.name(), used, limit, "memory is short");
        }
    }
}

/// The memory of one cgroup, of either version; none if it has no limit.
fn memory_of(folder: &Path) -> Option<Memory> {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok();
    Files::V2.read(text).or_else(|| Files::V1.read(text))
}

fn tighter(one: &Memory, other: &Memory) -> std::cmp::Ordering {
    let share = |memory: &Memory| memory.used as f64 / memory.limit as f64;
    share(one).total_cmp(&share(other))
}

/// The folders whose limits hold for this process, by the lines of [`OWN`]: its group's and those
/// above. In a container the group's own is mounted at the root.
fn own_folders(lines: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in lines.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let root = match controllers {
            "" => PathBuf::from(ROOT),
            list if list.split(',').any(|name| name == "memory") => Path::new(ROOT).join("memory"),
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        folders.extend(group.ancestors().map(|group| root.join(group)));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_above_hold_too() {
        let folders = |lines| {
            let folders = own_folders(lines).into_iter();
            folders.map(|folder| folder.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(folders("0::/\n"), ["/sys/fs/cgroup/"]);
        assert_eq!(
            folders("0::/system.slice/deskgate.service\n"),
            [
                "/sys/fs/cgroup/system.slice/deskgate.service",
                "/sys/fs/cgroup/system.slice",
                "/sys/fs/cgroup/"
            ]
        );
        assert_eq!(
            folders("5:cpu,cpuacct:/a\n4:memory:/a\n"),
            ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/"]
        );
        assert_eq!(folders("nonsense"), [""; 0]);
    }
}

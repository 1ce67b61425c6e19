//! How short memory is: the figures of a cgroup, and what is given up at which share of its limit.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::config::Overload;

/// A level is left this many percent below where it begins, so that it does not flutter.
const HYSTERESIS: u64 = 5;

/// Limits above this are none: cgroup v1 writes the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 62;

/// What is given up, the mildest first; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// New tunnels.
    NoTunnels,
    /// Large reads of tunnels.
    SmallBuffers,
    /// Connections that are kept.
    NoKeepalive,
    /// New requests.
    NoRequests,
}

impl Level {
    /// Every level, the mildest first.
    pub const ALL: [Self; 5] =
        [Self::None, Self::NoTunnels, Self::SmallBuffers, Self::NoKeepalive, Self::NoRequests];

    /// Name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoTunnels => "no_tunnels",
            Self::SmallBuffers => "small_buffers",
            Self::NoKeepalive => "no_keepalive",
            Self::NoRequests => "no_requests",
        }
    }

    /// The level at this use of memory, coming from `self`. One whose share is 0 is never reached.
    #[must_use]
    pub fn next(self, memory: Memory, shares: &Overload) -> Self {
        let begins = |level: Self| match level {
            Self::None => 0,
            Self::NoTunnels => shares.no_tunnels,
            Self::SmallBuffers => shares.small_buffers,
            Self::NoKeepalive => shares.no_keepalive,
            Self::NoRequests => shares.no_requests,
        };
        let reached = |level: &Self| {
            let share = u64::from(begins(*level));
            let margin = if *level <= self { HYSTERESIS } else { 0 };
            share > 0 && memory.percent() >= share.saturating_sub(margin).max(1)
        };
        Self::ALL.into_iter().rfind(reached).unwrap_or_default()
    }
}

/// The memory of a cgroup, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In use, without page cache that can be dropped.
    pub used: u64,
    /// The most there may be.
    pub limit: u64,
}

/// The files of a cgroup that tell of its memory, and the line of `memory.stat` that tells how much
/// of it is page cache that was not used lately.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    current: &'static str,
    max: &'static str,
    stat: &'static str,
    inactive: &'static str,
}

impl Files {
    /// cgroup v2.
    pub const V2: Self = Self {
        current: "memory.current",
        max: "memory.max",
        stat: "memory.stat",
        inactive: "inactive_file",
    };

    /// cgroup v1, with all that is below the group.
    pub const V1: Self = Self {
        current: "memory.usage_in_bytes",
        max: "memory.limit_in_bytes",
        stat: "memory.stat",
        inactive: "total_inactive_file",
    };

    /// The figures, `text` being what is in a file. None if there is no limit, or something else.
    #[must_use]
    pub fn read(&self, text: impl Fn(&str) -> Option<String>) -> Option<Memory> {
        let number = |file| text(file)?.trim().parse::<u64>().ok();
        let limit = number(self.max).filter(|limit| (1..NO_LIMIT).contains(limit))?;
        let current = number(self.current)?;
        let stat = text(self.stat).unwrap_or_default();
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let inactive = lines.find(|(name, _)| *name == self.inactive);
        let inactive = inactive.and_then(|(_, bytes)| bytes.trim().parse().ok()).unwrap_or(0);
        // The kubelet's working set (cAdvisor's), by which it evicts: active page cache counts as used there,
        // too, though the kernel could drop it.
        Some(Memory { used: current.saturating_sub(inactive), limit })
    }
}

impl Memory {
    fn percent(self) -> u64 {
        u64::try_from(u128::from(self.used) * 100 / u128::from(self.limit.max(1))).unwrap_or(100)
    }
}

/// The pressure of now.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    level: AtomicU8,
    used: AtomicU64,
    limit: AtomicU64,
}

impl Gauge {
    pub(super) fn level(&self) -> Level {
        Level::ALL.get(usize::from(self.level.load(Relaxed))).copied().unwrap_or_default()
    }

    /// The latest figures, if there are any.
    pub(super) fn memory(&self) -> Option<Memory> {
        let limit = self.limit.load(Relaxed);
        (limit > 0).then(|| Memory { used: self.used.load(Relaxed), limit })
    }

    /// Takes new figures; returns the level if it is another one now.
    pub(super) fn note(&self, memory: Option<Memory>, shares: &Overload) -> Option<Level> {
        let before = self.level();
        let level = memory.map_or(Level::None, |memory| before.next(memory, shares));
        self.used.store(memory.map_or(0, |memory| memory.used), Relaxed);
        self.limit.store(memory.map_or(0, |memory| memory.limit), Relaxed);
        self.level.store(level as u8, Relaxed);
        (level != before).then_some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> Overload {
        Overload {
            cgroup: "".into(),
            no_tunnels: 80,
            small_buffers: 90,
            no_keepalive: 95,
            no_requests: 98,
        }
    }

    #[test]
    fn levels_are_entered_at_their_share_and_left_below_it() {
        let gauge = Gauge::default();
        for (used, want) in [
            (79, Level::None),
            (80, Level::NoTunnels),
            (76, Level::NoTunnels),
            (74, Level::None),
            (79, Level::None),
            (99, Level::NoRequests),
            (94, Level::NoRequests),
            (92, Level::NoKeepalive),
            (89, Level::SmallBuffers),
            (84, Level::NoTunnels),
            (120, Level::NoRequests),
            (0, Level::None),
        ] {
            gauge.note(Some(Memory { used, limit: 100 }), &shares());
            assert_eq!(gauge.level(), want, "{used} %");
        }
        assert_eq!(
            gauge.note(Some(Memory { used: 85, limit: 100 }), &shares()),
            Some(Level::NoTunnels)
        );
        assert_eq!(gauge.note(Some(Memory { used: 85, limit: 100 }), &shares()), None);
        assert_eq!(gauge.note(None, &shares()), Some(Level::None), "no limit, no pressure");
    }

    #[test]
    fn a_share_of_0_is_never_reached() {
        let off = Overload { no_tunnels: 0, no_requests: 0, ..shares() };
        let full = Memory { used: 100, limit: 100 };
        assert_eq!(Level::None.next(full, &off), Level::NoKeepalive);
        assert_eq!(Level::None.next(Memory { used: 85, limit: 100 }, &off), Level::None);
    }

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let stat = "anon 5\ninactive_file 300\ntotal_inactive_file 400\n";
        let of = |used| Some(Memory { used, limit: 2000 });
        let read = |files: Files, current: &str, max: &str| {
            files.read(|file| {
                let texts = [(files.current, current), (files.max, max), (files.stat, stat)];
                texts.into_iter().find(|text| text.0 == file).map(|text| text.1.to_owned())
            })
        };
        assert_eq!(read(Files::V2, "1000\n", "2000\n"), of(700));
        assert_eq!(read(Files::V1, "1000\n", "2000\n"), of(600));
        assert_eq!(read(Files::V2, "100\n", "2000\n"), of(0));
        assert_eq!(read(Files::V2, "1000\n", "max\n"), None);
        assert_eq!(read(Files::V1, "1000\n", "9223372036854771712\n"), None);
        assert_eq!(read(Files::V2, "", "2000"), None);
        let bare = Files::V2.read(|file| (file != "memory.stat").then(|| "7".to_owned()));
        assert_eq!(bare, Some(Memory { used: 7, limit: 7 }));
        assert_eq!(Files::V2.read(|_| None), None);
    }
}

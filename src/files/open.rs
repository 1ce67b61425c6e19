//! Opens files below a root and says what was opened.
//!
//! First opened, then judged: nothing that happens to names in between changes what is served.
//! Blocks; belongs on a thread where that is allowed.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Error;

/// Latest second that a date of HTTP can name: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// What is known of an opened file; two equal values mean the same unchanged content.
///
/// The time of change and the inode are in it because a file can be replaced by one with the same
/// size and modification time; they differ between replicas, so the entity tag leaves them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    device: u64,
    inode: u64,
}

impl Facts {
    /// Reads them off the file's metadata.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Whether this file was modified before the other.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.modified < other.modified
    }

    /// The strong entity tag (RFC 9110 §8.8.3), distinct for every form of the file.
    pub(super) fn etag(&self, form: &str) -> String {
        let (seconds, nanos) = self.modified;
        let dash = if form.is_empty() { "" } else { "-" };
        format!("\"{:x}-{seconds:x}{nanos:08x}{dash}{form}\"", self.size)
    }

    /// The modification time in what HTTP can say: whole seconds of the years 1970 to 9999.
    pub(super) fn modified_second(&self) -> u64 {
        u64::try_from(self.modified.0).unwrap_or(0).min(LAST_SECOND)
    }
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    pub(super) facts: Facts,
}

/// What a path names.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file.
    File(Opened),
    /// A directory.
    Folder,
}

/// The root as it is now.
///
/// Entered anew for every look: an operator may swap a whole release by one symbolic link.
#[derive(Debug)]
pub(super) struct Folder {
    canonical: PathBuf,
}

impl Folder {
    /// Follows all links to the root.
    pub(super) fn enter(root: &Path) -> io::Result<Self> {
        let canonical = root.canonicalize()?;
        match canonical.metadata()?.is_dir() {
            true => Ok(Self { canonical }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Opens what lies at a relative path, following links that stay inside the root.
    pub(super) fn open(&self, relative: &Path) -> Result<Found, Error> {
        let file = OpenOptions::new()
            .read(true)
            // Without O_NONBLOCK a FIFO would hold the thread until somebody writes to it.
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
            .open(self.canonical.join(relative))
            .map_err(refusal)?;
        let metadata = file.metadata().map_err(Error::Unreadable)?;
        let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .map_err(Error::Unreadable)?;
        if !place.starts_with(&self.canonical) {
            return Err(Error::NotFound);
        }
        if metadata.is_dir() {
            return Ok(Found::Folder);
        }
        if !metadata.is_file() {
            return Err(Error::NotFound);
        }
        Ok(Found::File(Opened { file: Arc::new(file), facts: Facts::of(&metadata) }))
    }
}

/// Tells a path that names nothing from one that names something unreadable.
fn refusal(error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        // ENXIO: a socket. EINVAL and EILSEQ: a name this file system cannot hold.
        Some(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NXIO
            | Errno::INVAL
            | Errno::ILSEQ,
        ) => Error::NotFound,
        _ => Error::Unreadable(error),
    }
}

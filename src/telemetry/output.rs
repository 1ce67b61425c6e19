//! Where log lines go: those that come together are written together, and those that the system does not
//! take are counted.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that were not taken: the disk is full, or nobody is left to read.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// How many lines were not taken so far.
pub(super) fn lines_refused() -> u64 {
    REFUSED.load(Ordering::Relaxed)
}

/// Standard output without a buffer: a line that could not be written must not come out later in
/// the middle of another one.
pub(super) fn standard() -> Output<Box<dyn Write + Send>> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Output::to(Box::new(File::from(descriptor))),
        // No descriptor is left: the library's own is there, with its buffer.
        Err(_) => Output::to(Box::new(io::stdout())),
    }
}

/// Most bytes that wait for the end of what comes together.
const TOGETHER: usize = 64 * 1024;

/// Takes whole lines. An error is counted and never returned: nobody could be told.
pub(super) struct Output<W> {
    to: W,
    lines: Vec<u8>,
    /// The last line broke off, so the next one needs a line of its own.
    torn: bool,
}

impl<W: Write> Output<W> {
    fn to(to: W) -> Self {
        Self { to, lines: Vec::new(), torn: false }
    }

    /// Writes what has come, and forgets it: a line that could not be written must not come out later
    /// in the middle of another one.
    fn put(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        if self.torn {
            self.torn = self.to.write_all(b"\n").is_err();
        }
        let mut rest = lines.as_slice();
        let mut torn = self.torn;
        while !rest.is_empty() {
            let written = if self.torn { Ok(0) } else { self.to.write(rest) };
            match written {
                Ok(taken) if taken > 0 => {
                    let (written, left) = rest.split_at(taken.min(rest.len()));
                    torn = !written.ends_with(b"\n");
                    rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    let lost = rest.iter().filter(|byte| **byte == b'\n').count();
                    REFUSED.fetch_add(lost as u64, Ordering::Relaxed);
                    break;
                }
            }
        }
        self.torn = torn;
        lines.clear();
        self.lines = lines;
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(line);
        if self.lines.len() >= TOGETHER {
            self.put();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put();
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes more.
    struct Disk {
        room: usize,
        has: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= fits;
            self.has.extend(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_spoils_no_other_line() {
        let mut disk = Disk { room: 10, has: Vec::new() };
        let before = lines_refused();
        let mut output = Output::to(&mut disk);
        output.write_all(b"first\n").unwrap();
        output.write_all(b"second\n").unwrap();
        output.write_all(b"third\n").unwrap();
        output.flush().unwrap();
        assert_eq!(lines_refused() - before, 2);
        output.to.room = 100;
        output.write_all(b"fourth\n").unwrap();
        output.write_all(b"fifth\n").unwrap();
        output.flush().unwrap();
        assert_eq!(lines_refused() - before, 2);
        assert_eq!(String::from_utf8(disk.has).unwrap(), "first\nseco\nfourth\nfifth\n");
    }
}

//! Where log lines go: those that come together are written together, by a thread of its own, and those
//! that are not taken in time, or not at all, are counted.
//!
//! A worker appends a line and goes on. Only the first line after a silence wakes the thread, which then
//! waits for [`GATHER`] before it writes: a wake-up and a write for each line cost more than the rest of a
//! small request.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written or are being written, at most, in bytes.
const QUEUE: usize = 8 * 1024 * 1024;

/// How long the first line waits for others.
const GATHER: Duration = Duration::from_millis(10);

/// Memory that a buffer keeps when it is empty.
const KEPT: usize = 256 * 1024;

/// Longest wait at the end for queued lines to be taken.
const FLUSH: Duration = Duration::from_secs(2);

/// Lines that were not taken: the queue or the disk is full, or nobody is left to read.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost so far: nobody read them fast enough, or the disk was full.
#[must_use]
pub fn lines_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Starts the thread that writes lines to standard output.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start() -> io::Result<(Lines, Flush)> {
    let lines = Lines(Arc::default());
    let (queue, output) = (Arc::clone(&lines.0), Output::to(standard()));
    let (done, end) = mpsc::channel();
    thread::Builder::new().name("log".into()).spawn(move || {
        queue.serve(output);
        drop(done);
    })?;
    let flush = Flush { queue: Arc::clone(&lines.0), end };
    Ok((lines, flush))
}

/// Standard output without a buffer: a line that could not be written must not come out later in
/// the middle of another one.
fn standard() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        // No descriptor is left: the library's own is there, with its buffer.
        Err(_) => Box::new(io::stdout()),
    }
}

/// Writes what is still queued when it is dropped, as far as that is taken in time.
#[derive(Debug)]
#[must_use]
pub struct Flush {
    queue: Arc<Queue>,
    /// Closed when the last line is written.
    end: mpsc::Receiver<()>,
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.queue.lock().leaving = true;
        self.queue.changed.notify_one();
        // Nothing is sent: done or over.
        let _ = self.end.recv_timeout(FLUSH);
    }
}

/// Takes lines, each whole in one write.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Queue>);

impl Lines {
    /// Takes the line, or counts it as lost.
    pub(super) fn put(&self, line: &[u8]) {
        self.0.put(line);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Queue;

    fn make_writer(&'a self) -> Self::Writer {
        &self.0
    }
}

/// Between those who have something to say and the thread that writes it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Lines are there, or no more will come.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Bytes that the thread has taken and not written yet.
    taken: usize,
    leaving: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room for a line.
    fn add(&self, line: &[u8]) -> bool {
        let mut waiting = self.lock();
        if waiting.lines.len() + waiting.taken + line.len() > QUEUE {
            return false;
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if first {
            self.changed.notify_one();
        }
        true
    }

    /// Takes a line or counts it as lost.
    fn put(&self, line: &[u8]) {
        if !self.add(line) {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes lines until no more will come.
    fn serve(&self, mut output: Output<impl Write>) {
        let mut lines = Vec::new();
        while self.next(&mut lines) {
            output.put(&lines);
            lines.clear();
            lines.shrink_to(KEPT);
        }
    }

    /// Waits for lines and takes them; false when there are none and no more will come.
    fn next(&self, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        waiting.taken = 0;
        let silent = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.leaving;
        let waiting = self.changed.wait_while(waiting, silent);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let more = |waiting: &mut Waiting| !waiting.leaving;
        let waiting = self.changed.wait_timeout_while(waiting, GATHER, more);
        let (mut waiting, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.lines, lines);
        waiting.taken = lines.len();
        !lines.is_empty()
    }
}

impl Write for &Queue {
    /// An error is never returned: nobody could be told.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines, and counts those that the system does not take.
struct Output<W> {
    to: W,
    /// The last line broke off, so the next one needs a line of its own.
    torn: bool,
}

impl<W: Write> Output<W> {
    fn to(to: W) -> Self {
        Self { to, torn: false }
    }

    /// Writes whole lines, as far as they are taken.
    fn put(&mut self, lines: &[u8]) {
        if self.torn && self.to.write_all(b"\n").is_ok() {
            self.torn = false;
        }
        let mut rest = if self.torn { lose(lines) } else { lines };
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(taken) if taken > 0 => {
                    let (written, left) = rest.split_at(taken.min(rest.len()));
                    self.torn = !written.ends_with(b"\n");
                    rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => rest = lose(rest),
            }
        }
    }
}

/// Counts the ends of lines that are not written; nothing is left of them.
fn lose(lines: &[u8]) -> &'static [u8] {
    let lost = lines.iter().filter(|byte| **byte == b'\n').count();
    LOST.fetch_add(lost as u64, Ordering::Relaxed);
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`LOST`] belongs to all tests: one at a time.
    static COUNTING: Mutex<()> = Mutex::new(());

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
        let _counting = COUNTING.lock().unwrap();
        let mut disk = Disk { room: 10, has: Vec::new() };
        let before = lines_lost();
        let mut output = Output::to(&mut disk);
        output.put(b"first\nsecond\nthird\n");
        assert_eq!(lines_lost() - before, 2);
        output.put(b"while it is full\n");
        assert_eq!(lines_lost() - before, 3);
        output.to.room = 100;
        output.put(b"fourth\nfifth\n");
        assert_eq!(lines_lost() - before, 3);
        assert_eq!(String::from_utf8(disk.has).unwrap(), "first\nseco\nfourth\nfifth\n");
    }

    #[test]
    fn lines_of_several_threads_come_out_whole_and_each_once() {
        let queue = Arc::new(Queue::default());
        let mut disk = Disk { room: usize::MAX, has: Vec::new() };
        let say = |who: usize| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                for line in 0..2000 {
                    (&*queue).write_all(format!("{who} {line}\n").as_bytes()).unwrap();
                }
            })
        };
        let threads = [say(0), say(1), say(2)];
        thread::scope(|scope| {
            scope.spawn(|| queue.serve(Output::to(&mut disk)));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            queue.lock().leaving = true;
            queue.changed.notify_one();
        });
        let text = String::from_utf8(disk.has).unwrap();
        for who in 0..3 {
            let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{who} ")));
            let expected: Vec<String> = (0..2000).map(|line: i32| line.to_string()).collect();
            assert_eq!(lines.collect::<Vec<_>>(), expected);
        }
        assert_eq!(text.lines().count(), 6000);
    }

    #[test]
    fn what_waits_and_what_is_being_written_is_bounded() {
        let _counting = COUNTING.lock().unwrap();
        let queue = Queue::default();
        let line = vec![b'x'; QUEUE / 4];
        let before = lines_lost();
        for _ in 0..5 {
            (&queue).write_all(&line).unwrap();
        }
        assert_eq!(lines_lost() - before, 1);
        let mut taken = Vec::new();
        assert!(queue.next(&mut taken));
        assert_eq!(taken.len(), QUEUE);
        assert!(!queue.add(&line), "still being written");
        queue.lock().leaving = true;
        taken.clear();
        assert!(!queue.next(&mut taken));
        assert!(queue.add(&line));
    }
}

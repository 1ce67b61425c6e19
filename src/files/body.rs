//! Bytes of a file, read as the client takes them.
//!
//! A stream holds at most one chunk, whatever the size of the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

/// Most bytes of one chunk.
const CHUNK: u64 = 64 << 10;

/// Content that comes from an open file, and the text between the parts of a multipart response.
#[derive(Debug)]
pub struct FileBody {
    file: Arc<File>,
    pieces: VecDeque<Piece>,
}

/// A stretch of content.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of our making.
    Text(Bytes),
    /// Of the file.
    Span(Range<u64>),
}

impl Piece {
    /// Its part of `Content-Length`.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Span(span) => span.end - span.start,
        }
    }
}

impl FileBody {
    /// Sends these pieces in their order.
    pub(super) fn new(file: Arc<File>, pieces: VecDeque<Piece>) -> Self {
        Self { file, pieces }
    }

    /// The next chunk, at most 64 KiB; `None` at the end. May be cancelled and called again.
    ///
    /// # Errors
    /// When the disk fails or the file has become shorter: the announced length cannot be kept
    /// then, and the connection must be closed.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(piece) = self.pieces.front_mut() {
            let span = match piece {
                Piece::Text(text) => {
                    let text = std::mem::take(text);
                    self.pieces.pop_front();
                    return Ok(Some(text));
                }
                Piece::Span(span) if span.is_empty() => {
                    self.pieces.pop_front();
                    continue;
                }
                Piece::Span(span) => span,
            };
            let chunk = span.start..span.end.min(span.start.saturating_add(CHUNK));
            let file = Arc::clone(&self.file);
            let read = chunk.clone();
            let bytes = off_thread(move || read_exactly(&file, read)).await??;
            span.start = chunk.end;
            return Ok(Some(bytes));
        }
        Ok(None)
    }
}

/// Reads a span into one buffer of its length, which the caller has bounded.
pub(super) fn read_exactly(file: &File, span: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(span.end - span.start).map_err(io::Error::other)?;
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, span.start)?;
    Ok(buffer.into())
}

/// Does what may wait for a disk, or compute for long, where it holds up no other request.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}

//! Bodies: where one ends in what is read, and how one is framed in what is written (RFC 9112 section 6).

use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::chunked::{Broken, Chunked};
use crate::transport::Transport;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(u64),
    /// Until the last chunk.
    Chunks,
    /// Until the connection ends; only an answer can be.
    UntilEnd,
}

/// A body on its way in.
#[derive(Debug)]
pub struct Reader(Expected);

#[derive(Debug)]
enum Expected {
    Bytes(u64),
    Chunks(Chunked),
    Rest,
    Nothing,
}

impl Reader {
    /// For a body of this length.
    #[must_use]
    pub fn new(length: Length) -> Self {
        Self(match length {
            Length::Known(0) => Expected::Nothing,
            Length::Known(bytes) => Expected::Bytes(bytes),
            Length::Chunks => Expected::Chunks(Chunked::default()),
            Length::UntilEnd => Expected::Rest,
        })
    }

    /// Whether all of it was taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.0, Expected::Nothing)
    }

    /// Takes the next piece out of what was read; none if the body is over or more has to be read.
    ///
    /// # Errors
    /// If it is not framed by the letter.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Option<Bytes>, Broken> {
        let here = match &mut self.0 {
            Expected::Nothing => return Ok(None),
            Expected::Rest => read.len(),
            Expected::Bytes(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                *left -= here as u64;
                if *left == 0 {
                    self.0 = Expected::Nothing;
                }
                here
            }
            Expected::Chunks(chunks) => {
                let (aside, here) = chunks.next(read)?;
                read.advance(aside);
                if chunks.is_over() {
                    self.0 = Expected::Nothing;
                }
                here
            }
        };
        Ok((here > 0).then(|| read.split_to(here).freeze()))
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// If the body has not: [`io::ErrorKind::UnexpectedEof`].
    pub fn end(&mut self) -> io::Result<()> {
        match self.0 {
            Expected::Bytes(_) | Expected::Chunks(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Expected::Rest | Expected::Nothing => {
                self.0 = Expected::Nothing;
                Ok(())
            }
        }
    }
}

/// A body on its way out.
#[derive(Debug)]
pub struct Writer(Framing);

#[derive(Debug)]
enum Framing {
    Bytes(u64),
    Chunks,
    Rest,
    Over,
}

impl Writer {
    /// For a body of this length.
    #[must_use]
    pub fn new(length: Length) -> Self {
        Self(match length {
            Length::Known(bytes) => Framing::Bytes(bytes),
            Length::Chunks => Framing::Chunks,
            Length::UntilEnd => Framing::Rest,
        })
    }

    /// Writes a piece without waiting: what the system does not take now leaves later, see
    /// [`Transport::offer`].
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn offer(&mut self, to: &mut Transport, piece: &[u8]) -> io::Result<()> {
        let piece = self.begin(to, piece);
        if !piece.is_empty() {
            to.offer(piece).await?;
            self.end(to);
        }
        Ok(())
    }

    /// What of a piece belongs to the body, once what goes before it is written. What goes beyond the length
    /// that the head has told is left out: it would be taken for another message.
    pub(super) fn begin<'p>(&mut self, to: &mut Transport, piece: &'p [u8]) -> &'p [u8] {
        let here = match &mut self.0 {
            Framing::Over => 0,
            Framing::Bytes(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                *left -= here as u64;
                here
            }
            Framing::Chunks | Framing::Rest => piece.len(),
        };
        // An empty chunk would be the last one.
        if here > 0 && matches!(self.0, Framing::Chunks) {
            put_size(to.unsent(), here);
        }
        piece.get(..here).unwrap_or_default()
    }

    /// Writes what goes behind a piece that is not empty.
    pub(super) fn end(&self, to: &mut Transport) {
        if matches!(self.0, Framing::Chunks) {
            to.unsent().extend_from_slice(b"\r\n");
        }
    }

    /// Writes the end of the body. The last bytes may still wait for a flush.
    ///
    /// # Errors
    /// If the head has told of more.
    pub fn finish(&mut self, to: &mut Transport) -> io::Result<()> {
        match std::mem::replace(&mut self.0, Framing::Over) {
            Framing::Bytes(1..) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Framing::Chunks => to.unsent().extend_from_slice(b"0\r\n\r\n"),
            Framing::Bytes(0) | Framing::Rest | Framing::Over => {}
        }
        Ok(())
    }
}

/// Writes the line of a chunk's size.
fn put_size(out: &mut BytesMut, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let digit = DIGITS.get(size >> (4 * digit) & 15).copied().unwrap_or_default();
        out.extend_from_slice(&[digit]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a body out of bytes that come in pieces of this size; returns it and what is left.
    fn taken(length: Length, bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        let (mut reader, mut read, mut body) = (Reader::new(length), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(size) {
            read.extend_from_slice(piece);
            while let Some(piece) = reader.take(&mut read)? {
                body.extend_from_slice(&piece);
            }
        }
        Ok((body, read.to_vec()))
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let chunks = b"4;x=y\r\nbody\r\n1\r\n!\r\n0\r\nX: 1\r\n\r\nGET";
        for size in [1, 2, 3, 7, 100] {
            let whole = taken(Length::Known(3), b"bodyGET", size).unwrap();
            assert_eq!(whole, (b"bod".to_vec(), b"yGET".to_vec()));
            let whole = taken(Length::Chunks, chunks, size).unwrap();
            assert_eq!(whole, (b"body!".to_vec(), b"GET".to_vec()));
            let whole = taken(Length::UntilEnd, b"body", size).unwrap();
            assert_eq!(whole, (b"body".to_vec(), Vec::new()));
            assert_eq!(taken(Length::Chunks, b"4\nbody", size), Err(Broken));
        }
        assert!(Reader::new(Length::Known(0)).is_over());
    }

    #[test]
    fn only_a_body_without_a_length_ends_with_its_connection() {
        for (length, ends) in
            [(Length::Known(1), false), (Length::Chunks, false), (Length::UntilEnd, true)]
        {
            assert_eq!(Reader::new(length).end().is_ok(), ends, "{length:?}");
        }
        assert!(Reader::new(Length::Known(0)).end().is_ok());
    }

    #[test]
    fn the_size_of_a_chunk_is_hexadecimal() {
        for size in [1, 9, 10, 15, 16, 255, 256, 65_536, usize::MAX] {
            let mut out = BytesMut::new();
            put_size(&mut out, size);
            assert_eq!(out, format!("{size:x}\r\n"));
        }
    }
}

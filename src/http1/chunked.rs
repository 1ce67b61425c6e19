//! Where a chunked body ends, by the letter of RFC 9112 section 7.1.
//!
//! Readers differ in what else they take for a chunk: no size at all, blanks around it, a bare LF in
//! an extension, anything for a trailer. Two that differ disagree about where the next message begins.
//! This one takes nothing but the grammar, without copying; of what it
//! allows beside chunks (extensions, trailers) it bounds the length.

/// Most digits of a size, zeros in front included.
const DIGITS: u8 = 16;

/// Most bytes of extensions and trailers in one body.
const ASIDE: u32 = 16 * 1024;

/// A body that is not framed by the letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a chunked body")]
pub struct Broken;

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A digit of a size, or what may follow a size.
    Size(u8),
    /// The first letter of an extension.
    Name,
    /// More of an extension, or the end of the line.
    Extension,
    /// The LF of a size's line.
    SizeLf,
    /// Bytes of a chunk, still as many as `left`.
    Data,
    /// CR and LF behind a chunk.
    DataCr,
    DataLf,
    /// A trailer, or the CR of the last line.
    Trailer,
    /// More of a trailer's name, or its colon.
    Field,
    /// More of a trailer's value, or the CR behind it.
    Value,
    /// The LF of a trailer.
    ValueLf,
    /// The LF of the last line.
    LastLf,
    /// Nothing: the body is over.
    Over,
}

/// A chunked body under way.
#[derive(Clone, Debug)]
pub struct Chunked {
    next: Next,
    /// Of the chunk that is read: its size as far as it is known, then what is left of it.
    left: u64,
    /// Bytes of extensions and trailers so far.
    aside: u32,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { next: Next::Size(0), left: 0, aside: 0 }
    }
}

impl Chunked {
    /// Goes on to the next bytes of a chunk: how many bytes stand before them, and how many of them are
    /// there. What comes behind the end of the body is neither.
    ///
    /// # Errors
    /// If the bytes are no part of a chunked body; nothing may be read after that.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, usize), Broken> {
        let mut aside = 0;
        for byte in bytes {
            if self.next == Next::Over || self.next == Next::Data {
                break;
            }
            self.next = self.step(*byte)?;
            aside += 1;
        }
        if self.next != Next::Data {
            return Ok((aside, 0));
        }
        let here = u64::try_from(bytes.len() - aside).unwrap_or(u64::MAX).min(self.left);
        self.left -= here;
        if self.left == 0 {
            self.next = Next::DataCr;
        }
        Ok((aside, usize::try_from(here).unwrap_or_default()))
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next == Next::Over
    }

    /// One byte that is not of a chunk itself.
    fn step(&mut self, byte: u8) -> Result<Next, Broken> {
        match (self.next, byte) {
            (Next::Size(digits), _) if byte.is_ascii_hexdigit() && digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                self.left = self.left.checked_mul(16).ok_or(Broken)? + digit;
                // Beyond this, readers count in signed numbers.
                if i64::try_from(self.left).is_err() {
                    return Err(Broken);
                }
                Ok(Next::Size(digits + 1))
            }
            (Next::Size(1..), b';') => self.aside(Next::Name),
            (Next::Name, _) if is_token(byte) => self.aside(Next::Extension),
            (Next::Extension, _) if is_text(byte) && byte.is_ascii() => self.aside(Next::Extension),
            (Next::Size(1..) | Next::Extension, b'\r') => Ok(Next::SizeLf),
            (Next::SizeLf, b'\n') => Ok(if self.left == 0 { Next::Trailer } else { Next::Data }),
            (Next::DataCr, b'\r') => Ok(Next::DataLf),
            (Next::DataLf, b'\n') => Ok(Next::Size(0)),
            (Next::Trailer, b'\r') => Ok(Next::LastLf),
            (Next::LastLf, b'\n') => Ok(Next::Over),
            (Next::Trailer | Next::Field, _) if is_token(byte) => self.aside(Next::Field),
            (Next::Field, b':') => self.aside(Next::Value),
            (Next::Value, _) if is_text(byte) => self.aside(Next::Value),
            (Next::Value, b'\r') => Ok(Next::ValueLf),
            (Next::ValueLf, b'\n') => Ok(Next::Trailer),
            _ => Err(Broken),
        }
    }

    /// Counts a byte of an extension or a trailer.
    fn aside(&mut self, next: Next) -> Result<Next, Broken> {
        self.aside += 1;
        if self.aside > ASIDE { Err(Broken) } else { Ok(next) }
    }
}

/// Whether a byte may be part of a name (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a byte may be part of a value (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads bytes to their end, or to that of the body.
    fn follow(chunks: &mut Chunked, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() && !chunks.is_over() {
            let (aside, here) = chunks.next(bytes)?;
            bytes = &bytes[aside + here..];
        }
        Ok(())
    }

    /// Whether the body is over behind these bytes, however they come.
    fn over(bytes: &str) -> Result<bool, Broken> {
        let mut at_once = Chunked::default();
        let whole = follow(&mut at_once, bytes.as_bytes()).map(|()| at_once.is_over());
        let mut single = Chunked::default();
        let drip = bytes.bytes().try_for_each(|byte| follow(&mut single, &[byte]));
        assert_eq!(drip.map(|()| single.is_over()), whole, "{bytes:?}");
        whole
    }

    #[test]
    fn only_the_grammar_is_a_body() {
        for (bytes, want) in [
            ("0\r\n\r\n", Ok(true)),
            ("4\r\nbody\r\n0\r\n\r\nGET", Ok(true)),
            ("4\r\nbody\r\n0\r\n", Ok(false)),
            ("4\r\nbo", Ok(false)),
            ("", Ok(false)),
            ("a;b=\"c d\";e\r\n0123456789\r\n00\r\nX: 1\r\nY:\r\n\r\n", Ok(true)),
            ("\r\n\r\n", Err(Broken)),
            (";a\r\n", Err(Broken)),
            ("4;\r\n", Err(Broken)),
            ("4 \r\n", Err(Broken)),
            (" 4\r\n", Err(Broken)),
            ("4\n", Err(Broken)),
            ("4;a\n", Err(Broken)),
            ("4\r\r\n", Err(Broken)),
            ("+4\r\n", Err(Broken)),
            ("0x4\r\n", Err(Broken)),
            ("4\r\nbody!", Err(Broken)),
            ("4\r\nbody\n", Err(Broken)),
            ("0\r\nX\r\n", Err(Broken)),
            ("0\r\n: 1\r\n", Err(Broken)),
            ("0\r\n X: 1\r\n", Err(Broken)),
            ("0\r\nX: 1\n", Err(Broken)),
            ("0\r\nX: \0", Err(Broken)),
            ("7fffffffffffffff\r\n", Ok(false)),
            ("8000000000000000\r\n", Err(Broken)),
            ("00000000000000004\r\n", Err(Broken)),
        ] {
            assert_eq!(over(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn what_stands_beside_the_chunks_is_bounded() {
        let trailers = |count: usize| format!("0\r\n{}\r\n", "X: 1\r\n".repeat(count));
        assert_eq!(over(&trailers(1000)), Ok(true));
        assert_eq!(over(&trailers(10_000)), Err(Broken));
        let extensions = |count: usize| "1;abcdef\r\nx\r\n".repeat(count);
        assert_eq!(over(&extensions(1000)), Ok(false));
        assert_eq!(over(&extensions(10_000)), Err(Broken));
    }
}

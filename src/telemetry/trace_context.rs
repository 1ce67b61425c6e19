//! Where a request stands in a distributed trace (W3C Trace Context), as text and as a value.

use std::fmt;

/// Length of `traceparent` in version 00 (section 3.2.2).
const LENGTH: usize = 55;

/// Bit of the flags that says that the caller records this trace (section 3.2.2.5).
const SAMPLED: u8 = 1;

/// The value of `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace; never 0.
    pub trace: u128,
    /// The caller's part of it; never 0.
    pub span: u64,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads `traceparent`; none if it breaks a rule of section 3.2.2. What a later version adds
    /// behind is left out, as section 4.3 asks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (fields, rest) = text.split_at_checked(LENGTH)?;
        let mut fields = fields.split('-');
        let (version, trace, span, flags) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let version = hex(version, 2)?;
        let known = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let (trace, span) = (hex(trace, 32)?, u64::try_from(hex(span, 16)?).ok()?);
        let flags = u8::try_from(hex(flags, 2)?).ok()?;
        let valid = known && trace != 0 && span != 0 && fields.next().is_none();
        valid.then_some(Self { trace, span, sampled: flags & SAMPLED != 0 })
    }
}

/// A number of exactly so many digits; capitals are not among them.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let whole = text.len() == digits && text.bytes().all(is_digit);
    u128::from_str_radix(text, 16).ok().filter(|_| whole)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, sampled } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(*sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_what_is_written() {
        let read = TraceContext::parse(TEXT).unwrap();
        assert_eq!((read.span, read.sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(read.to_string(), TEXT);
        let quiet = TEXT.replace("-01", "-00");
        assert_eq!(TraceContext::parse(&quiet).unwrap().to_string(), quiet);
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = format!("{}-more", TEXT.replacen("00", "01", 1));
        assert_eq!(TraceContext::parse(&later), TraceContext::parse(TEXT));
    }

    #[test]
    fn what_breaks_a_rule_counts_for_nothing() {
        for text in [
            "",
            "00",
            &TEXT.replacen("00", "ff", 1),
            &format!("{TEXT}-more"),
            &format!("{TEXT} "),
            &format!("{}.more", TEXT.replacen("00", "01", 1)),
            &TEXT.to_uppercase(),
            &TEXT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &TEXT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &TEXT.replace("b7ad", "b7-d"),
            &TEXT.replace("b7ad", "+7ad"),
            &"é".repeat(40),
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }
}

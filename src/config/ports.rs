//! A range of TCP ports: `8080` or `"3000-3999"`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Ports from `first` to `last`, both included. Never empty, never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range, or nothing if it would be empty or hold port 0.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// Whether a port lies in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a port or a range like \"3000-3999\"")]
        enum Raw {
            One(u16),
            Text(String),
        }
        let range = match Raw::deserialize(deserializer)? {
            Raw::One(port) => Self::new(port, port),
            Raw::Text(text) => {
                let (first, last) = text.split_once('-').unwrap_or((&text, &text));
                match (first.trim().parse(), last.trim().parse()) {
                    (Ok(first), Ok(last)) => Self::new(first, last),
                    _ => None,
                }
            }
        };
        range.ok_or_else(|| de::Error::custom("expected a port or a range like \"3000-3999\""))
    }
}

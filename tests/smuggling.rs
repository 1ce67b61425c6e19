//! Requests that two servers could read in two ways, byte for byte.
//!
//! Behind the gateway stands an upstream that keeps every byte and reads by the letter. Each row is sent
//! twice, at once and byte for byte, always with a second request glued to it.

mod rig;

/// Connection, Expect and other headers that say something of the message itself.
mod fields;
/// Lengths, encodings, chunks.
mod framing;
/// Request lines, header lines, hosts.
mod heads;
/// Bytes behind an upgrade, accepted, refused or ignored.
mod upgrades;

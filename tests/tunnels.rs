//! Tunnels under everything that happens to them: real peers, pings, ends, drains, stalls, breaks,
//! thousands at once, and a network that swallows everything.
//!
//! Tests that take minutes run with `DESKGATE_SLOW=1` (`make slow`).

/// A network that swallows everything.
mod blackhole;
/// Sides that die, reset, or say only half a goodbye.
mod breaks;
/// Whatever a peer may do right or wrong, with and without a gateway between.
mod cases;
/// A process that ends, or hands over to another one.
mod drain;
/// Codes and reasons, and who is told them.
mod ends;
/// The cases.
mod families;
/// Thousands of tunnels, one after the other and at once.
mod many;
/// Python's and Node's WebSocket libraries at both ends.
mod peers;
/// Who is asked whether he is there, and what becomes of who does not answer.
mod pings;
/// Sides that take nothing.
mod pressure;
/// Tunnels whose tokens are withdrawn.
mod revoked;
mod rig;
/// What the system is told about both sockets.
mod sockets;

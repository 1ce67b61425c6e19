//! HTTP/2 by its frames: what a client may do, and what becomes of one that attacks.

/// Frames without end that ask for work and carry nothing.
mod floods;
mod rig;
/// Limits of one connection, and streams that never end.
mod streams;

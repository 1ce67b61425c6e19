//! What happens to users while something around the gateway is broken, and after it was mended.
//!
//! Each fault lasts for two seconds, or for as many as `DESKGATE_CHAOS` says (`make chaos`: two
//! minutes). All along, tunnels carry numbered and checksummed messages both ways.

/// Certificates that end while they are served.
mod certificates;
/// A clock that is set.
mod clock;
/// A full disk, and nobody who reads the log.
mod logs;
/// Pods that are killed, stopped, cut off and replaced.
mod pods;
/// A process that is killed and started again.
mod restart;
mod rig;
/// pyos, DNS and the API server away.
mod services;
mod talk;

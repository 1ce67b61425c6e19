//! Pods that answer with whatever harms: a pod belongs to its user.

/// What a pod's body may do to the client that reads it, and to the next one.
mod bodies;
/// Heads that are no heads, have no end, or could be read in two ways.
mod heads;
/// What a pod may not say to the browser about the whole site.
mod policy;
mod rig;
/// What a pod may answer to an upgrade.
mod upgrades;

//! Pods that answer with whatever harms: a pod belongs to its user.

/// What a pod may not say to the browser about the whole site.
mod policy;
mod rig;

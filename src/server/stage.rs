//! How far the process is on its way to the end, for everything that has to know.

use tokio::sync::watch;

/// One stage after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Connections are accepted.
    Serving,
    /// Another process accepts from the same sockets: nothing more is taken from them, and idle
    /// connections are closed. One that has asked nothing yet has a moment to.
    HandedOver,
    /// What has connected is taken, then the sockets are closed; idle connections are, too.
    Closed,
    /// Nothing is waited for any more.
    Over,
}

/// Tells everybody.
#[derive(Debug)]
pub(super) struct Stages {
    pub(super) stage: watch::Sender<Stage>,
    /// True from the moment on at which the process means to end.
    pub(super) leaving: watch::Sender<bool>,
}

//! The TLS of the HTTPS listeners: the same certificates everywhere, and for each listener its own
//! demand on clients.

use std::net::SocketAddr;

use crate::tls::{self, Acceptor, Certificates, ClientAuth, Description, SettingsError};

/// What the HTTPS listeners are made of.
#[derive(Debug)]
pub struct Secure {
    /// The certificates of all.
    pub certificates: Certificates,
    /// What holds for all that is not said below.
    pub settings: tls::Settings,
    /// Listeners with a demand of their own on clients.
    pub at: Vec<(SocketAddr, ClientAuth)>,
}

/// The acceptors. Clones share their state.
#[derive(Clone, Debug)]
pub(super) struct Acceptors {
    usual: Acceptor,
    at: Vec<(SocketAddr, Acceptor)>,
}

impl Acceptors {
    /// # Errors
    /// If the cryptographic library fails.
    pub(super) fn new(secure: Secure) -> Result<Self, SettingsError> {
        let Secure { certificates, settings, at } = secure;
        let mut special = Vec::with_capacity(at.len());
        for (address, client_auth) in at {
            let settings = tls::Settings { client_auth, ..settings.clone() };
            special.push((address, Acceptor::new(certificates.clone(), settings)?));
        }
        Ok(Self { usual: Acceptor::new(certificates, settings)?, at: special })
    }

    /// The acceptor of the listener at this address.
    pub(super) fn of(&self, listener: SocketAddr) -> Acceptor {
        let own = self.at.iter().find(|(address, _)| *address == listener);
        own.map_or(&self.usual, |(_, acceptor)| acceptor).clone()
    }

    /// Handshakes that begin from now on use these certificates.
    pub(super) fn swap(&self, certificates: &Certificates) {
        for acceptor in self.at.iter().map(|(_, acceptor)| acceptor).chain([&self.usual]) {
            acceptor.swap(certificates.clone());
        }
    }

    /// The certificates in use.
    pub(super) fn describe(&self) -> Vec<Description> {
        self.usual.describe()
    }
}

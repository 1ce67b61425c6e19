//! The environment: the only place that reads it, and the list of what it may override.
//!
//! The names are those that the incumbents' manifests set, so that a Deployment whose image alone
//! was replaced keeps its meaning.

/// Source of environment variables; a trait so that tests need no process-wide state.
pub trait Environment {
    /// The value of a variable, if it is set to valid, non-empty text.
    fn var(&self, name: &str) -> Option<String>;
}

/// The process's environment.
#[derive(Debug)]
pub struct Process;

impl Environment for Process {
    fn var(&self, name: &str) -> Option<String> {
        #[expect(clippy::disallowed_methods, reason = "the one room that may read it")]
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }
}

/// No environment at all.
#[derive(Debug)]
pub struct None;

impl Environment for None {
    fn var(&self, _: &str) -> Option<String> {
        Option::None
    }
}

/// How the text of a variable becomes a value of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// A decimal number.
    Number,
    /// Addresses as nginx's `resolver` takes them: several, IPv6 in brackets, and settings (`valid=10s`), which
    /// are nginx's own.
    Resolver,
}

/// One variable and the key it sets.
#[derive(Clone, Copy, Debug)]
pub struct Override {
    /// Name of the variable.
    pub variable: &'static str,
    /// Dotted key in the configuration.
    pub key: &'static str,
    /// Form of the value.
    pub kind: Kind,
}

const fn text(variable: &'static str, key: &'static str) -> Override {
    Override { variable, key, kind: Kind::Text }
}

const fn number(variable: &'static str, key: &'static str) -> Override {
    Override { variable, key, kind: Kind::Number }
}

/// Every variable that is read, in the order in which they apply.
///
/// `PYOS_SERVICE_HOST` (which Kubernetes injects) is not among them: it pins the cluster address of
/// the moment the pod started, where the name keeps working when the Service is made again.
pub const OVERRIDES: &[Override] = &[
    text("DESKGATE_PROFILE", "profile"),
    text("JWT_DESKTOP_SIGNING_PUBLIC_KEY", "auth.signing_keys"),
    text("JWT_DESKTOP_PAYLOAD_PRIVATE_KEY", "auth.payload_keys"),
    text("JWT_DESKTOP_PAYLOAD_PUBLIC_KEY", "auth.payload_keys"),
    text("NODE_NAME", "server.node_name"),
    text("POD_NAMESPACE", "desktop.namespace"),
    text("KUBERNETES_SERVICE_HOST", "discovery.api_host"),
    number("KUBERNETES_SERVICE_PORT", "discovery.api_port"),
    text("PYOS_FQDN", "upstreams.pyos.host"),
    number("PYOS_SERVICE_PORT", "upstreams.pyos.port"),
    text("SPEEDTEST_FQDN", "upstreams.speedtest.host"),
    text("WEBSITE_FQDN", "upstreams.website.host"),
    text("CONSOLE_FQDN", "upstreams.console.host"),
    Override { variable: "NAMESERVER_RESOLVER", key: "dns.servers", kind: Kind::Resolver },
    text("DESKGATE_LOG_LEVEL", "log.level"),
    text("DESKGATE_LOG_FORMAT", "log.format"),
];

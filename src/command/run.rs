//! `deskgate run`.

use deskgate::server::{self, KeyTexts};
use deskgate::{config, telemetry};
use tracing::warn;

use super::{ConfigArgument, Failure};

pub(super) fn run(argument: &ConfigArgument) -> Result<(), Failure> {
    let layered = argument.load()?;
    let gateway = server::build(&layered, &KeyTexts::read(&layered)?)?;
    let _flush = telemetry::start(&layered.config.log);
    for (key, why) in config::warnings(&layered) {
        warn!(key, "{why}");
    }
    server::run(gateway, &layered.config).map_err(Failure::other)
}

//! `deskgate run`.

use std::time::SystemTime;

use deskgate::config::{Config, env};
use deskgate::server::{self, KeyTexts, Source};
use deskgate::{config, telemetry};
use tracing::warn;

use super::{ConfigArgument, Failure};

pub(super) fn run(argument: &ConfigArgument) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "compared with the times of files")]
    let read_at = SystemTime::now();
    let layered = argument.load()?;
    let built = server::build(&layered, &KeyTexts::read(&layered)?, None)?;
    let _flush = telemetry::start(&layered.config.log)?;
    for (key, why) in config::warnings(&layered) {
        warn!(key, "{why}");
    }
    let file = argument.config.clone();
    let path = file.clone();
    let load = Box::new(move || Config::load(path.as_deref(), &env::Process));
    server::run(built, &layered, Some(Source { file, load, read_at })).map_err(Failure::other)
}

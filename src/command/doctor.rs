//! `deskgate doctor`.

use std::time::Duration;

use deskgate::config::env;
use deskgate::doctor::{self, Options};

use super::{ConfigArgument, EXIT_USAGE, Failure, admin_token, say};

/// Exit code where something is wrong.
const EXIT_WRONG: u8 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Public address, as users write it: https://host[:port]. Front proxies are examined through it.
    #[arg(long, value_parser = public)]
    url: Option<http::Uri>,
    /// The edge's own Service, if it has another name than http-router (4.x) or nginx (3.x).
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Longest wait for each answer.
    #[arg(long, default_value = "5s", value_parser = humantime_serde::re::humantime::parse_duration)]
    timeout: Duration,
}

fn public(text: &str) -> Result<http::Uri, String> {
    let url: http::Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let plain = url.authority().is_some_and(|all| !all.as_str().contains('@'));
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    if plain && known && matches!(url.path(), "" | "/") && url.query().is_none() {
        return Ok(url);
    }
    Err("expected https://host[:port] and nothing more".to_owned())
}

pub(super) fn doctor(arguments: &Arguments) -> Result<(), Failure> {
    let report = match arguments.config.load() {
        Ok(layered) => {
            let options = Options {
                url: arguments.url.clone(),
                service: arguments.service.clone(),
                timeout: arguments.timeout,
                faults: admin_token(&layered).into_iter().collect(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let report = runtime.block_on(doctor::examine(layered, &env::Process, options));
            // A name that the system still looks up is not waited for.
            runtime.shutdown_background();
            report
        }
        Err(Failure::Config(faults)) => doctor::unreadable(&faults),
        Err(other) => return Err(other),
    };
    say(&if arguments.json { report.json() } else { report.text() })?;
    match (report.valid, report.is_healthy()) {
        (false, _) => Err(Failure::Told(EXIT_USAGE)),
        (true, false) => Err(Failure::Told(EXIT_WRONG)),
        (true, true) => Ok(()),
    }
}

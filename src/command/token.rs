//! `deskgate token`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deskgate::auth::Now;
use deskgate::auth::mint::Minter;
use deskgate::server::{self, KeyTexts};
use zeroize::Zeroizing;

use super::{ConfigArgument, Failure, say};

/// Longest text that is read as a token.
const MAX_INPUT: u64 = 64 * 1024;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token as pyos does, for tests.
    Mint(Mint),
    /// Say which step a token passes or fails, without printing it. Reads standard input.
    Explain(ConfigArgument),
}

#[derive(Debug, clap::Args)]
pub(super) struct Mint {
    /// PEM file with the private signing key.
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
    /// PEM file with the payload key: the public one as released pyos uses, or the private one as
    /// the documents describe.
    #[arg(long, value_name = "FILE")]
    payload_key: PathBuf,
    /// Host name or address of the pod.
    #[arg(long)]
    target: String,
    /// Life of the token.
    #[arg(long, default_value = "420s", value_parser = humantime_serde::re::humantime::parse_duration)]
    ttl: Duration,
}

pub(super) fn token(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Mint(arguments) => mint(arguments),
        Command::Explain(config) => explain(config),
    }
}

fn mint(arguments: &Mint) -> Result<(), Failure> {
    let signing = read(&arguments.signing_key)?;
    let payload = read(&arguments.payload_key)?;
    let minter = Minter::new(&signing, &payload).map_err(Failure::other)?;
    let (now, ttl) = (now().wall.as_secs(), arguments.ttl.as_secs());
    let token = minter.mint(&arguments.target, now, ttl).map_err(Failure::other)?;
    say(&format!("{token}\n"))
}

fn explain(config: &ConfigArgument) -> Result<(), Failure> {
    let layered = config.load()?;
    let authenticator = server::build_authenticator(&layered, &KeyTexts::read(&layered)?)?;
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text)?;
    let mut refused = None;
    for step in authenticator.explain(&text, now()) {
        match step.outcome {
            Ok(found) => say(&format!("{:<10} ok: {found}\n", step.name))?,
            Err(error) => {
                say(&format!("{:<10} REFUSED: {error}\n", step.name))?;
                refused = Some(error);
            }
        }
        if let Some(target) = step.target {
            say(&format!("{:<10} {target}\n", ""))?;
        }
    }
    match refused {
        Some(error) => Err(Failure::other(format!("the token is refused: {}", error.reason()))),
        None => say("the token opens this desktop\n"),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = fs::read(path);
    let text = text.map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
    Ok(Zeroizing::new(text))
}

fn now() -> Now {
    #[expect(clippy::disallowed_methods, reason = "a command reads the clock once, here")]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall, mono: Instant::now() }
}

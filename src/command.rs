//! The command line: what can be asked of `deskgate`, and how each answer ends.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use deskgate::admin::Token;
use deskgate::config::{Config, Fault, Layered, env};
use zeroize::Zeroizing;

mod check;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod health;
mod keygen;
mod routes;
mod run;
mod token;
mod top;

/// `EX_USAGE` of sysexits(3): the command line or the configuration is wrong.
const EXIT_USAGE: u8 = 64;

/// The edge of per-user desktops: verifies the desktop token of a request, finds the pod it names
/// and relays HTTP and WebSocket to it; routes the API, the speed test and the web client beside.
#[derive(Debug, Parser)]
#[command(name = "deskgate", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve.
    Run(ConfigArgument),
    /// Check a configuration: build everything from it without listening.
    ///
    /// Reports every fault with its file, line and key (exit code 64), warns of settings that are
    /// valid and dangerous, and prints each effective value with the place it came from.
    Check(ConfigArgument),
    /// Examine an installation, in its pod or from elsewhere, and name a remedy for each problem.
    ///
    /// Checks the configuration, keys, certificates, services, clocks, the Kubernetes API, the edge's
    /// Service as the pods see it, a front proxy (--url) and the listening addresses. Prints numbered
    /// findings. Ends with 0 if there is no problem (warnings count as none), 1 if there is one, 64
    /// if the configuration is not valid.
    Doctor(doctor::Arguments),
    /// Serve a demonstration: two desktops, with stand-ins for everything behind the gateway.
    ///
    /// Makes fresh keys in memory and needs nothing but this program; the picture in the browser
    /// needs the npm package @novnc/novnc, which `make demo` installs.
    #[cfg(feature = "demo")]
    Demo(demo::Arguments),
    /// Make the key files that the install documents describe, or Secrets with them.
    Keygen(keygen::Arguments),
    /// Make or explain desktop tokens, offline.
    #[command(subcommand)]
    Token(token::Command),
    /// Print the route table as Markdown.
    Routes(ConfigArgument),
    /// Show a running instance in the terminal: requests, tunnels, their traffic.
    Top(top::Arguments),
    /// Ask a running instance whether it answers; for container health checks.
    Health(health::Arguments),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// File with what differs from the built-in configuration.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgument {
    fn load(&self) -> Result<Layered, Failure> {
        Ok(Config::load(self.config.as_deref(), &env::Process)?)
    }
}

/// What is wrong with the operators' token, which nothing but serving uses.
fn admin_token(layered: &Layered) -> Option<Fault> {
    let path = layered.config.admin.token.as_ref()?;
    let said = match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => format!("{}: {}", path.display(), Token::new(&text).err()?),
        Err(error) => format!("{} cannot be read: {error}", path.display()),
    };
    Some(layered.fault("admin.token", said))
}

/// Why a command ended without success.
#[derive(Debug)]
enum Failure {
    /// The configuration is wrong.
    Config(Vec<Fault>),
    /// Anything else, told in one message.
    Other(String),
    /// Everything is said already; this is the exit code.
    Told(u8),
}

impl Failure {
    fn other(error: impl fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Config(faults)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::other(error)
    }
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            drop(error.print());
            return if usage { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Before anything verifies a token: see `install_provider`.
    deskgate::auth::install_provider();
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(faults)) => {
            for fault in faults {
                complain(&fault);
            }
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Other(message)) => {
            complain(&message);
            ExitCode::FAILURE
        }
        Err(Failure::Told(code)) => ExitCode::from(code),
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(config) => run::run(&config),
        Command::Check(config) => check::check(&config),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Keygen(arguments) => keygen::keygen(&arguments),
        Command::Token(command) => token::token(&command),
        Command::Routes(config) => routes::routes(&config),
        Command::Top(arguments) => Ok(top::top(&arguments)?),
        Command::Health(arguments) => health::health(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "deskgate", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
    }
}

/// Writes to standard output; a reader that has gone away is no failure.
fn say(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one line to standard error.
fn complain(message: &impl fmt::Display) {
    drop(writeln!(io::stderr().lock(), "deskgate: {message}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}

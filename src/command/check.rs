//! `deskgate check`.

use deskgate::config;
use deskgate::server::{self, KeyTexts};

use super::{ConfigArgument, Failure, complain, say};

pub(super) fn check(argument: &ConfigArgument) -> Result<(), Failure> {
    let layered = argument.load()?;
    // Keys that cannot be read must not hide the faults of everything else.
    let (keys, mut faults) = match KeyTexts::read(&layered) {
        Ok(keys) => (keys, Vec::new()),
        Err(faults) => (KeyTexts::default(), faults),
    };
    let unread = !faults.is_empty();
    match server::build(&layered, &keys, None) {
        Ok(built) => {
            for line in built.rooms.authenticator.describe_keys() {
                say(&format!("key: {line}\n"))?;
            }
        }
        Err(found) => {
            let about_keys = |fault: &config::Fault| fault.key.starts_with("auth.");
            faults.extend(found.into_iter().filter(|fault| !(unread && about_keys(fault))));
        }
    }
    if !faults.is_empty() {
        return Err(faults.into());
    }
    for (key, why) in config::warnings(&layered) {
        complain(&format!("warning: {key}: {why}"));
    }
    for (key, value, origin) in layered.effective() {
        say(&format!("{key} = {value}  # {origin}\n"))?;
    }
    say("the configuration is valid\n")
}

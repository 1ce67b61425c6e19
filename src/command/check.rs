//! `deskgate check`.

use deskgate::config;
use deskgate::server::{self, KeyTexts};

use super::{ConfigArgument, Failure, admin_token, complain, say};

pub(super) fn check(argument: &ConfigArgument) -> Result<(), Failure> {
    let layered = argument.load()?;
    // Files that cannot be read must not hide the faults of everything else.
    let (texts, mut faults) = KeyTexts::read_what_can_be(&layered);
    match server::build(&layered, &texts, None) {
        Ok(built) => {
            for line in built.rooms.authenticator.describe_keys() {
                say(&format!("key: {line}\n"))?;
            }
        }
        Err(mut found) => {
            // An unreadable file is told once.
            found.retain(|fault| !faults.iter().any(|known| known.key == fault.key));
            faults.append(&mut found);
        }
    }
    faults.extend(admin_token(&layered));
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

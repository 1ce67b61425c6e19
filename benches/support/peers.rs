//! Programs: where they are, what they call themselves, the words of their configuration.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;

/// Where Debian has a program.
pub(crate) fn find(name: &str, package: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name));
    found.into_iter().find(|program| program.is_file()).ok_or_else(|| {
        let service = "it may start a service: systemctl disable --now";
        format!("{name} is missing: apt-get install {package}   ({service} {name})").into()
    })
}

/// The deskgate that is measured: `DESKGATE_BIN`, or the one that cargo built for the bench.
pub(crate) fn deskgate() -> Outcome<PathBuf> {
    let built = option_env!("CARGO_BIN_EXE_deskgate").map(PathBuf::from);
    let program = std::env::var_os("DESKGATE_BIN").map(PathBuf::from).or(built);
    let program = program.ok_or("DESKGATE_BIN names no deskgate")?;
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("there is no {}", program.display()).into())
}

/// The first line that a program says of itself.
pub(crate) fn version(program: &Path, flag: &str) -> Outcome<String> {
    let said = Command::new(program).arg(flag).output()?;
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// Runs deskgate to its end, for what it says.
pub(crate) fn run(deskgate: &Path, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(deskgate).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("deskgate {}: {}", arguments[0], said.trim()).into())
}

/// Keeps the lines of a configuration that no mark begins, or a mark that is true.
pub(crate) fn keep(template: &str, marks: &[(&str, bool)]) -> String {
    let mut kept = String::with_capacity(template.len());
    for line in template.lines() {
        let mark = marks.iter().find(|(mark, _)| line.trim_start().starts_with(mark));
        let line = match mark {
            Some((_, false)) => continue,
            Some((mark, true)) => &line.replacen(mark, "", 1),
            None => line,
        };
        kept += line;
        kept.push('\n');
    }
    kept
}

/// Fills in the words in braces of a configuration.
pub(crate) fn fill(template: &str, words: &[(&str, &str)]) -> String {
    words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
}

/// Times a start is tried: someone else may take a port meanwhile.
const TRIES: usize = 3;

/// Starts a proxy on ports that were free.
pub(crate) async fn start<T>(mut start: impl AsyncFnMut() -> Outcome<T>) -> Outcome<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        match start().await {
            Err(error) if tries < TRIES && error.to_string().contains("in use") => {}
            Err(error) => return Err(format!("it does not start: {error}").into()),
            Ok(proxy) => return Ok(proxy),
        }
    }
}

/// Two ports of an address that were free a moment ago.
pub(crate) fn free_ports(address: Ipv4Addr) -> Outcome<(u16, u16)> {
    let listen = || TcpListener::bind((address, 0));
    let (one, two) = (listen()?, listen()?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

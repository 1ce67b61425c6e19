//! Keys and tokens: pyos's side of deskgate's authentication.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread::{self, available_parallelism};
use std::time::SystemTime;

use deskgate::auth::mint::{KeySet, Minter};

use crate::support::Outcome;

/// Where every token leads: the origin plays the pod.
const TARGET: &str = "127.0.0.1";

/// Life of a token, in seconds.
const TTL: u64 = 6 * 3600;

/// With which payload key pyos seals a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// The private one, as the documents say.
    A,
    /// The public one, as pyos's code does.
    B,
}

/// Key sets by size, made when they are first needed.
pub(crate) struct Keys {
    dir: PathBuf,
    sets: Mutex<HashMap<usize, &'static KeySet>>,
    tokens: Mutex<HashMap<(usize, Mode), Vec<String>>>,
}

impl Keys {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, sets: Mutex::default(), tokens: Mutex::default() }
    }

    fn set(&self, bits: usize) -> Outcome<&'static KeySet> {
        let mut sets = self.sets.lock().map_err(|_| "a thread that made keys has panicked")?;
        if let Some(set) = sets.get(&bits) {
            return Ok(set);
        }
        let set: &'static KeySet = Box::leak(Box::new(KeySet::generate(bits)?));
        sets.insert(bits, set);
        Ok(set)
    }

    /// The folder with the gateway's half.
    pub(crate) fn gateway(&self, bits: usize, mode: Mode) -> Outcome<PathBuf> {
        let set = self.set(bits)?;
        let payload: &str = match mode {
            Mode::A => &set.payload_public,
            Mode::B => &set.payload_private,
        };
        let dir = self.dir.join(format!("{bits}-{mode:?}"));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("signing.pem"), &set.signing_public)?;
        fs::write(dir.join("payload.pem"), payload)?;
        Ok(dir)
    }

    /// Tokens that differ from each other, the same ones each time.
    pub(crate) fn mint(&self, bits: usize, mode: Mode, count: usize) -> Outcome<Vec<String>> {
        let set = self.set(bits)?;
        let payload: &str = match mode {
            Mode::A => &set.payload_private,
            Mode::B => &set.payload_public,
        };
        let minter = Minter::new(set.signing_private.as_bytes(), payload.as_bytes())?;
        let mut all = self.tokens.lock().map_err(|_| "a thread that made tokens has panicked")?;
        let tokens = all.entry((bits, mode)).or_default();
        #[expect(clippy::disallowed_methods, reason = "a bench has no request to take the time of")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        // Another end of life makes another token.
        let missing: Vec<u64> = (tokens.len() as u64..count as u64).collect();
        let share = missing.len().div_ceil(available_parallelism()?.get()).max(1);
        let made = thread::scope(|scope| {
            let make = |ends: &[u64]| -> Outcome<Vec<String>> {
                ends.iter().map(|end| Ok(minter.mint(TARGET, now, TTL + end)?)).collect()
            };
            let threads = missing.chunks(share).map(|ends| scope.spawn(move || make(ends)));
            let threads: Vec<_> = threads.collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Outcome<Vec<String>>>| {
                thread.join().map_err(|_| "a thread that made tokens has panicked")?
            };
            threads.into_iter().map(join).collect::<Outcome<Vec<_>>>()
        })?;
        tokens.extend(made.concat());
        Ok(tokens[..count].to_vec())
    }
}

//! `deskgate top`: the state of a running instance in a terminal.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use deskgate::admin::Overview;

use client::{Address, Client};
use state::{Asked, State};

mod client;
mod panels;
mod state;
mod view;

/// How often the instance is asked.
const EVERY: Duration = Duration::from_secs(2);

/// Longest wait for a key before it is looked whether to end.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// Most orders under way.
const MAX_UNDER_WAY: usize = 8;

/// Largest token file.
const MAX_TOKEN_FILE: u64 = 4096;

/// Where an instance is asked if nothing else is said.
const DEFAULT: &str = "127.0.0.1:9180";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the instance's admin interface is: `HOST:PORT` or `unix:PATH`.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT)]
    admin: String,
    /// File with the admin token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Shows the state until a key or a signal ends it.
///
/// # Errors
/// If the arguments are wrong, or there is no terminal any more.
pub(super) fn top(arguments: &Arguments) -> io::Result<()> {
    let address: Address = arguments.admin.parse()?;
    let token = arguments.token_file.as_deref().map(read_token).transpose()?;
    let client = Client::new(address, token.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ends = {
        let _entered = runtime.enter();
        Ends::receive()?
    };
    // Restores the terminal when it panics, too, but not if only half of it works.
    let mut terminal = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore()))?;
    let ended = runtime.block_on(run(client, &arguments.admin, ends, |state| {
        terminal.draw(|frame| view::draw(frame, state)).map(drop)
    }));
    drop(ratatui::try_restore());
    // The thread that waits for keys ends by itself.
    runtime.shutdown_background();
    ended
}

fn read_token(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TOKEN_FILE).read_to_string(&mut text))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// The signals that end programs. They are received from before the terminal is changed: who ends this gets
/// it back as it was.
struct Ends {
    hup: Signal,
    int: Signal,
    term: Signal,
}

impl Ends {
    /// Receives them from now on.
    fn receive() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.hup.recv() => {}
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

async fn run(
    client: Client,
    name: &str,
    mut ends: Ends,
    mut draw: impl FnMut(&mut State) -> io::Result<()>,
) -> io::Result<()> {
    let client = Arc::new(client);
    let mut state = State::new(name);
    let mut events = events();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What is asked for runs beside, so that keys are heard meanwhile; it ends with this.
    let mut under_way = JoinSet::new();
    loop {
        draw(&mut state)?;
        let asked = tokio::select! {
            _ = tick.tick() => Asked::Refresh,
            Some(Ok(news)) = under_way.join_next() => {
                take(&mut state, news);
                Asked::Nothing
            }
            () = ends.next() => Asked::Quit,
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    pressed(&mut state, key)
                }
                Some(Ok(_)) => Asked::Nothing,
                Some(Err(error)) => return Err(error),
                None => Asked::Quit,
            },
        };
        match asked {
            Asked::Nothing => {}
            Asked::Quit => return Ok(()),
            // One look at a time, or one for each order.
            Asked::Refresh if !under_way.is_empty() => {}
            Asked::Refresh | Asked::Close(_) if under_way.len() < MAX_UNDER_WAY => {
                under_way.spawn(order(Arc::clone(&client), asked));
            }
            Asked::Refresh | Asked::Close(_) => state.say("too much under way".to_owned()),
        }
    }
}

/// What came of an order: of a tunnel that was to be closed, and the state after.
struct News {
    closed: Option<(u64, Result<(), client::Error>)>,
    overview: Result<Overview, client::Error>,
}

async fn order(client: Arc<Client>, asked: Asked) -> News {
    let mut closed = None;
    if let Asked::Close(id) = asked {
        closed = Some((id, client.close(id).await));
    }
    News { closed, overview: client.overview().await }
}

fn take(state: &mut State, news: News) {
    match news.closed {
        Some((id, Ok(()))) => state.say(format!("tunnel {id} was told to end")),
        Some((id, Err(error))) => state.say(format!("tunnel {id}: {error}")),
        None => {}
    }
    match news.overview {
        Ok(overview) => state.take(overview),
        Err(error) => state.lost(error.to_string(), Instant::now()),
    }
}

fn pressed(state: &mut State, key: KeyEvent) -> Asked {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Asked::Quit } else { Asked::Nothing };
    }
    state.pressed(key.code)
}

/// Keys and changes of the terminal's size, read by a thread of its own, and at last why there are no more.
fn events() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            let event = match event::poll(KEY_WAIT) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let last = event.is_err();
            if sender.blocking_send(event).is_err() || last {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests;

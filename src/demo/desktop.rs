//! Opens the five services of one desktop around one shared screen; assumes their ports are bound.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::screen::Screen;
use super::serve::serve;
use super::terminals::{self, Terminals};
use super::{Resident, broadcast, filer, rfb, spawner};

/// The bound ports of one desktop.
pub(super) struct Doors {
    pub(super) vnc: TcpListener,
    pub(super) spawner: TcpListener,
    pub(super) filer: TcpListener,
    pub(super) terminals: TcpListener,
    pub(super) broadcast: TcpListener,
}

/// Serves all of them and keeps the picture moving while somebody looks.
pub(super) fn open(tasks: &mut JoinSet<()>, resident: Resident, doors: Doors) {
    let user = resident.user;
    let screen = Arc::new(Screen::new(resident));
    tasks.spawn(Arc::clone(&screen).paint_forever());
    tasks.spawn(serve(doors.vnc, move |request| rfb::answer(Arc::clone(&screen), request)));
    tasks.spawn(serve(doors.spawner, move |request| spawner::answer(user, request)));
    tasks.spawn(serve(doors.filer, move |request| filer::answer(user, request)));
    let shells = Arc::new(Terminals::new(user));
    tasks.spawn(serve(doors.terminals, move |request| {
        terminals::answer(Arc::clone(&shells), request)
    }));
    tasks.spawn(serve(doors.broadcast, move |request| broadcast::answer(user, request)));
}

//! Listening sockets for a new process of this program: an upgrade in place.
//!
//! A running process offers its sockets at a Unix socket. A new one takes them, serves, and says so;
//! then the old one accepts nothing more, and what it has under way lives on there. Both accept from
//! the same queues, so no connection is refused or lost between them.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{self, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Type};
use tokio::net::UnixListener;
use tokio::time::sleep;
use tracing::{info, warn};

use super::listeners::Scheme;

/// Longest wait for the other process to do its next step; starting is one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause after the system refused to give a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Most sockets that are handed over (the kernel's limit is 253 in one message).
const MOST: usize = 250;

/// Processes that wait to be given them; one does.
const BACKLOG: i32 = 8;

/// Room for what the sockets are, as text.
const TEXT: usize = 32 * 1024;

/// What the new process says once it serves.
const READY: &[u8] = b"ready\n";

/// A listening socket, and what it is for.
pub(super) type Socket = (Scheme, SocketAddr, TcpListener);

/// Sockets that were taken from a running process.
pub(super) struct Taken {
    sockets: Vec<Socket>,
    giver: Giver,
}

/// The process that gave its sockets and waits to hear that they are served.
pub(super) struct Giver(UnixStream);

impl Taken {
    /// Takes the sockets of the process that offers them at this path; none if there is no such
    /// process.
    ///
    /// # Errors
    /// If there is one and it does not give them, or something else is at the path.
    pub(super) fn from(path: &Path) -> io::Result<Option<Self>> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            let text = format!("{} is no socket, and would be replaced by one", path.display());
            return Err(io::Error::other(text));
        }
        let from = match UnixStream::connect(path) {
            Ok(from) => from,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        is_ours(&from)?;
        from.set_read_timeout(Some(PATIENCE))?;
        from.set_write_timeout(Some(PATIENCE))?;
        let (text, descriptors) = receive(&from)?;
        let mut sockets = Vec::with_capacity(descriptors.len());
        for (line, descriptor) in text.lines().zip(descriptors) {
            let (scheme, address) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
            let scheme = Scheme::from_name(scheme).ok_or(io::ErrorKind::InvalidData)?;
            let address = address.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            let socket = TcpListener::from(descriptor);
            if socket.local_addr()? != address {
                return Err(io::ErrorKind::InvalidData.into());
            }
            sockets.push((scheme, address, socket));
        }
        Ok(Some(Self { sockets, giver: Giver(from) }))
    }

    /// The sockets, and whom to tell.
    pub(super) fn split(self) -> (Vec<Socket>, Option<Giver>) {
        (self.sockets, Some(self.giver))
    }
}

impl Giver {
    /// Tells the other process that its sockets are served.
    pub(super) fn served(mut self) {
        // If it is gone, it needs no telling.
        let _ = self.0.write_all(READY);
    }
}

/// Whether the other side is a process of this user, or the system's: a stranger is neither given sockets,
/// with which it could take connections, nor are its own served.
fn is_ours(other: &UnixStream) -> io::Result<()> {
    let uid = socket_peercred(other)?.uid;
    if uid == geteuid() || uid.is_root() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the process there is another user's"))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn receive(from: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut text = vec![0; TEXT];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = {
        let mut parts = [IoSliceMut::new(&mut text)];
        recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    text.truncate(read);
    let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    if read == 0 || text.lines().count() != descriptors.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((text, descriptors))
}

/// Whether so many sockets can be handed over.
///
/// # Errors
/// If they are too many for one message.
pub(super) fn can_give(count: usize) -> io::Result<()> {
    if count > MOST {
        let why = format!("{count} sockets are too many to hand over: at most {MOST}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(())
}

/// Offers sockets until another process serves them.
pub(super) struct Offer {
    path: PathBuf,
    listener: UnixListener,
    sockets: Vec<Socket>,
}

impl Offer {
    /// Offers sockets at this path, to this user's processes. What was there before belongs to a
    /// process that is gone, or has handed over.
    ///
    /// # Errors
    /// If nothing can be made at the path.
    pub(super) fn at(path: &Path, sockets: Vec<Socket>) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::from_std(listen(path)?)?;
        Ok(Self { path: path.to_owned(), listener, sockets })
    }

    /// Returns when another process has taken the sockets and serves them.
    pub(super) async fn taken(self) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let Ok(stream) = stream.into_std() else { continue };
            // A clone of each socket goes along: the blocking task outlives nothing of this one.
            let sockets = self.sockets.iter().map(|(scheme, address, socket)| {
                socket.try_clone().map(|socket| (*scheme, *address, socket))
            });
            let Ok(sockets) = sockets.collect::<io::Result<Vec<_>>>() else { continue };
            info!(path = %self.path.display(), "handing over");
            let given = tokio::task::spawn_blocking(move || give(&stream, &sockets)).await;
            match given {
                Ok(Ok(())) => return,
                Ok(Err(error)) => warn!(%error, "the other process did not take over"),
                Err(_) => {}
            }
        }
    }
}

/// Listens at this path for this user's processes. Nobody can connect before it listens, and by then the
/// mode is right.
fn listen(path: &Path) -> io::Result<net::UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Gives the sockets, and waits until they are served.
fn give(mut to: &UnixStream, sockets: &[Socket]) -> io::Result<()> {
    is_ours(to)?;
    to.set_nonblocking(false)?;
    to.set_read_timeout(Some(PATIENCE))?;
    to.set_write_timeout(Some(PATIENCE))?;
    let lines = sockets.iter().map(|(scheme, address, _)| format!("{} {address}\n", scheme.name()));
    let text: String = lines.collect();
    let descriptors: Vec<_> = sockets.iter().map(|(_, _, socket)| socket.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::empty())?;
    let mut said = [0; READY.len()];
    to.read_exact(&mut said)?;
    if said == READY { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_change_hands_and_go_on_listening() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("handover");
        assert!(Taken::from(&path).unwrap().is_none());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let offer = Offer::at(&path, vec![(Scheme::Https, address, socket)]).unwrap();
        let taking = tokio::task::spawn_blocking(move || {
            // One that gives up does no harm.
            drop(Taken::from(&path).unwrap().unwrap());
            let taken = Taken::from(&path).unwrap().unwrap();
            let (scheme, named, socket) = &taken.sockets[0];
            assert_eq!(
                (*scheme, *named, socket.local_addr().unwrap()),
                (Scheme::Https, address, address)
            );
            taken.giver.served();
        });
        offer.taken().await;
        taking.await.unwrap();
    }

    #[tokio::test]
    async fn the_offer_is_for_this_user_alone_and_takes_the_place_of_an_old_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("handover");
        let old = Offer::at(&path, Vec::new()).unwrap();
        let offer = Offer::at(&path, Vec::new()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(offer);
        // What the old one still listens at has no name any more.
        assert!(Taken::from(&path).unwrap().is_none());
        drop(old);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Taken::from(file.path()).err().unwrap();
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert!(file.path().exists());
    }

    #[test]
    fn only_what_fits_a_message_can_be_given() {
        assert!(can_give(MOST).is_ok());
        assert!(can_give(MOST + 1).unwrap_err().to_string().contains("251 sockets"));
    }
}

//! Where the interface listens, and who may use it there.

use std::fs;
use std::io;
use std::net;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Shortest and longest token.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 16..=256;

/// The operators' token, as a digest. Clones are the same token, also after a replacement.
#[derive(Clone)]
pub struct Token(Arc<RwLock<[u8; 32]>>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is too short to be safe, or too long.
    #[error("the token must have 16 to 256 characters")]
    Length,
    /// It could not be sent in a header.
    #[error("the token must be of printable ASCII characters without spaces")]
    Alphabet,
}

impl Token {
    /// The token in a file's text; space around it is not part of it.
    ///
    /// # Errors
    /// If it is not fit for use.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        Ok(Self(Arc::new(RwLock::new(Self::read(text)?))))
    }

    /// Puts another token in place of this one, while it is in use.
    ///
    /// # Errors
    /// If it is not fit for use; this one stays.
    pub fn replace(&self, text: &str) -> Result<(), TokenError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Self::read(text)?;
        Ok(())
    }

    fn read(text: &str) -> Result<[u8; 32], TokenError> {
        let text = text.trim();
        if !TOKEN_LENGTH.contains(&text.len()) {
            return Err(TokenError::Length);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Alphabet);
        }
        Ok(digest(text.as_bytes()))
    }

    /// Whether this is it; takes the same time whatever differs.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        let own = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        own.ct_eq(&digest(given)).into()
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Who may use a listener for more than probes and metrics.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// Everybody who reaches it.
    Open,
    /// Who has the token.
    Token(Token),
    /// Nobody.
    Nobody,
}

/// What protects a listener.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) access: Access,
    /// Names that the server may be asked for by, beside addresses and `localhost`; `None` where no
    /// browser can come.
    pub(super) hosts: Option<Arc<[String]>>,
}

/// Why the socket file cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else is there.
    #[error("{0} exists and is no socket")]
    Taken(PathBuf),
    /// The system's reason.
    #[error("cannot listen on {path}: {error}")]
    System {
        /// The path.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// Where the interface listens.
///
/// Over the socket file everything is allowed: its mode is 0600. Over TCP a token is asked for. If
/// there is none, everything is allowed on loopback addresses; on others, probes and metrics only.
#[derive(Debug)]
pub struct Listeners {
    token: Option<Token>,
    hosts: Arc<[String]>,
    pub(super) tcp: Vec<(net::TcpListener, Rules)>,
    pub(super) socket: Option<SocketFile>,
}

impl Listeners {
    /// Listens nowhere yet. `hosts` are names that browsers may know the server by.
    #[must_use]
    pub fn new(token: Option<Token>, hosts: Vec<String>) -> Self {
        Self { token, hosts: hosts.into(), tcp: Vec::new(), socket: None }
    }

    /// Listens on a socket that is bound.
    ///
    /// # Errors
    /// If it is none that can be used.
    pub fn tcp(&mut self, listener: net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let access = match &self.token {
            Some(token) => Access::Token(token.clone()),
            None if listener.local_addr()?.ip().is_loopback() => Access::Open,
            None => Access::Nobody,
        };
        self.tcp.push((listener, Rules { access, hosts: Some(Arc::clone(&self.hosts)) }));
        Ok(())
    }

    /// Listens on a socket file, in place of one that an earlier process left there.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn unix(&mut self, path: &Path) -> Result<(), SocketError> {
        self.socket = Some(SocketFile::bind(path)?);
        Ok(())
    }
}

/// A socket file, which is removed with this value unless another process has put its own there.
#[derive(Debug)]
pub(super) struct SocketFile {
    /// `None` once it serves.
    pub(super) listener: Option<UnixListener>,
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn bind(path: &Path) -> Result<Self, SocketError> {
        let system = |error| SocketError::System { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::Taken(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
        }
        // Made in a folder that nobody else can enter, and moved when its mode is right: at no time
        // can another user connect.
        let mut folder = path.as_os_str().to_owned();
        folder.push(format!(".{}", std::process::id()));
        let folder = PathBuf::from(folder);
        // One that a killed process of the same number left.
        drop(fs::remove_file(folder.join("s")));
        drop(fs::remove_dir(&folder));
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(system)?;
        let bound = Self::bind_in(&folder, path);
        drop(fs::remove_file(folder.join("s")));
        drop(fs::remove_dir(&folder));
        let (listener, inode) = bound.map_err(system)?;
        Ok(Self { listener: Some(listener), path: path.to_owned(), inode })
    }

    fn bind_in(folder: &Path, path: &Path) -> io::Result<(UnixListener, u64)> {
        let inside = folder.join("s");
        let listener = UnixListener::bind(&inside)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&inside)?.ino();
        fs::rename(&inside, path)?;
        Ok((listener, inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

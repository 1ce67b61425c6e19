//! Finds the file for a request: index files, the fallback, compressed siblings.
//!
//! Blocks; belongs on a thread where that is allowed.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::encoding::Coding;
use super::open::{Folder, Found, Opened};
use super::path::{self, Wanted};
use super::{Error, Settings, SettingsError};

/// A file to serve.
#[derive(Debug)]
pub(super) struct Page {
    /// Its name as asked for, which decides about type and lifetime.
    pub(super) name: PathBuf,
    /// Whether it stands in for a file that was not found.
    pub(super) fallback: bool,
    /// The file itself.
    pub(super) original: Opened,
    /// The same content compressed, at most once per coding.
    pub(super) siblings: Vec<(Coding, Opened)>,
}

/// What answers a path.
#[derive(Debug)]
pub(super) enum Hit {
    /// A file.
    Page(Box<Page>),
    /// A directory that was asked for without its slash.
    Folder,
}

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Site {
    root: PathBuf,
    index: Vec<String>,
    fallback: Option<PathBuf>,
}

impl Site {
    /// Checks the settings.
    pub(super) fn new(settings: Settings) -> Result<Self, SettingsError> {
        let Settings { root, index, fallback, cache_bytes: _, recent: _ } = settings;
        match Folder::enter(&root) {
            // A folder may be mounted later: until then it holds nothing.
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SettingsError::Root { path: root, source });
            }
            Ok(_) | Err(_) => {}
        }
        if let Some(name) = index.iter().find(|name| !is_plain_name(name)) {
            return Err(SettingsError::Index(name.clone()));
        }
        let fallback = match fallback {
            None => None,
            Some(text) => match path::wanted(&text) {
                Some(Wanted { relative, folder: false }) => Some(relative),
                Some(_) | None => return Err(SettingsError::Fallback(text)),
            },
        };
        Ok(Self { root, index, fallback })
    }

    /// Finds what answers a path; `None` is a path that can name nothing.
    pub(super) fn find(&self, wanted: Option<&Wanted>) -> Result<Hit, Error> {
        let folder = Folder::enter(&self.root).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Error::NotFound
            } else {
                Error::Unreadable(error)
            }
        })?;
        let found = wanted.map_or(Err(Error::NotFound), |wanted| self.look(&folder, wanted));
        match (found, &self.fallback) {
            (Err(Error::NotFound), Some(fallback)) => match folder.open(fallback)? {
                Found::File(file) => Ok(page(&folder, fallback.clone(), file, true)),
                Found::Folder => Err(Error::NotFound),
            },
            (found, _) => found,
        }
    }

    fn look(&self, folder: &Folder, wanted: &Wanted) -> Result<Hit, Error> {
        if !wanted.folder {
            return Ok(match folder.open(&wanted.relative)? {
                Found::File(file) => page(folder, wanted.relative.clone(), file, false),
                Found::Folder => Hit::Folder,
            });
        }
        for index in &self.index {
            let name = wanted.relative.join(index);
            match folder.open(&name) {
                Ok(Found::File(file)) => return Ok(page(folder, name, file, false)),
                Ok(Found::Folder) | Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NotFound)
    }
}

/// Gathers a file and its compressed siblings.
///
/// All of them are opened, also for clients that take none: `Vary` depends on what there is.
fn page(folder: &Folder, name: PathBuf, original: Opened, fallback: bool) -> Hit {
    let siblings = Coding::ALL
        .into_iter()
        .filter_map(|coding| match folder.open(&beside(&name, coding)) {
            // An older sibling was made from what the file used to be.
            Ok(Found::File(sibling)) if !sibling.facts.is_older_than(&original.facts) => {
                Some((coding, sibling))
            }
            Ok(Found::File(_) | Found::Folder) | Err(_) => None,
        })
        .collect();
    Hit::Page(Box::new(Page { name, fallback, original, siblings }))
}

/// `app.js` as `app.js.br`.
fn beside(name: &Path, coding: Coding) -> PathBuf {
    let mut sibling = OsString::from(name);
    sibling.push(".");
    sibling.push(coding.suffix());
    sibling.into()
}

/// Whether an operator's index is one name that stays in its folder.
fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

//! Static files: a folder as a web server shows it (RFC 9110).
//!
//! Imports nothing of this crate. Assumes a normalised, still percent-encoded path; everything
//! that decides what may leave the folder is judged here again. Linux only: what was opened is
//! identified through `/proc/self/fd`.
//!
//! A request goes through: `path` (names that may be asked for), `site` (which file that is,
//! opened), `encoding` and `hot` (which form of it), `answer` with `precondition` and
//! `range` (status, header fields), `body` (bytes).
//!
//! Entity tags are made of size and modification time, as nginx does, so that replicas agree. An
//! image build that gives all files one fixed time must not replace a file by one of equal size.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

mod answer;
mod body;
mod encoding;
mod fingerprint;
mod hot;
mod mime;
mod open;
mod path;
mod precondition;
mod range;
mod recent;
mod site;

pub use body::FileBody;

use answer::{Content, Representation};
use encoding::{Accepted, Coding, Offer};
use hot::Hot;
use precondition::Validators;
use recent::{Asked, Recent};
use site::{Hit, Page, Site};

/// What an operator can set about a folder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder.
    pub root: PathBuf,
    /// Names tried in this order for a path that ends in `/`.
    pub index: Vec<String>,
    /// Path of the file that is served, with 200, where nothing else is found.
    pub fallback: Option<String>,
    /// Most bytes of compressed files held in memory, and as many of files that were asked for a moment
    /// ago; 0 turns compression on the fly off.
    pub cache_bytes: u64,
    /// How long an answer serves whoever asks for the same, without a look at the file; 0 for not at
    /// all. A file that changes is served as it was for this long.
    pub recent: Duration,
}

impl Settings {
    /// Bound of the cache unless the operator says otherwise.
    pub const DEFAULT_CACHE_BYTES: u64 = 16 << 20;

    /// A folder with the customary settings.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            index: vec!["index.html".to_owned(), "index.htm".to_owned()],
            fallback: None,
            cache_bytes: Self::DEFAULT_CACHE_BYTES,
            recent: Duration::ZERO,
        }
    }
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The root is missing, no directory or may not be entered.
    #[error("cannot serve files of {}: {source}", .path.display())]
    Root {
        /// The root as configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name of an index file is not one plain file name.
    #[error("index \"{0}\" is not a plain file name")]
    Index(String),
    /// The fallback is not the path of a file that could be asked for.
    #[error("fallback \"{0}\" is not an absolute path of a file without hidden names")]
    Fallback(String),
}

/// Why nothing of a folder answers a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file, or none that may be shown: nobody can tell which.
    #[error("no such file")]
    NotFound,
    /// Neither GET nor HEAD.
    #[error("files take only GET and HEAD")]
    MethodNotAllowed,
    /// The file is there; its permissions or the disk refuse it.
    #[error("file cannot be read: {0}")]
    Unreadable(#[source] io::Error),
}

impl Error {
    /// Fixed name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "file_not_found",
            Self::MethodNotAllowed => "file_method",
            Self::Unreadable(_) => "file_unreadable",
        }
    }
}

/// A response without the fields that are the server's (`Date`, `Server`, `Connection`).
#[derive(Debug)]
pub struct Response {
    /// 200, 206, 301, 304, 412 or 416.
    pub status: StatusCode,
    /// The header, with `Content-Length` wherever a response may have one.
    pub headers: HeaderMap,
    /// The content.
    pub body: Body,
}

/// The content of a [`Response`].
#[derive(Debug)]
pub enum Body {
    /// None: a response to HEAD, a status without content or an empty file.
    Empty,
    /// All of it, from memory.
    Whole(Bytes),
    /// Read from the file as the client takes it.
    Stream(FileBody),
}

/// A folder whose files are served.
#[derive(Debug)]
pub struct Root {
    site: Arc<Site>,
    hot: Hot,
    recent: Recent,
}

impl Root {
    /// Serves a folder; its files are looked up anew for every request, or for the first of a moment.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let hot = Hot::new(settings.cache_bytes);
        let recent = Recent::new(settings.cache_bytes, settings.recent);
        Ok(Self { site: Arc::new(Site::new(settings)?), hot, recent })
    }

    /// Answers a request for a normalised absolute path.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn serve(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Response, Error> {
        if method != Method::GET && method != Method::HEAD {
            return Err(Error::MethodNotAllowed);
        }
        // Ranges are defined for GET alone (RFC 9110 §14.2).
        let ranges = if method == Method::GET { range::asked(headers) } else { None };
        let accepted = Accepted::from_headers(headers);
        // What is held in memory is whole.
        let asked = (ranges.is_none() && self.recent.is_on()).then(|| Asked::new(path, accepted));
        let now = Instant::now();
        let recent = asked.as_ref().and_then(|asked| self.recent.find(asked, now));
        let form = match recent {
            Some(form) => form,
            None => match self.look(path, accepted.filter(|_| ranges.is_none())).await? {
                None => return redirect(path, query),
                Some(form) => self.remember(asked, form, now).await,
            },
        };
        let mut response = form.answer(headers, ranges.as_deref());
        if method == Method::HEAD {
            response.body = Body::Empty;
        }
        Ok(response)
    }

    /// Looks a file up and chooses its form; none if the path is a folder's.
    async fn look(
        &self,
        path: &str,
        accepted: Option<Accepted>,
    ) -> Result<Option<Representation>, Error> {
        let wanted = path::wanted(path);
        let site = Arc::clone(&self.site);
        let hit = body::off_thread(move || site.find(wanted.as_ref()))
            .await
            .map_err(Error::Unreadable)??;
        Ok(match hit {
            Hit::Folder => None,
            Hit::Page(page) => Some(self.form(*page, accepted).await),
        })
    }

    /// Keeps a small form for the next who asks for the same.
    async fn remember(
        &self,
        asked: Option<Asked>,
        mut form: Representation,
        now: Instant,
    ) -> Representation {
        let Some(asked) = asked.filter(|_| form.length <= recent::LARGEST) else { return form };
        if let Content::File(file) = &form.content {
            let (file, length) = (Arc::clone(file), form.length);
            let read = body::off_thread(move || body::read_exactly(&file, 0..length)).await;
            // What cannot be read now is found out again when it is sent.
            if let Ok(Ok(bytes)) = read {
                form.content = Content::Memory(bytes);
            }
        }
        self.recent.keep(asked, &form, now);
        form
    }

    /// Chooses the form of a page that suits the client: plain, compressed beside it, or here.
    async fn form(&self, page: Page, accepted: Option<Accepted>) -> Representation {
        let Page { name, fallback, original, mut siblings } = page;
        let mime = mime::of(&name);
        let packable = mime::is_compressible(mime) && self.hot.takes(original.facts.size);
        // One time for all forms of a page, whose tags differ.
        let modified = original.facts.modified_second();
        let mut form = Representation {
            validators: Validators::new(original.facts.etag(""), modified),
            mime,
            coding: None,
            varies: packable || !siblings.is_empty(),
            lasting: !fallback && fingerprint::is_in(&name),
            length: original.facts.size,
            content: Content::File(original.file),
        };
        let offer = |coding| match siblings.iter().any(|(sibling, _)| *sibling == coding) {
            true => Offer::Ready,
            false if packable => Offer::OnDemand,
            false => Offer::None,
        };
        let Some(coding) = accepted.and_then(|accepted| accepted.choose(offer)) else {
            return form;
        };
        if let Some(at) = siblings.iter().position(|(sibling, _)| *sibling == coding) {
            let (_, sibling) = siblings.swap_remove(at);
            form.validators = Validators::new(sibling.facts.etag(coding.suffix()), modified);
            form.length = sibling.facts.size;
            form.content = Content::File(sibling.file);
            form.coding = Some(coding);
        } else if let Some(packed) = self.pack(&form, original.facts, coding).await {
            form.validators = Validators::new(original.facts.etag(coding.token()), modified);
            form.length = packed.len() as u64;
            form.content = Content::Memory(packed);
            form.coding = Some(coding);
        }
        form
    }

    /// The compressed content, unless that is no smaller.
    async fn pack(
        &self,
        form: &Representation,
        facts: open::Facts,
        coding: Coding,
    ) -> Option<Bytes> {
        match &form.content {
            Content::File(file) => self.hot.packed(file, facts, coding).await,
            Content::Memory(_) => None,
        }
    }
}

/// Sends the client to the folder itself, so that relative links of its index work.
///
/// A path alone (RFC 9110 §10.2.2) keeps scheme, host and port as the client sees them.
fn redirect(path: &str, query: Option<&str>) -> Result<Response, Error> {
    // Browsers read a backslash as a slash; `/\host` would lead to another site.
    let mut location = path.replace('\\', "%5C");
    location.push('/');
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let location = HeaderValue::try_from(location).map_err(|_invalid| Error::NotFound)?;
    let headers = HeaderMap::from_iter([
        (LOCATION, location),
        // The folder may be a file tomorrow; a 301 is otherwise kept for good.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_LENGTH, HeaderValue::from(0_u64)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]);
    Ok(Response { status: StatusCode::MOVED_PERMANENTLY, headers, body: Body::Empty })
}

#[cfg(test)]
mod tests;

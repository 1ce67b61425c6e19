//! Serves the demo page and the noVNC files it imports; assumes the page is small and that nothing
//! outside the noVNC folder may be read, whatever the path says or links to.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::reply::{Reply, bytes, cached, refusal};

const PAGE: &str = include_str!("page.html");
/// Where the page is told whether noVNC can be imported.
const MARK: &str = "{{novnc}}";
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Answers `/` and `/novnc/...`.
pub(super) async fn answer(novnc: Option<Arc<Path>>, request: Request<Incoming>) -> Reply {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    let path = request.uri().path().to_owned();
    // The file system may block, the runtime must not.
    let answered = tokio::task::spawn_blocking(move || match path.strip_prefix("/novnc/") {
        Some(name) => file(novnc.as_deref(), name),
        None if path == "/" || path == "/index.html" => page(novnc.as_deref()),
        None => refusal(StatusCode::NOT_FOUND, "no such page"),
    });
    let reply = answered
        .await
        .unwrap_or_else(|_| refusal(StatusCode::INTERNAL_SERVER_ERROR, "the file failed"));
    cached(reply, "no-cache")
}

/// Looked up at each visit, so that installing noVNC takes a reload and no restart.
fn page(novnc: Option<&Path>) -> Reply {
    let installed = novnc.is_some_and(|folder| folder.join("core/rfb.js").is_file());
    let state = if installed { "installed" } else { "missing" };
    bytes(StatusCode::OK, "text/html; charset=utf-8", PAGE.replace(MARK, state))
}

fn file(novnc: Option<&Path>, name: &str) -> Reply {
    let missing = || refusal(StatusCode::NOT_FOUND, "no such file");
    let (Some(folder), Some(mime)) = (novnc, mime(name)) else {
        return missing();
    };
    match read(folder, name) {
        Ok(content) => bytes(StatusCode::OK, mime, content),
        Err(error) => {
            tracing::debug!(%error, name, "demo: no noVNC file");
            missing()
        }
    }
}

fn read(folder: &Path, name: &str) -> io::Result<Vec<u8>> {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '%', '\0'])
    };
    if !name.split('/').all(plain) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Resolved on both sides, so that links inside the folder work and links out of it do not.
    let folder = folder.canonicalize()?;
    let path = folder.join(name).canonicalize()?;
    if !path.starts_with(&folder) || !path.is_file() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut content = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > FILE_LIMIT) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Modules are refused by browsers unless they arrive with a script's type.
fn mime(name: &str) -> Option<&'static str> {
    Some(match Path::new(name).extension()?.to_str()? {
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::{mime, page, read};

    #[test]
    fn only_files_below_the_folder_are_read() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("novnc");
        std::fs::create_dir_all(folder.join("core")).unwrap();
        std::fs::write(outside.path().join("secret.js"), "no").unwrap();
        std::fs::write(folder.join("core/rfb.js"), "yes").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.js"), folder.join("link.js"))
            .unwrap();
        std::os::unix::fs::symlink(folder.join("core/rfb.js"), folder.join("inner.js")).unwrap();
        assert_eq!(read(&folder, "core/rfb.js").unwrap(), b"yes");
        assert_eq!(read(&folder, "inner.js").unwrap(), b"yes");
        for name in [
            "../secret.js",
            "core/../../secret.js",
            "link.js",
            "/etc/passwd",
            "core",
            "%2e%2e/secret.js",
            "",
        ] {
            assert!(read(&folder, name).is_err(), "{name}");
        }
    }

    #[test]
    fn files_without_a_known_type_are_refused() {
        assert_eq!(mime("core/rfb.js"), Some("text/javascript; charset=utf-8"));
        assert_eq!(mime("AUTHORS"), None);
    }

    #[test]
    fn the_page_needs_no_novnc_to_be_served() {
        assert_eq!(page(None).status(), 200);
    }
}

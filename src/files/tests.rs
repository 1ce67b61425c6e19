//! A real folder through the room's one entry.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::header::HeaderName;
use tempfile::TempDir;

use super::*;

mod conditions;
mod lookup;
mod negotiation;
mod ranges;
mod streaming;

/// A folder and what serves it.
struct Rig {
    dir: TempDir,
    root: Root,
}

/// A response, read to its end.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Rig {
    fn new(files: &[(&str, &[u8])]) -> Self {
        Self::with(files, |_| {})
    }

    fn with(files: &[(&str, &[u8])], change: impl FnOnce(&mut Settings)) -> Self {
        let dir = TempDir::new().unwrap();
        for (name, content) in files {
            write(dir.path(), name, content);
        }
        let mut settings = Settings::new(dir.path());
        change(&mut settings);
        Self { root: Root::new(settings).unwrap(), dir }
    }

    async fn ask(&self, method: Method, path: &str, fields: &[(HeaderName, &str)]) -> Outcome {
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let headers =
            fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let response = self.root.serve(&method, path, query, &headers).await?;
        Ok(Answer {
            status: response.status.as_u16(),
            headers: response.headers,
            body: read(response.body).await.unwrap(),
        })
    }

    async fn get(&self, path: &str, fields: &[(HeaderName, &str)]) -> Answer {
        let answer = self.ask(Method::GET, path, fields).await.unwrap();
        let length = answer.field("content-length");
        if answer.status != 304 {
            assert_eq!(length, answer.body.len().to_string(), "{path} {fields:?}");
        }
        // What HEAD says is what GET would have said (RFC 9110 §9.3.2).
        let head = self.ask(Method::HEAD, path, fields).await.unwrap();
        assert_eq!(head.body, b"");
        if !fields.iter().any(|(name, _)| *name == http::header::RANGE) {
            assert_eq!((head.status, &head.headers), (answer.status, &answer.headers), "{path}");
        }
        assert_eq!(answer.field("x-content-type-options"), "nosniff");
        answer
    }

    async fn status(&self, path: &str) -> u16 {
        match self.ask(Method::GET, path, &[]).await {
            Ok(answer) => answer.status,
            Err(Error::NotFound) => 404,
            Err(Error::MethodNotAllowed) => 405,
            Err(Error::Unreadable(_)) => 403,
        }
    }
}

type Outcome = Result<Answer, Error>;

impl Answer {
    fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The content with its coding undone.
    fn plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let body = self.body.as_slice();
        match self.field("content-encoding") {
            "zstd" => return zstd::decode_all(body).unwrap(),
            "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut plain).unwrap(),
            "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut plain).unwrap(),
            other => {
                assert_eq!(other, "");
                return self.body.clone();
            }
        };
        plain
    }
}

async fn read(body: Body) -> io::Result<Vec<u8>> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Whole(bytes) => Ok(bytes.into()),
        Body::Stream(mut stream) => {
            let mut all = Vec::new();
            while let Some(chunk) = stream.next().await? {
                assert!((1..=64 << 10).contains(&chunk.len()));
                all.extend_from_slice(&chunk);
            }
            Ok(all)
        }
    }
}

fn write(dir: &Path, name: &str, content: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Sets a file's modification time to seconds since 1970.
fn touch(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Text that shrinks, but not to nothing.
fn text(length: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"etaoin shrdlu{}();\n"[(seed >> 16) as usize % 19]
    };
    (0..length).map(|_| next()).collect()
}

/// Bytes that do not shrink.
fn noise(length: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

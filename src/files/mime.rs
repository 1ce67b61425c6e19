//! Media types by file name extension.
//!
//! A table of its own instead of a crate's: browsers act on these, with `nosniff` to the letter,
//! so each row is a decision (WHATWG MIME Sniffing, RFC 9239 for scripts, RFC 8081 for fonts).

use std::path::Path;

/// What is said of a file nobody knows.
const UNKNOWN: &str = "application/octet-stream";

/// Longest extension in the table; longer ones are not looked at.
const LONGEST: usize = 16;

/// Extensions in byte order. Text is UTF-8; XML names its encoding itself.
const TYPES: &[(&str, &str)] = &[
    ("3gp", "video/3gpp"),
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apng", "image/apng"),
    ("appcache", "text/cache-manifest; charset=utf-8"),
    ("atom", "application/atom+xml"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("cjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("eot", "application/vnd.ms-fontobject"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("geojson", "application/geo+json"),
    ("gif", "image/gif"),
    ("glb", "model/gltf-binary"),
    ("gltf", "model/gltf+json"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("jar", "application/java-archive"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("jxl", "image/jxl"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mid", "audio/midi"),
    ("midi", "audio/midi"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("ps", "application/postscript"),
    ("rar", "application/vnd.rar"),
    ("rss", "application/rss+xml"),
    ("rtf", "application/rtf"),
    ("shtml", "text/html; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("ttc", "font/collection"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("xsl", "application/xslt+xml"),
    ("xslt", "application/xslt+xml"),
    ("xz", "application/x-xz"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// The value of `Content-Type` for a file of this name.
pub(super) fn of(name: &Path) -> &'static str {
    let extension = name.extension().and_then(|extension| extension.to_str());
    let Some(extension) = extension.filter(|extension| extension.len() <= LONGEST) else {
        return UNKNOWN;
    };
    let extension = extension.to_ascii_lowercase();
    TYPES
        .binary_search_by(|(known, _)| known.cmp(&extension.as_str()))
        .ok()
        .and_then(|at| TYPES.get(at))
        .map_or(UNKNOWN, |(_, mime)| mime)
}

/// Whether content of this type usually shrinks well.
pub(super) fn is_compressible(mime: &str) -> bool {
    let essence = mime.split_once(';').map_or(mime, |(essence, _)| essence);
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence,
            "application/json" | "application/xml" | "application/wasm" | "application/yaml"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(TYPES.is_sorted_by(|(a, _), (b, _)| a < b));
        for (extension, mime) in TYPES {
            assert_eq!(of(Path::new(&format!("a.{extension}"))), *mime);
            assert!(extension.len() <= LONGEST);
            assert_eq!(mime.starts_with("text/"), mime.ends_with("; charset=utf-8"), "{mime}");
        }
    }

    #[test]
    fn names_have_types() {
        for (name, mime) in [
            ("index.HTML", "text/html; charset=utf-8"),
            ("a.min.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.js.map", "application/json"),
            ("a.wasm", "application/wasm"),
            ("a.svg", "image/svg+xml"),
            ("a.woff2", "font/woff2"),
            ("a.ttc", "font/collection"),
            ("a.oga", "audio/ogg"),
            ("site.webmanifest", "application/manifest+json"),
            ("LICENSE", UNKNOWN),
            ("a.", UNKNOWN),
            ("a.unknown", UNKNOWN),
            ("a.averyverylongextensionindeed", UNKNOWN),
        ] {
            assert_eq!(of(Path::new(name)), mime, "{name}");
        }
    }

    #[test]
    fn text_shrinks_and_pictures_do_not() {
        for name in ["a.html", "a.js", "a.json", "a.svg", "a.xml", "a.wasm", "a.webmanifest"] {
            assert!(is_compressible(of(Path::new(name))), "{name}");
        }
        for name in ["a.png", "a.woff2", "a.mp4", "a.zip", "a.gz", "a", "a.docx"] {
            assert!(!is_compressible(of(Path::new(name))), "{name}");
        }
    }
}

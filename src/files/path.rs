//! From the path of a request to a path below the root, or to nothing.
//!
//! Assumes nothing: whatever is not a plain chain of names is refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// The one hidden folder the web knows (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Path below the root; each component is one plain name.
    pub(super) relative: PathBuf,
    /// Whether the path ends in `/`.
    pub(super) folder: bool,
}

/// Decodes a path once, segment by segment, so that an encoded slash never becomes a separator.
pub(super) fn wanted(path: &str) -> Option<Wanted> {
    let names = path.strip_prefix('/')?;
    let mut relative = PathBuf::new();
    if names.is_empty() {
        return Some(Wanted { relative, folder: true });
    }
    let (names, folder) = names.strip_suffix('/').map_or((names, false), |names| (names, true));
    for (depth, segment) in names.split('/').enumerate() {
        let name: Vec<u8> = percent_decode_str(segment).collect();
        if !may_be_asked_for(&name, depth) {
            return None;
        }
        relative.push(OsStr::from_bytes(&name));
    }
    Some(Wanted { relative, folder })
}

/// Whether a decoded segment is a name, and not a hidden one: editors, git and ConfigMap mounts
/// leave such beside the files.
fn may_be_asked_for(name: &[u8], depth: usize) -> bool {
    let plain = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
    plain && (!name.starts_with(b".") || (depth == 0 && name == WELL_KNOWN))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn paths_become_names_or_nothing() {
        let table: &[(&str, Option<(&str, bool)>)] = &[
            ("/", Some(("", true))),
            ("/a", Some(("a", false))),
            ("/a/", Some(("a", true))),
            ("/a/b.js", Some(("a/b.js", false))),
            ("/a%20b", Some(("a b", false))),
            ("/%61", Some(("a", false))),
            ("/100%", Some(("100%", false))),
            ("/a%zz", Some(("a%zz", false))),
            ("/%2561", Some(("%61", false))),
            ("/a..b", Some(("a..b", false))),
            ("/.well-known", Some((".well-known", false))),
            ("/.well-known/acme-challenge/x", Some((".well-known/acme-challenge/x", false))),
            ("/.well-known/.x", None),
            ("/a/.well-known/x", None),
            ("/.well-known2", None),
            ("", None),
            ("a", None),
            ("//", None),
            ("//a", None),
            ("/a//b", None),
            ("/a//", None),
            ("/.", None),
            ("/..", None),
            ("/../a", None),
            ("/a/..", None),
            ("/%2e%2e/a", None),
            ("/.%2e/a", None),
            ("/a%2Fb", None),
            ("/%2f", None),
            ("/..%2fa", None),
            ("/a%00", None),
            ("/a%00.js", None),
            ("/.git/config", None),
            ("/a/.env", None),
            ("/%2eenv", None),
            ("/..data/a", None),
        ];
        for (path, expected) in table {
            let expected = expected
                .map(|(relative, folder)| Wanted { relative: Path::new(relative).into(), folder });
            assert_eq!(wanted(path), expected, "{path}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        let asked = wanted("/%ff%FE.txt").unwrap();
        assert_eq!(asked.relative.as_os_str().as_bytes(), b"\xff\xfe.txt");
    }

    proptest::proptest! {
        #[test]
        fn nothing_leads_out(path in "(/|\\.|%2e|%2f|%00|a|\\\\){0,12}") {
            if let Some(asked) = wanted(&path) {
                for component in asked.relative.components() {
                    proptest::prop_assert!(
                        matches!(component, std::path::Component::Normal(_)), "{path}"
                    );
                }
            }
        }
    }
}

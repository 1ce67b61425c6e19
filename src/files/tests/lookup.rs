//! Which file answers a path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::*;

#[tokio::test]
async fn files_have_type_lifetime_and_validators() {
    let rig = Rig::new(&[
        ("a.html", b"<p>"),
        ("js/app.3f2a9c1b.js", b"1"),
        ("data", b"?"),
        ("empty.txt", b""),
    ]);
    touch(&rig.dir.path().join("a.html"), 1_700_000_000);
    let page = rig.get("/a.html", &[]).await;
    assert_eq!((page.status, page.body.as_slice()), (200, b"<p>".as_slice()));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("etag", "\"3-6553f10000000000\""),
        ("accept-ranges", "bytes"),
        ("vary", ""),
        ("content-encoding", ""),
    ] {
        assert_eq!(page.field(name), value, "{name}");
    }
    let bundle = rig.get("/js/app.3f2a9c1b.js", &[]).await;
    assert_eq!(bundle.field("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(rig.get("/data", &[]).await.field("content-type"), "application/octet-stream");
    assert_eq!(rig.get("/empty.txt", &[]).await.body, b"");
}

#[tokio::test]
async fn times_outside_of_http_dates_are_clamped() {
    let rig = Rig::new(&[("old", b"1"), ("far", b"1")]);
    let old = fs::File::options().write(true).open(rig.dir.path().join("old")).unwrap();
    old.set_modified(SystemTime::UNIX_EPOCH - Duration::from_secs(5)).unwrap();
    assert_eq!(rig.get("/old", &[]).await.field("last-modified"), "Thu, 01 Jan 1970 00:00:00 GMT");
    let far = fs::File::options().write(true).open(rig.dir.path().join("far")).unwrap();
    // Not every file system can hold it; none may bring the edge down.
    if far.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000)).is_ok() {
        assert_eq!(rig.get("/far", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn only_get_and_head() {
    let rig = Rig::new(&[("a", b"1")]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for path in ["/a", "/none"] {
            let outcome = rig.ask(method.clone(), path, &[]).await;
            assert!(matches!(outcome, Err(Error::MethodNotAllowed)), "{method}");
        }
    }
}

#[tokio::test]
async fn folders_have_an_index_or_nothing() {
    let rig = Rig::new(&[
        ("index.html", b"root"),
        ("b/index.htm", b"htm"),
        ("c/other.html", b"1"),
        ("d/index.html/x", b"1"),
        ("d/index.htm", b"second"),
        ("a b/index.html", b"1"),
    ]);
    assert_eq!(rig.get("/", &[]).await.body, b"root");
    let index = rig.get("/b/", &[]).await;
    assert_eq!((index.body.as_slice(), index.field("cache-control")), (&b"htm"[..], "no-cache"));
    assert_eq!(index.field("content-type"), "text/html; charset=utf-8");
    assert_eq!(rig.get("/d/", &[]).await.body, b"second");
    assert_eq!(rig.status("/c/").await, 404);
    assert_eq!(rig.status("/none/").await, 404);
    assert_eq!(rig.status("/index.html/").await, 404);
    assert_eq!(rig.status("/index.html/x").await, 404);
    for (path, location) in [
        ("/b", "/b/"),
        ("/b?x=1&y=/", "/b/?x=1&y=/"),
        ("/b?", "/b/?"),
        ("/%62", "/%62/"),
        ("/a%20b", "/a%20b/"),
    ] {
        let redirect = rig.get(path, &[]).await;
        assert_eq!((redirect.status, redirect.field("location")), (301, location), "{path}");
        assert_eq!(redirect.field("cache-control"), "no-cache");
    }
}

#[tokio::test]
async fn a_redirect_never_names_another_host() {
    let rig = Rig::new(&[("\\evil.example/index.html", b"1")]);
    let redirect = rig.get("/\\evil.example", &[]).await;
    assert_eq!(redirect.field("location"), "/%5Cevil.example/");
}

#[tokio::test]
async fn hidden_names_are_refused() {
    let rig = Rig::new(&[
        (".env", b"secret"),
        (".git/config", b"secret"),
        ("a/.htaccess", b"secret"),
        ("a/.well-known/x", b"secret"),
        (".well-known/.x", b"secret"),
        (".well-known/security.txt", b"public"),
    ]);
    for path in [
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/.git/",
        "/.git",
        "/a/.htaccess",
        "/a/.well-known/x",
        "/.well-known/.x",
        "/x/../.env",
        "/..",
        "/%2e%2e/",
    ] {
        assert_eq!(rig.status(path).await, 404, "{path}");
    }
    assert_eq!(rig.get("/.well-known/security.txt", &[]).await.body, b"public");
}

#[tokio::test]
async fn encoded_separators_and_zeros_name_nothing() {
    let rig = Rig::new(&[("a/b", b"1"), ("%2F", b"literal")]);
    for path in ["/a%2Fb", "/a%2fb", "/%2Fa", "/a/b%00", "/%00", "a/b", "", "/a//b", "//a/b"] {
        assert_eq!(rig.status(path).await, 404, "{path}");
    }
    assert_eq!(rig.get("/%252F", &[]).await.body, b"literal");
    let long = format!("/{}", "n".repeat(5000));
    assert_eq!(rig.status(&long).await, 404);
}

#[tokio::test]
async fn names_need_not_be_utf8() {
    let rig = Rig::new(&[]);
    fs::write(rig.dir.path().join(OsStr::from_bytes(b"\xe9t\xe9.txt")), b"summer").unwrap();
    let file = rig.get("/%e9t%E9.txt", &[]).await;
    assert_eq!(
        (file.body.as_slice(), file.field("content-type")),
        (b"summer".as_slice(), "text/plain; charset=utf-8")
    );
    assert_eq!(rig.status("/%c3%a9t%c3%a9.txt").await, 404);
}

#[tokio::test]
async fn links_are_followed_only_inside() {
    let outside = TempDir::new().unwrap();
    write(outside.path(), "secret", b"secret");
    write(outside.path(), "index.html", b"secret");
    let rig = Rig::new(&[("real/a.txt", b"in"), ("public.txt", b"p")]);
    let dir = rig.dir.path();
    symlink("real/a.txt", dir.join("relative")).unwrap();
    symlink(dir.join("real/a.txt"), dir.join("absolute")).unwrap();
    symlink("real", dir.join("folder")).unwrap();
    symlink(dir.join("relative"), dir.join("chain")).unwrap();
    for path in ["/relative", "/absolute", "/folder/a.txt", "/chain"] {
        assert_eq!(rig.get(path, &[]).await.body, b"in", "{path}");
    }
    assert_eq!(rig.get("/folder", &[]).await.status, 301);
    symlink(outside.path().join("secret"), dir.join("escape")).unwrap();
    symlink(outside.path(), dir.join("away")).unwrap();
    symlink("../", dir.join("up")).unwrap();
    symlink("/etc", dir.join("etc")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink("gone", dir.join("dangling")).unwrap();
    symlink("/dev/zero", dir.join("zero")).unwrap();
    // A sibling that leads out is no sibling.
    symlink(outside.path().join("secret"), dir.join("public.txt.gz")).unwrap();
    for path in [
        "/escape",
        "/away",
        "/away/",
        "/away/secret",
        "/up",
        "/up/",
        "/etc/passwd",
        "/loop",
        "/dangling",
        "/zero",
    ] {
        assert_eq!(rig.status(path).await, 404, "{path}");
    }
    let public = rig.get("/public.txt", &[(http::header::ACCEPT_ENCODING, "gzip")]).await;
    assert_eq!((public.body.as_slice(), public.field("vary")), (b"p".as_slice(), ""));
}

/// A folder beside the root whose name merely begins like it is outside.
#[tokio::test]
async fn a_neighbour_with_the_same_prefix_is_outside() {
    let parent = TempDir::new().unwrap();
    write(parent.path(), "www/a", b"1");
    write(parent.path(), "www-private/a", b"secret");
    symlink("../www-private/a", parent.path().join("www/b")).unwrap();
    let root = Root::new(Settings::new(parent.path().join("www"))).unwrap();
    let rig = Rig { dir: parent, root };
    assert_eq!(rig.status("/a").await, 200);
    assert_eq!(rig.status("/b").await, 404);
}

/// Kubernetes mounts a ConfigMap as links through `..data`, which it swaps as a whole.
#[tokio::test]
async fn a_config_map_is_served_and_its_update_seen() {
    let rig = Rig::new(&[("..2024_01/index.html", b"old"), ("..2024_02/index.html", b"new")]);
    let dir = rig.dir.path();
    symlink("..2024_01", dir.join("..data")).unwrap();
    symlink("..data/index.html", dir.join("index.html")).unwrap();
    assert_eq!(rig.get("/index.html", &[]).await.body, b"old");
    symlink("..2024_02", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    assert_eq!(rig.get("/", &[]).await.body, b"new");
    assert_eq!(rig.status("/..data/index.html").await, 404);
    assert_eq!(rig.status("/..2024_01/index.html").await, 404);
}

#[tokio::test]
async fn the_root_may_be_a_link_that_moves() {
    let parent = TempDir::new().unwrap();
    write(parent.path(), "r1/a", b"1");
    write(parent.path(), "r2/a", b"2");
    let current = parent.path().join("current");
    symlink("r1", &current).unwrap();
    let rig = Rig { root: Root::new(Settings::new(&current)).unwrap(), dir: parent };
    assert_eq!(rig.get("/a", &[]).await.body, b"1");
    fs::remove_file(&current).unwrap();
    assert!(matches!(rig.ask(Method::GET, "/a", &[]).await, Err(Error::NotFound)));
    symlink("r2", &current).unwrap();
    assert_eq!(rig.get("/a", &[]).await.body, b"2");
}

#[tokio::test]
async fn only_regular_files_and_without_waiting() {
    let rig = Rig::new(&[]);
    let dir = rig.dir.path();
    assert!(Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap().success());
    assert!(Command::new("mkfifo").arg(dir.join("index.html")).status().unwrap().success());
    let _listener = UnixListener::bind(dir.join("socket")).unwrap();
    for path in ["/fifo", "/socket", "/"] {
        let status = tokio::time::timeout(Duration::from_secs(5), rig.status(path)).await;
        assert_eq!(status, Ok(404), "{path}");
    }
}

#[tokio::test]
async fn unreadable_is_not_missing() {
    let rig = Rig::new(&[("a", b"1")]);
    fs::set_permissions(rig.dir.path().join("a"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    let privileged = fs::read(rig.dir.path().join("a")).is_ok();
    assert_eq!(rig.status("/a").await, if privileged { 200 } else { 403 });
}

#[tokio::test]
async fn the_fallback_answers_200() {
    let fallback = "/mimetypes/application-octet-stream.svg";
    let rig = Rig::with(
        &[
            ("mimetypes/application-octet-stream.svg", b"<svg/>"),
            ("mimetypes/text-plain.svg", b"<svg>"),
            (".env", b"secret"),
        ],
        |settings| settings.fallback = Some(fallback.to_owned()),
    );
    assert_eq!(rig.get("/mimetypes/text-plain.svg", &[]).await.body, b"<svg>");
    for path in ["/mimetypes/none.svg", "/none/", "/", "/.env", "/a%2Fb", "/x.3f2a9c1b.js"] {
        let answer = rig.get(path, &[]).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"<svg/>".as_slice()), "{path}");
        assert_eq!(answer.field("content-type"), "image/svg+xml");
        assert_eq!(answer.field("cache-control"), "no-cache");
    }
    assert_eq!(rig.get("/mimetypes", &[]).await.status, 301);
    fs::remove_file(rig.dir.path().join(&fallback[1..])).unwrap();
    assert_eq!(rig.status("/none").await, 404);
}

#[tokio::test]
async fn a_fallback_does_not_last_whatever_its_name() {
    let rig = Rig::with(&[("app.3f2a9c1b.js", b"1")], |settings| {
        settings.fallback = Some("/app.3f2a9c1b.js".to_owned());
    });
    assert_eq!(rig.get("/none", &[]).await.field("cache-control"), "no-cache");
}

#[test]
fn settings_are_checked() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "file", b"");
    let made = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings::new(dir.path());
        change(&mut settings);
        Root::new(settings)
    };
    assert!(made(&|_| {}).is_ok());
    assert!(made(&|settings| settings.root = dir.path().join("none")).is_ok(), "mounted later");
    for root in ["file", "file/below"] {
        let refused = made(&|settings| settings.root = dir.path().join(root));
        assert!(matches!(refused, Err(SettingsError::Root { .. })), "{root}");
    }
    for index in ["", ".", "..", "a/b", "/a", "a\0"] {
        let refused = made(&|settings| settings.index = vec![index.to_owned()]);
        assert!(matches!(refused, Err(SettingsError::Index(_))), "{index}");
    }
    for fallback in ["", "a", "/", "/a/", "/../a", "/.a", "//a", "/a%2Fb"] {
        let refused = made(&|settings| settings.fallback = Some(fallback.to_owned()));
        assert!(matches!(refused, Err(SettingsError::Fallback(_))), "{fallback}");
    }
}

#[tokio::test]
async fn an_answer_of_a_moment_ago_needs_no_file() {
    let rig = Rig::with(&[("a.txt", b"old")], |settings| settings.recent = Duration::from_secs(60));
    assert_eq!(rig.get("/a.txt", &[]).await.body, b"old");
    fs::remove_file(rig.dir.path().join("a.txt")).unwrap();
    let again = rig.get("/a.txt", &[]).await;
    assert_eq!(again.body, b"old");
    // Conditions hold for it as for any other.
    let etag = again.field("etag").to_owned();
    assert_eq!(rig.get("/a.txt", &[(http::header::IF_NONE_MATCH, &etag)]).await.status, 304);
    // A part of a file is read from the file.
    let part = rig.ask(Method::GET, "/a.txt", &[(http::header::RANGE, "bytes=0-0")]).await;
    assert!(matches!(part, Err(Error::NotFound)));
}

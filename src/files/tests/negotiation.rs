//! Codings, siblings and the cache.

use http::header::{ACCEPT_ENCODING, IF_NONE_MATCH, RANGE};

use super::*;

const ALL: &str = "gzip, deflate, br, zstd";

#[tokio::test]
async fn small_text_is_compressed_for_those_who_want_it() {
    let plain = text(20_000);
    let rig = Rig::new(&[("a.js", &plain)]);
    let mut tags = Vec::new();
    for (accepted, coding) in
        [("identity", ""), ("zstd", "zstd"), ("br", "br"), ("gzip", "gzip"), (ALL, "zstd")]
    {
        let answer = rig.get("/a.js", &[(ACCEPT_ENCODING, accepted)]).await;
        assert_eq!(answer.field("content-encoding"), coding);
        assert_eq!(answer.field("vary"), "Accept-Encoding");
        assert_eq!(answer.field("content-type"), "text/javascript; charset=utf-8");
        assert_eq!(answer.plain(), plain);
        assert_eq!(answer.body.len() < plain.len() * 7 / 10, !coding.is_empty());
        let etag = answer.field("etag").to_owned();
        assert!(etag.starts_with('"'));
        let again = [(ACCEPT_ENCODING, accepted), (IF_NONE_MATCH, etag.as_str())];
        let copy = rig.get("/a.js", &again).await;
        assert_eq!((copy.status, copy.field("vary")), (304, "Accept-Encoding"));
        assert_eq!((copy.field("etag"), copy.field("content-length")), (etag.as_str(), ""));
        tags.push(etag);
    }
    tags.pop();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "each form has a tag of its own");
    let silent = rig.get("/a.js", &[]).await;
    assert_eq!((silent.field("content-encoding"), silent.field("vary")), ("", "Accept-Encoding"));
}

#[tokio::test]
async fn what_does_not_gain_is_sent_as_it_is() {
    let rig = Rig::new(&[
        ("tiny.js", &text(1023)),
        ("least.js", &text(1024)),
        ("most.js", &text(256 << 10)),
        ("large.js", &text((256 << 10) + 1)),
        ("a.png", &text(5000)),
        ("noise.txt", &noise(5000)),
    ]);
    for (path, coding, vary) in [
        ("/tiny.js", "", ""),
        ("/least.js", "zstd", "Accept-Encoding"),
        ("/most.js", "zstd", "Accept-Encoding"),
        ("/large.js", "", ""),
        ("/a.png", "", ""),
        ("/noise.txt", "", "Accept-Encoding"),
    ] {
        for _ in 0..2 {
            let answer = rig.get(path, &[(ACCEPT_ENCODING, ALL)]).await;
            assert_eq!((answer.field("content-encoding"), answer.field("vary")), (coding, vary));
            assert_eq!(answer.plain(), fs::read(rig.dir.path().join(&path[1..])).unwrap());
        }
    }
}

#[tokio::test]
async fn siblings_are_served_unless_older() {
    let rig = Rig::new(&[
        ("a.png", b"plain"),
        ("a.png.br", b"as br"),
        ("a.png.gz", b"as gz"),
        ("b.js", &text(5000)),
        ("b.js.gz", b"as gz"),
        ("c.txt", b"plain"),
        ("c.txt.zst/x", b"a folder"),
    ]);
    let path = |name: &str| rig.dir.path().join(name);
    for name in ["a.png", "a.png.br", "a.png.gz", "b.js"] {
        touch(&path(name), 1_000_000);
    }
    for (accepted, body, coding) in [
        (ALL, "as br", "br"),
        ("gzip", "as gz", "gzip"),
        ("gzip, br;q=0.5", "as gz", "gzip"),
        ("br;q=0, gzip;q=0", "plain", ""),
        ("identity;q=0", "plain", ""),
        ("zstd", "plain", ""),
        ("*", "as br", "br"),
        ("", "plain", ""),
    ] {
        let answer = rig.get("/a.png", &[(ACCEPT_ENCODING, accepted)]).await;
        assert_eq!(answer.body, body.as_bytes(), "{accepted}");
        assert_eq!(answer.field("content-encoding"), coding, "{accepted}");
        assert_eq!(answer.field("vary"), "Accept-Encoding", "{accepted}");
        assert_eq!(answer.field("content-type"), "image/png", "{accepted}");
    }
    // What was made beforehand is preferred to what would be made now.
    assert_eq!(rig.get("/b.js", &[(ACCEPT_ENCODING, ALL)]).await.body, b"as gz");
    assert_eq!(rig.get("/b.js", &[(ACCEPT_ENCODING, "br")]).await.plain(), text(5000));
    assert_eq!(rig.get("/c.txt", &[(ACCEPT_ENCODING, ALL)]).await.field("vary"), "");
    // Itself, a sibling is a file like any other.
    let itself = rig.get("/a.png.gz", &[(ACCEPT_ENCODING, ALL)]).await;
    assert_eq!(itself.field("content-type"), "application/gzip");
    assert_eq!(itself.field("content-encoding"), "");

    // A page changes when its original does, whatever form of it is asked for.
    touch(&path("a.png.br"), 2_000_000);
    let (newer, plain) =
        (rig.get("/a.png", &[(ACCEPT_ENCODING, ALL)]).await, rig.get("/a.png", &[]).await);
    assert_eq!(newer.body, b"as br");
    assert_eq!(newer.field("last-modified"), plain.field("last-modified"));
    assert_ne!(newer.field("etag"), plain.field("etag"));

    touch(&path("a.png.br"), 999_999);
    assert_eq!(rig.get("/a.png", &[(ACCEPT_ENCODING, ALL)]).await.body, b"as gz");
    touch(&path("a.png"), 1_000_001);
    let alone = rig.get("/a.png", &[(ACCEPT_ENCODING, ALL)]).await;
    assert_eq!((alone.body.as_slice(), alone.field("vary")), (b"plain".as_slice(), ""));
}

#[tokio::test]
async fn ranges_are_of_the_plain_file() {
    let plain = text(5000);
    let rig = Rig::new(&[("a.js", &plain)]);
    let fields = [(ACCEPT_ENCODING, ALL), (RANGE, "bytes=100-199")];
    let part = rig.get("/a.js", &fields).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &plain[100..200]));
    assert_eq!((part.field("content-encoding"), part.field("vary")), ("", "Accept-Encoding"));
    assert_eq!(part.field("etag"), rig.get("/a.js", &[]).await.field("etag"));
    // One that does not count changes nothing.
    let fields = [(ACCEPT_ENCODING, ALL), (RANGE, "lines=1-2")];
    assert_eq!(rig.get("/a.js", &fields).await.field("content-encoding"), "zstd");
}

#[tokio::test]
async fn a_replaced_file_is_seen_at_once() {
    let rig = Rig::new(&[("a.js", &text(5000))]);
    let path = rig.dir.path().join("a.js");
    touch(&path, 1_000_000);
    let before = rig.get("/a.js", &[(ACCEPT_ENCODING, ALL)]).await;
    // Same size and same modification time: a file copied with its times.
    let mut other = text(5000);
    other.reverse();
    fs::write(rig.dir.path().join("new"), &other).unwrap();
    touch(&rig.dir.path().join("new"), 1_000_000);
    fs::rename(rig.dir.path().join("new"), &path).unwrap();
    let after = rig.get("/a.js", &[(ACCEPT_ENCODING, ALL)]).await;
    assert_eq!(after.plain(), other);
    assert_ne!(before.body, after.body);
    // In the same inode as well; only the time of change tells, which nobody can set.
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&path, text(5000)).unwrap();
    touch(&path, 1_000_000);
    assert_eq!(rig.get("/a.js", &[(ACCEPT_ENCODING, ALL)]).await.plain(), text(5000));
    // Written in place.
    for round in 0..20_u8 {
        let content = [text(4000), vec![b'a' + round; 500 + usize::from(round)]].concat();
        fs::write(&path, &content).unwrap();
        let answer = rig.get("/a.js", &[(ACCEPT_ENCODING, ALL)]).await;
        assert_eq!(answer.field("content-encoding"), "zstd");
        assert_eq!(answer.plain(), content);
    }
}

#[tokio::test]
async fn the_cache_keeps_its_bound() {
    const BOUND: u64 = 100_000;
    let rig = Rig::with(&[], |settings| settings.cache_bytes = BOUND);
    for number in 0..60 {
        let content = [text(10_000), format!("{number}").into_bytes()].concat();
        write(rig.dir.path(), &format!("{number}.js"), &content);
        for accepted in ["zstd", "br", "gzip"] {
            let path = format!("/{number}.js");
            let answer = rig.get(&path, &[(ACCEPT_ENCODING, accepted)]).await;
            assert_eq!(answer.plain(), content);
            assert!(rig.root.hot.load().0 <= BOUND);
        }
    }
    let (weight, entries) = rig.root.hot.load();
    assert!(weight > BOUND / 2 && entries > 5, "{weight} in {entries}");
    // Files that do not shrink are remembered, and weigh something.
    let rig = Rig::with(&[("noise.txt", &noise(5000))], |settings| settings.cache_bytes = BOUND);
    rig.get("/noise.txt", &[(ACCEPT_ENCODING, ALL)]).await;
    let (weight, entries) = rig.root.hot.load();
    assert!(entries == 1 && weight > 0 && weight < 1000);
}

#[tokio::test]
async fn no_cache_means_no_compression_here() {
    let rig = Rig::with(&[("a.js", &text(5000)), ("b.js", b"b"), ("b.js.gz", b"z")], |settings| {
        settings.cache_bytes = 0;
    });
    let answer = rig.get("/a.js", &[(ACCEPT_ENCODING, ALL)]).await;
    assert_eq!((answer.field("content-encoding"), answer.field("vary")), ("", ""));
    assert_eq!(rig.get("/b.js", &[(ACCEPT_ENCODING, ALL)]).await.body, b"z");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_shares_one_compression() {
    let plain = text(200_000);
    let rig = Arc::new(Rig::new(&[("a.js", &plain)]));
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a.js", &[(ACCEPT_ENCODING, "br")]).await })
        })
        .collect();
    let mut answers = Vec::new();
    for member in crowd {
        answers.push(member.await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    assert_eq!(answers[0].plain(), plain);
    assert_eq!(rig.root.hot.load().1, 1);
}

/// Clients that leave while their file is compressed leave nothing stuck.
#[tokio::test]
async fn a_client_that_leaves_blocks_nobody() {
    let rig = Rig::new(&[("a.js", &text(200_000))]);
    for _ in 0..20 {
        let ask = rig.ask(Method::GET, "/a.js", &[(ACCEPT_ENCODING, "br")]);
        drop(tokio::time::timeout(Duration::from_micros(300), ask).await);
    }
    let fields = [(ACCEPT_ENCODING, "br")];
    let answer = tokio::time::timeout(Duration::from_secs(20), rig.get("/a.js", &fields)).await;
    assert_eq!(answer.unwrap().plain(), text(200_000));
}

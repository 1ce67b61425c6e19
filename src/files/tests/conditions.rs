//! Conditional requests, as responses.

use http::header::{
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

use super::*;

const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
const EARLIER: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
const ETAG: &str = "\"a-6553f10000000000\"";

fn rig() -> Rig {
    let rig = Rig::new(&[("app.3f2a9c1b.css", b"0123456789")]);
    touch(&rig.dir.path().join("app.3f2a9c1b.css"), 1_700_000_000);
    rig
}

#[tokio::test]
async fn conditions_choose_the_status() {
    let rig = rig();
    for (fields, status) in [
        (vec![], 200),
        (vec![(IF_NONE_MATCH, ETAG)], 304),
        (vec![(IF_NONE_MATCH, "\"x\"")], 200),
        (vec![(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, DATE)], 200),
        (vec![(IF_MODIFIED_SINCE, DATE)], 304),
        (vec![(IF_MODIFIED_SINCE, EARLIER)], 200),
        (vec![(IF_MATCH, ETAG)], 200),
        (vec![(IF_MATCH, "*")], 200),
        (vec![(IF_MATCH, "\"x\"")], 412),
        (vec![(IF_MATCH, "\"x\""), (IF_NONE_MATCH, ETAG)], 412),
        (vec![(IF_MATCH, ETAG), (IF_NONE_MATCH, ETAG)], 304),
        (vec![(IF_UNMODIFIED_SINCE, DATE)], 200),
        (vec![(IF_UNMODIFIED_SINCE, EARLIER)], 412),
        (vec![(IF_MATCH, ETAG), (IF_UNMODIFIED_SINCE, EARLIER)], 200),
        (vec![(RANGE, "bytes=1-2")], 206),
        (vec![(RANGE, "bytes=10-")], 416),
        (vec![(RANGE, "bytes=1-2"), (IF_NONE_MATCH, ETAG)], 304),
        (vec![(RANGE, "bytes=1-2"), (IF_MATCH, "\"x\"")], 412),
        (vec![(RANGE, "bytes=10-"), (IF_NONE_MATCH, ETAG)], 304),
        (vec![(RANGE, "bytes=1-2"), (IF_RANGE, ETAG)], 206),
        (vec![(RANGE, "bytes=1-2"), (IF_RANGE, DATE)], 206),
        (vec![(RANGE, "bytes=1-2"), (IF_RANGE, "\"x\"")], 200),
        (vec![(RANGE, "bytes=1-2"), (IF_RANGE, EARLIER)], 200),
        (vec![(RANGE, "bytes=10-"), (IF_RANGE, "\"x\"")], 200),
        (vec![(IF_RANGE, "\"x\"")], 200),
    ] {
        let answer = rig.get("/app.3f2a9c1b.css", &fields).await;
        assert_eq!(answer.status, status, "{fields:?}");
        assert_eq!(answer.field("etag"), ETAG);
        assert_eq!(answer.field("last-modified"), DATE);
        let lasts = answer.field("cache-control").contains("immutable");
        assert_eq!(lasts, status < 400, "{fields:?}");
        let body: &[u8] = match status {
            200 => b"0123456789",
            206 => b"12",
            _ => b"",
        };
        assert_eq!(answer.body, body);
        let range = match status {
            206 => "bytes 1-2/10",
            416 => "bytes */10",
            _ => "",
        };
        assert_eq!(answer.field("content-range"), range);
    }
}

#[tokio::test]
async fn a_copy_is_stale_as_soon_as_the_file_changes() {
    let rig = rig();
    let path = rig.dir.path().join("app.3f2a9c1b.css");
    let etag = rig.get("/app.3f2a9c1b.css", &[]).await.field("etag").to_owned();
    let nanos = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 1000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(nanos).unwrap();
    let answer = rig.get("/app.3f2a9c1b.css", &[(IF_NONE_MATCH, etag.as_str())]).await;
    assert_eq!(answer.status, 200, "within the same second");
}

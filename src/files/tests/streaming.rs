//! Large files, and files that change while they are sent.

use super::*;

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn stream(rig: &Rig, path: &str) -> FileBody {
    let response = rig.root.serve(&Method::GET, path, None, &HeaderMap::new()).await.unwrap();
    match response.body {
        Body::Stream(stream) => stream,
        Body::Empty | Body::Whole(_) => panic!("not streamed"),
    }
}

#[tokio::test]
async fn a_large_file_takes_no_more_memory_than_a_chunk() {
    const SIZE: u64 = 256 << 20;
    let rig = Rig::new(&[("large.mp4", b"")]);
    let file = fs::File::options().write(true).open(rig.dir.path().join("large.mp4")).unwrap();
    file.set_len(SIZE).unwrap();
    let mut body = stream(&rig, "/large.mp4").await;
    let before = resident();
    let (mut sent, mut most) = (0, 0);
    while let Some(chunk) = body.next().await.unwrap() {
        assert!(chunk.len() <= 64 << 10);
        sent += chunk.len() as u64;
        if sent.is_multiple_of(16 << 20) {
            most = most.max(resident());
        }
    }
    assert_eq!(sent, SIZE);
    // Other tests run in the same process.
    assert!(most < before + (96 << 20), "{before} grew to {most}");
}

#[tokio::test]
async fn what_was_opened_is_what_is_sent() {
    let content = noise(300_000);
    let rig = Rig::new(&[("a.bin", &content)]);
    let body = stream(&rig, "/a.bin").await;
    fs::remove_file(rig.dir.path().join("a.bin")).unwrap();
    write(rig.dir.path(), "a.bin", b"other");
    assert_eq!(read(Body::Stream(body)).await.unwrap(), content);
    assert_eq!(rig.get("/a.bin", &[]).await.body, b"other");
}

#[tokio::test]
async fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut() {
    let rig = Rig::new(&[("a.bin", &noise(300_000)), ("b.bin", &noise(300_000))]);
    let shrinking = stream(&rig, "/a.bin").await;
    let growing = stream(&rig, "/b.bin").await;
    write(rig.dir.path(), "a.bin", &noise(100_000));
    write(rig.dir.path(), "b.bin", &noise(400_000));
    let error = read(Body::Stream(shrinking)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read(Body::Stream(growing)).await.unwrap(), noise(300_000));
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing() {
    let content = noise(300_000);
    let rig = Rig::new(&[("a.bin", &content)]);
    let mut body = stream(&rig, "/a.bin").await;
    let mut all = Vec::new();
    loop {
        tokio::select! {
            biased;
            chunk = body.next() => match chunk.unwrap() {
                Some(chunk) => all.extend_from_slice(&chunk),
                None => break,
            },
            () = std::future::ready(()) => {}
        }
        if let Some(chunk) = body.next().await.unwrap() {
            all.extend_from_slice(&chunk);
        }
    }
    assert_eq!(all, content);
    assert_eq!(body.next().await.unwrap(), None);
}

//! One normalisation: what is judged has no second reading, and what is sent upstream neither.
#![no_main]

use std::sync::LazyLock;

use deskgate_fuzz::config::Config;
use deskgate_fuzz::route::{Destination, InvalidPath, NormalPath, Table};
use libfuzzer_sys::fuzz_target;

/// A path longer than this is refused, so a normalised one that escapes made longer is too.
const MAX_LEN: usize = 16 * 1024;

static TABLE: LazyLock<Table> =
    LazyLock::new(|| Table::new(&Config::from_text("empty", "").unwrap()).unwrap());

fuzz_target!(|data: &[u8]| {
    let raw = deskgate_fuzz::seed(data);
    let path = match NormalPath::parse(raw) {
        Ok(path) => path,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    check(&path);
    assert!(!format!("{path:?}").contains(path.as_str()) || path.as_str().len() < 2);

    let found = TABLE.find(&path).expect("the last row takes every path");
    let target = found.upstream_target(&path, None);
    if target.len() <= MAX_LEN {
        assert_eq!(NormalPath::parse(target.as_bytes()).unwrap().as_str(), target);
    }
    if matches!(found.route.backend, Destination::Desktop(_)) {
        assert!(found.port().is_some());
    }
});

fn check(path: &NormalPath) {
    let text = path.as_str();
    assert!(text.starts_with('/') && !text.contains("//"), "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert!(!text.contains(['\\', '#', '?', '"', '<', '>']), "{text}");
    for segment in text.split('/').flat_map(|segment| segment.split("%2F")) {
        assert!(segment != "..", "{text}");
    }
    assert!(text.split('/').all(|segment| segment != "."), "{text}");
    match NormalPath::parse(text.as_bytes()) {
        Ok(again) => assert_eq!(again.as_str(), text, "a second reading"),
        Err(error) => assert!(error == InvalidPath::TooLong && text.len() > MAX_LEN, "{text}"),
    }
}

//! An operator's file of any content: a configuration, or faults that can be shown.
#![no_main]

use deskgate_fuzz::config::{Config, Fault, warnings};
use deskgate_fuzz::route::{NormalPath, Table};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let layered = match Config::from_text("fuzz.toml", &text) {
        Ok(layered) => layered,
        Err(faults) => return check(&faults),
    };
    for (key, why) in warnings(&layered) {
        assert!(!key.is_empty() && !why.is_empty());
    }
    assert!(!layered.effective().is_empty(), "what decodes can be shown");
    assert!(layered.config.routes.iter().all(|route| !route.disabled));
    match Table::new(&layered) {
        Err(faults) => check(&faults),
        Ok(table) => {
            let path = NormalPath::parse(b"/container/abc/8080/x").unwrap();
            if let Some(found) = table.find(&path) {
                assert!(found.upstream_target(&path, None).starts_with('/'));
                let _ = found.port();
            }
        }
    }
});

fn check(faults: &[Fault]) {
    assert!(!faults.is_empty(), "refused without a reason");
    for fault in faults {
        assert!(!fault.to_string().is_empty() && !fault.message.is_empty(), "{fault:?}");
    }
}

//! The time of an answer (RFC 9110 section 6.6.1), made once a second.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

thread_local! {
    static NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Gives the value of `Date` now.
#[expect(clippy::disallowed_methods, reason = "it is told, and nothing is decided by it")]
pub fn with_now<R>(give: impl FnOnce(&str) -> R) -> R {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    NOW.with_borrow_mut(|(second, text)| {
        if *second != since || text.is_empty() {
            (*second, *text) =
                (since, httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(since)));
        }
        give(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_date_of_now() {
        let said = with_now(|text| httpdate::parse_http_date(text).unwrap());
        let age = said.elapsed().unwrap();
        assert!(age < Duration::from_secs(3), "{age:?}");
    }
}

//! What ties together all that is told of one request, here and elsewhere: its id and its place in a
//! distributed trace. Whose word counts, and what is sent on.

use std::cell::RefCell;
use std::sync::Arc;

use http::HeaderName;
use pingora::http::RequestHeader;

use crate::telemetry::trace_context::TraceContext;
use crate::telemetry::traces::{self, Place};
use crate::tunnel::random::SplitMix;

/// Longest id that is taken over from a proxy, in bytes: it stands in every log line.
const MAX_ID: usize = 128;

/// Longest `tracestate` that is passed on; W3C Trace Context section 3.3.1.1 asks for 512 at least.
const MAX_STATE: usize = 512;

const ID: &str = "x-request-id";
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// The marks of one request.
#[derive(Clone, Debug)]
pub(super) struct Trail {
    /// Its id, for the client, the upstream and the log.
    pub(super) id: Arc<str>,
    /// Its place in a trace, if it has one.
    pub(super) trace: Option<Place>,
    /// Whether the `tracestate` that it came with is passed on.
    state: bool,
}

/// Decides about the marks of a request. Only a trusted proxy's are taken over: ids and traces of
/// strangers would mix with ours.
pub(super) fn settle(head: &RequestHeader, trusted: bool) -> Trail {
    let given = |name: &str| {
        let mut values = trusted.then(|| head.headers.get_all(name).iter())?;
        // Two of a kind say nothing.
        let only = values.next().filter(|_| values.next().is_none())?;
        only.to_str().ok()
    };
    let id = given(ID).filter(|id| is_id(id)).map_or_else(fresh, Arc::from);
    let caller = given(PARENT).and_then(TraceContext::parse);
    let trace = traces::place(caller, number);
    let state = caller.is_some() && given(STATE).is_some_and(|state| state.len() <= MAX_STATE);
    Trail { id, trace, state }
}

impl Trail {
    /// Whether a header that came with the request gives way to [`Trail::write`].
    pub(super) fn replaces(&self, name: &HeaderName) -> bool {
        match name.as_str() {
            ID | PARENT => true,
            STATE => !self.state,
            _ => false,
        }
    }

    /// Gives the marks for the upstream, as headers.
    pub(super) fn write(&self, mut give: impl FnMut(&HeaderName, &[u8])) {
        give(&HeaderName::from_static(ID), self.id.as_bytes());
        if let Some(trace) = self.trace {
            give(&HeaderName::from_static(PARENT), trace.context.to_string().as_bytes());
        }
    }
}

/// An id that nobody else has: 32 hexadecimal digits, as nginx's `$request_id`.
pub(crate) fn fresh() -> Arc<str> {
    let mut bits = u128::from(number()) << 64 | u128::from(number());
    let digits: [u8; 32] = std::array::from_fn(|_| {
        bits = bits.rotate_left(4);
        let value = (bits & 15) as u8;
        if value < 10 { b'0' + value } else { b'a' + value - 10 }
    });
    std::str::from_utf8(&digits).unwrap_or_default().into()
}

/// A number by chance.
fn number() -> u64 {
    thread_local! {
        static NUMBERS: RefCell<SplitMix> = RefCell::new(SplitMix::seeded());
    }
    NUMBERS.with_borrow_mut(SplitMix::number)
}

/// Letters, digits, and what the ids of other proxies hold besides.
fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:+/=@".contains(&byte);
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn settled(headers: &[(&'static str, &str)], trusted: bool) -> (RequestHeader, Trail) {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let trail = settle(&head, trusted);
        let replaced: Vec<_> =
            head.headers.keys().filter(|name| trail.replaces(name)).cloned().collect();
        for name in replaced {
            head.remove_header(&name);
        }
        trail.write(|name, value| {
            head.insert_header(name.clone(), HeaderValue::from_bytes(value).unwrap()).unwrap();
        });
        (head, trail)
    }

    fn is_fresh(id: &str) -> bool {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        id.len() == 32 && id.bytes().all(is_digit)
    }

    #[test]
    fn a_trusted_proxys_id_is_taken_over_if_it_is_one() {
        let longest = "x".repeat(MAX_ID);
        for id in ["a", "7f3c-11_2.~:+/=@", &longest] {
            let (head, trail) = settled(&[(ID, id)], true);
            assert_eq!((&*trail.id, head.headers[ID].as_bytes()), (id, id.as_bytes()));
        }
        let long = "x".repeat(MAX_ID + 1);
        for id in ["", "a b", "a\"b", "é", &long] {
            let (head, trail) = settled(&[(ID, id)], true);
            assert!(is_fresh(&trail.id) && head.headers[ID] == *trail.id, "{id}");
        }
        assert!(is_fresh(&settled(&[(ID, "one"), (ID, "two")], true).1.id));
    }

    #[test]
    fn a_strangers_marks_are_replaced() {
        let (head, trail) = settled(&[(ID, "mine"), (PARENT, TRACE), (STATE, "a=b")], false);
        assert!(is_fresh(&trail.id) && trail.trace.is_none());
        let left: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, [ID]);
        assert_eq!(head.headers.get_all(ID).iter().count(), 1);
    }

    #[test]
    fn a_trusted_proxys_trace_is_passed_on_with_its_state() {
        let (head, trail) = settled(&[(PARENT, TRACE), (STATE, "a=b")], true);
        assert_eq!(trail.trace.unwrap().context.to_string(), TRACE);
        assert!(head.headers[PARENT] == TRACE && head.headers[STATE] == "a=b");
        let long = "x".repeat(MAX_STATE + 1);
        assert!(!settled(&[(PARENT, TRACE), (STATE, &long)], true).0.headers.contains_key(STATE));
        let (head, _) = settled(&[(PARENT, "nonsense"), (STATE, "a=b")], true);
        assert!(!head.headers.contains_key(PARENT) && !head.headers.contains_key(STATE));
    }

    #[test]
    fn no_two_ids_are_alike() {
        let made: std::collections::BTreeSet<_> = (0..1000).map(|_| fresh()).collect();
        assert_eq!(made.len(), 1000);
    }
}

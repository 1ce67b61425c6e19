use super::*;
use std::collections::HashSet;

#[test]
fn every_end_survives_as_a_byte() {
    for end in End::ALL {
        assert_eq!(End::from_u8(end as u8), Some(end));
    }
    assert_eq!(End::from_u8(0), None);
    assert_eq!(End::from_u8(End::ALL.len() as u8 + 1), None);
}

#[test]
fn reasons_differ_and_texts_fit_into_a_close_frame() {
    let reasons: HashSet<_> = End::ALL.iter().map(|end| end.reason()).collect();
    assert_eq!(reasons.len(), End::ALL.len());
    for end in End::ALL {
        assert!(end.close_text().len() <= 123);
        let text: serde_json::Value = serde_json::from_str(&end.close_text()).unwrap();
        assert_eq!(text["reason"], end.reason());
    }
}

#[test]
fn codes_are_those_an_endpoint_may_send() {
    // RFC 6455 §7.4.2: 4000-4999 are private; 1005, 1006 and 1015 are never sent.
    for code in End::ALL.iter().filter_map(|end| end.close_code()) {
        assert!(matches!(code, 1001 | 1008 | 1012 | 4000..=4999), "{code}");
    }
    assert_eq!(End::Drain.close_code(), Some(1012));
    assert_eq!(End::Operator.close_code(), Some(1001));
    assert_eq!(End::TokenExpired.close_code(), Some(4401));
    assert_eq!(End::Revoked.close_code(), Some(4403));
    assert_eq!(End::DesktopGone.close_code(), Some(4404));
    assert_eq!(End::ClientLost.close_code(), None);
}

use super::*;

#[test]
fn pauses_grow_to_their_limit_and_start_anew() {
    let mut pause = Pause::default();
    let mut longest = FIRST_PAUSE;
    for _ in 0..40 {
        let next = pause.next();
        assert!(next <= longest && next >= longest / 2, "{next:?} of {longest:?}");
        longest = (longest * 2).min(MAX_PAUSE);
    }
    pause.reset();
    assert!(pause.next() <= FIRST_PAUSE);
}

//! Candidates take turns.

/// Measures all candidates once per round; who is first changes from round to round. `measure` may
/// keep what it started for the next round, and says whether it succeeded: who fails is left out.
pub(crate) async fn alternate<C: Copy, P>(
    candidates: &[C],
    rounds: usize,
    mut measure: impl AsyncFnMut(C, &mut Option<P>) -> bool,
) {
    let mut running: Vec<(C, Option<P>)> =
        candidates.iter().map(|candidate| (*candidate, None)).collect();
    for _ in 0..rounds {
        let mut next = Vec::with_capacity(running.len());
        for (candidate, mut kept) in running {
            if measure(candidate, &mut kept).await {
                next.push((candidate, kept));
            }
        }
        running = next;
        if !running.is_empty() {
            running.rotate_left(1);
        }
    }
}

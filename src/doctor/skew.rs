//! How far another clock is away, judged by a `Date` that names a second only.

use std::time::Duration;

use super::finding::{Code, Finding};

/// From here on token issue times are compared wrongly, unless more is tolerated.
const PROBLEM: f64 = 2.0;

/// From here on tokens are dead before they are used, or outlive their time, whatever is tolerated.
const FAR: f64 = 30.0;

/// Seconds that another clock is ahead (positive) or behind: the least that it can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Skew(f64);

impl Skew {
    /// Of a clock that said this second between two moments of ours.
    pub(super) fn of(date: Duration, before: Duration, after: Duration) -> Self {
        let earliest = date.as_secs_f64() - after.as_secs_f64();
        let latest = date.as_secs_f64() + 1.0 - before.as_secs_f64();
        // Anything in between is possible; the mildest is claimed.
        Self(if earliest > 0.0 { earliest } else { latest.min(0.0) })
    }

    /// What to say of it. `tolerated` is what discovery is told to expect.
    pub(super) fn judge(self, code: Code, tolerated: Duration) -> Finding {
        let Self(skew) = self;
        let side = if skew > 0.0 { "ahead of" } else { "behind" };
        let said = format!("at least {:.1} s {side} this one", skew.abs());
        let remedy = "synchronise the clocks of all nodes (chrony or systemd-timesyncd)";
        if skew.abs() > FAR {
            let more = "tokens count as expired at once, or far too late";
            Finding::problem(code, said, remedy).and([more.to_owned()])
        } else if skew.abs() <= tolerated.as_secs_f64() {
            let agrees = "agrees with this one, as far as a Date header tells".to_owned();
            let far = skew.abs() > PROBLEM;
            Finding::ok(code, if far { format!("{said}, within discovery.skew") } else { agrees })
        } else if skew.abs() > PROBLEM {
            let more = "the times at which tokens are issued are compared with those of pods: \
                        good tokens are refused, or those of an address's former owner believed";
            Finding::problem(code, said, remedy).and([more.to_owned()])
        } else {
            let remedy = format!("{remedy}, or raise discovery.skew");
            Finding::warning(code, format!("{said}, more than discovery.skew"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{PYOS_CLOCK, Status};

    #[test]
    fn only_what_a_second_cannot_explain_is_skew() {
        let at = |seconds: f64| Duration::from_secs_f64(seconds);
        for (date, before, after, want) in [
            (100.0, 100.3, 100.4, 0.0),
            (100.0, 100.9, 101.2, 0.0),
            (105.0, 100.0, 100.5, 4.5),
            (95.0, 100.0, 100.5, -4.0),
        ] {
            let Skew(found) = Skew::of(at(date), at(before), at(after));
            assert!((found - want).abs() < 0.001, "{date} {before} {after}: {found}");
        }
    }

    #[test]
    fn each_size_of_skew_has_its_word() {
        let judge = |skew| Skew(skew).judge(PYOS_CLOCK, Duration::from_secs(1)).status;
        let statuses = [0.0, -0.9, 1.5, -2.5, 40.0].map(judge);
        use Status::{Ok, Problem, Warning};
        assert_eq!(statuses, [Ok, Ok, Warning, Problem, Problem]);
    }

    #[test]
    fn what_is_tolerated_is_no_problem_unless_tokens_are_dead() {
        let judge = |skew| Skew(skew).judge(PYOS_CLOCK, Duration::from_secs(60)).status;
        use Status::{Ok, Problem};
        assert_eq!([1.5, -2.5, 20.0, 40.0].map(judge), [Ok, Ok, Ok, Problem]);
    }
}

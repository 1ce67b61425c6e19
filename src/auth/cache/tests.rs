//! What is remembered, for how long, and how often it is computed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::task::{Context, Waker};

use super::*;
use crate::auth::Token;
use crate::auth::testing::{NAME, NOW, policy, run};

/// A cache, a clock to move, and a count of computations.
struct Bench {
    cache: Cache,
    start: Instant,
    computed: AtomicUsize,
}

impl Bench {
    fn new(entries: usize) -> Self {
        Self {
            cache: Cache::new(CacheLimits { entries }),
            start: Instant::now(),
            computed: AtomicUsize::new(0),
        }
    }

    fn at(&self, wall_ms: i64, mono_ms: u64) -> Moment {
        let wall = i64::try_from(NOW).unwrap() * 1000 + wall_ms;
        Moment {
            now: Now {
                wall: Duration::from_millis(wall.try_into().unwrap()),
                mono: self.start + Duration::from_millis(mono_ms),
            },
            generation: 0,
        }
    }

    /// Asks at a moment; the computation, if there is one, gives `answer`.
    fn ask(&self, moment: Moment, answer: Result<u64, Error>) -> Result<u64, Error> {
        self.ask_for([7; 32], moment, answer)
    }

    fn ask_for(
        &self,
        digest: Digest,
        moment: Moment,
        answer: Result<u64, Error>,
    ) -> Result<u64, Error> {
        let compute = async || {
            self.computed.fetch_add(1, Ordering::SeqCst);
            Ok(answer.map(desktop))
        };
        run(self.cache.find_or_compute(&digest, moment, compute)).map(|desktop| desktop.expires)
    }

    fn computed(&self) -> usize {
        self.computed.swap(0, Ordering::SeqCst)
    }
}

fn desktop(expires: u64) -> Arc<Desktop> {
    Arc::new(Desktop {
        target: policy().confine(NAME.as_bytes()).unwrap(),
        expires,
        issued: None,
        fingerprint: Token::new("x").unwrap().fingerprint(),
    })
}

#[test]
fn a_desktop_is_remembered_until_its_exp_to_the_second() {
    let bench = Bench::new(64);
    let answer = Ok(NOW + 4);
    assert_eq!(bench.ask(bench.at(0, 0), answer), answer);
    assert_eq!(bench.ask(bench.at(3999, 3999), Err(Error::Expired)), answer);
    assert_eq!(bench.computed(), 1);
    assert_eq!(bench.ask(bench.at(4000, 4000), Err(Error::Expired)), Err(Error::Expired));
    assert_eq!(bench.computed(), 1);
}

#[test]
fn the_wall_clock_ends_an_entry_early() {
    let bench = Bench::new(64);
    bench.ask(bench.at(0, 0), Ok(NOW + 100)).unwrap();
    // The wall clock is set forward; hardly any time has passed.
    let outcome = bench.ask(bench.at(100_000, 5), Err(Error::Expired));
    assert_eq!(outcome, Err(Error::Expired));
}

#[test]
fn a_wall_clock_set_back_does_not_prolong_an_entry() {
    let bench = Bench::new(64);
    bench.ask(bench.at(0, 0), Ok(NOW + 100)).unwrap();
    bench.ask(bench.at(-3_600_000, 99_999), Ok(NOW + 100)).unwrap();
    assert_eq!(bench.computed(), 1);
    bench.ask(bench.at(-3_600_000, 100_000), Ok(NOW + 100)).unwrap();
    assert_eq!(bench.computed(), 1, "computed again");
}

#[test]
fn no_entry_outlives_ten_minutes() {
    for expires in [NOW + 86_400, u64::MAX] {
        let bench = Bench::new(64);
        bench.ask(bench.at(0, 0), Ok(expires)).unwrap();
        bench.ask(bench.at(599_999, 599_999), Ok(expires)).unwrap();
        assert_eq!(bench.computed(), 1);
        bench.ask(bench.at(600_000, 600_000), Ok(expires)).unwrap();
        assert_eq!(bench.computed(), 1, "computed again");
    }
}

#[test]
fn the_last_second_is_not_remembered() {
    let bench = Bench::new(64);
    for _ in 0..3 {
        bench.ask(bench.at(0, 0), Ok(NOW + 1)).unwrap();
    }
    assert_eq!(bench.computed(), 3);
    bench.ask(bench.at(-1, 0), Ok(NOW + 1)).unwrap();
    bench.ask(bench.at(-1, 0), Ok(NOW + 1)).unwrap();
    assert_eq!(bench.computed(), 1);
}

#[test]
fn a_refusal_is_remembered_for_five_seconds() {
    let bench = Bench::new(64);
    for mono in [0, 4999] {
        let outcome = bench.ask(bench.at(0, mono), Err(Error::BadSignature));
        assert_eq!(outcome, Err(Error::BadSignature));
    }
    assert_eq!(bench.computed(), 1);
    assert_eq!(bench.ask(bench.at(0, 5000), Ok(NOW + 9)), Ok(NOW + 9));
    assert_eq!(bench.computed(), 1);
}

#[test]
fn a_token_that_is_not_valid_yet_gets_its_chance() {
    let bench = Bench::new(64);
    let early = Err(Error::NotYetValid);
    assert_eq!(bench.ask(bench.at(0, 0), early), early);
    assert_eq!(bench.ask(bench.at(0, 1), Ok(NOW + 9)), Ok(NOW + 9));
}

#[test]
fn another_generation_of_keys_answers_for_itself() {
    let bench = Bench::new(64);
    let next = Moment { generation: 1, ..bench.at(0, 0) };
    bench.ask(bench.at(0, 0), Ok(NOW + 9)).unwrap();
    assert_eq!(bench.ask(next, Err(Error::BadSignature)), Err(Error::BadSignature));
    let after = Moment { generation: 2, ..bench.at(0, 0) };
    assert_eq!(bench.ask(after, Ok(NOW + 8)), Ok(NOW + 8));
    assert_eq!(bench.computed(), 3);
}

#[test]
fn clearing_forgets_both_kinds() {
    let bench = Bench::new(64);
    bench.ask_for([1; 32], bench.at(0, 0), Ok(NOW + 9)).unwrap();
    bench.ask_for([2; 32], bench.at(0, 0), Err(Error::BadSeal)).unwrap_err();
    bench.cache.clear();
    assert_eq!(bench.cache.desktops.len() + bench.cache.refusals.len(), 0);
}

#[test]
fn memory_is_bounded_and_kinds_do_not_compete() {
    let bench = Bench::new(256);
    let digest = |n: u16, kind: u8| {
        let mut digest = [kind; 32];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        digest
    };
    for n in 0..200 {
        bench.ask_for(digest(n, 1), bench.at(0, 0), Ok(NOW + 9)).unwrap();
    }
    let kept = bench.cache.desktops.len();
    for n in 0..2000 {
        bench.ask_for(digest(n, 2), bench.at(0, 0), Err(Error::BadSeal)).unwrap_err();
    }
    assert_eq!(bench.cache.desktops.len(), kept, "refusals pushed desktops out");
    assert!((1..=32).contains(&bench.cache.refusals.len()));
    for n in 0..2000 {
        bench.ask_for(digest(n, 3), bench.at(0, 0), Ok(NOW + 9)).unwrap();
    }
    assert!((1..=256).contains(&bench.cache.desktops.len()));
}

#[test]
fn nothing_is_remembered_without_room() {
    let bench = Bench::new(0);
    for _ in 0..3 {
        assert_eq!(bench.ask(bench.at(0, 0), Ok(NOW + 9)), Ok(NOW + 9));
        assert_eq!(
            bench.ask_for([2; 32], bench.at(0, 0), Err(Error::BadSeal)),
            Err(Error::BadSeal)
        );
    }
    assert_eq!(bench.computed(), 6);
}

/// Asks from eight threads at once; returns their answers and how often it was computed.
fn storm(answer: Result<u64, Error>) -> (Vec<Result<u64, Error>>, usize) {
    let bench = Bench::new(64);
    let barrier = Barrier::new(8);
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let outcome =
                    run(bench.cache.find_or_compute(&[7; 32], bench.at(0, 0), async || {
                        bench.computed.fetch_add(1, Ordering::SeqCst);
                        // Long enough for all the others to arrive and wait.
                        std::thread::sleep(Duration::from_millis(100));
                        Ok::<_, Error>(answer.map(desktop))
                    }));
                answers.lock().unwrap().push(outcome.map(|desktop| desktop.expires));
            });
        }
    });
    (answers.into_inner().unwrap(), bench.computed())
}

#[test]
fn concurrent_misses_compute_once() {
    assert_eq!(storm(Ok(NOW + 9)), (vec![Ok(NOW + 9); 8], 1));
}

#[test]
fn concurrent_failures_compute_once() {
    let refused = Err(Error::BadSignature);
    assert_eq!(storm(refused), (vec![refused; 8], 1));
}

#[test]
fn concurrent_renewals_of_a_stale_entry_compute_once() {
    let bench = Bench::new(64);
    bench.ask(bench.at(0, 0), Ok(NOW + 9)).unwrap();
    bench.computed();
    let next = Moment { generation: 1, ..bench.at(0, 0) };
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                assert_eq!(bench.ask(next, Ok(NOW + 8)), Ok(NOW + 8));
            });
        }
    });
    assert_eq!(bench.computed(), 1);
}

fn nobody() -> std::future::Ready<Result<Result<Arc<Desktop>, Error>, Error>> {
    panic!("nobody should compute for a request that is gone")
}

#[test]
fn a_cancelled_wait_leaves_no_lock_behind() {
    let bench = Bench::new(64);
    let moment = bench.at(0, 0);
    let (holding, cancelled) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let compute = async || {
                holding.wait();
                cancelled.wait();
                Ok::<_, Error>(Err(Error::NotYetValid))
            };
            run(bench.cache.find_or_compute(&[7; 32], moment, compute)).unwrap_err();
        });
        holding.wait();
        let mut waiting = Box::pin(bench.cache.find_or_compute(&[7; 32], moment, nobody));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(waiting);
        cancelled.wait();
    });
    assert_eq!(bench.ask(moment, Ok(NOW + 9)), Ok(NOW + 9));
}

#[test]
fn what_is_no_answer_is_not_remembered() {
    #[derive(Debug, PartialEq)]
    enum Outcome {
        Busy,
        Refused(Error),
    }
    impl From<Error> for Outcome {
        fn from(error: Error) -> Self {
            Self::Refused(error)
        }
    }
    let bench = Bench::new(64);
    let moment = bench.at(0, 0);
    let busy = || std::future::ready(Err(Outcome::Busy));
    assert_eq!(run(bench.cache.find_or_compute(&[7; 32], moment, busy)), Err(Outcome::Busy));
    let refused = || std::future::ready(Ok::<_, Outcome>(Err(Error::BadSeal)));
    let outcome = run(bench.cache.find_or_compute(&[7; 32], moment, refused));
    assert_eq!(outcome, Err(Outcome::Refused(Error::BadSeal)));
    assert_eq!(run(bench.cache.find_or_compute(&[7; 32], moment, busy)), outcome);
}

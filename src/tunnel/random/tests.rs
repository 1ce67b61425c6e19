use super::*;

#[test]
fn the_published_numbers_come_out() {
    // The first outputs for seed 1234567 of the reference implementation.
    let mut random = SplitMix::new(1_234_567);
    let first = [random.number(), random.number(), random.number()];
    assert_eq!(
        first,
        [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
    );
}

#[test]
fn fractions_stay_below_one_and_seeds_differ() {
    let mut random = SplitMix::seeded();
    assert!((0..10_000).all(|_| (0.0..1.0).contains(&random.fraction())));
    assert_ne!(SplitMix::seeded().number(), SplitMix::seeded().number());
}

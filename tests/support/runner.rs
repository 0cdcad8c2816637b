//! Runs a check on many decoded scenarios, and shrinks the one that fails.

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// `check` on that many tapes, or as many as `PROPTEST_CASES` says. The tapes are the same in every run, unless
/// `PROPTEST_RNG_SEED` is set.
pub(crate) fn for_all(cases: u32, check: impl Fn(&[u8])) {
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_190_209);
    }
    let run = TestRunner::new(config).run(&vec(any::<u8>(), 1..700), |bytes| {
        check(&bytes);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

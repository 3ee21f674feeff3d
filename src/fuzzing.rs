//! What the properties that `fuzz/` looks for exceptions to have in common.
//!
//! The properties stand beside the parsers that they are about, in a module `fuzzing` of each. The
//! tests there run them over the seeds of `fuzz/corpus/` and over generated inputs.

/// What a parser may hold whatever its input: messages, and first buffers.
const FREE_BYTES: usize = 16 << 10;

/// Calls `parse`, which may hold `factor` bytes for each byte of its input at most.
///
/// # Panics
///
/// It held more.
pub(crate) fn within<T>(factor: usize, input_bytes: usize, parse: impl FnOnce() -> T) -> T {
    let mut parsed = None;
    let used = allocation_counter::measure(|| parsed = Some(parse()));
    let (held, most) = (used.bytes_max, (FREE_BYTES + factor * input_bytes) as u64);
    assert!(
        held <= most,
        "{held} bytes were held for an input of {input_bytes}, at most {most} may"
    );
    parsed.expect("it was called")
}

#[cfg(test)]
pub(crate) mod inputs {
    //! What the properties are tried with in tests.

    use std::env;
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::path::Path;

    use proptest::strategy::Strategy;
    use proptest::test_runner::{Config, RngSeed, TestRunner};

    /// Tries each seed of a target of `fuzz/`.
    pub(crate) fn hold_for_seeds(target: &str, property: impl Fn(&[u8])) {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut tried = 0;
        for entry in fs::read_dir(&place).expect("the seeds are there") {
            let file = entry.expect("a directory entry").path();
            let seed = fs::read(&file).expect("a seed can be read");
            if let Err(failure) = catch_unwind(AssertUnwindSafe(|| property(&seed))) {
                eprintln!("it does not hold for {}", file.display());
                resume_unwind(failure);
            }
            tried += 1;
        }
        assert!(tried >= 15, "{} has {tried} seeds", place.display());
    }

    /// Tries `usual` generated inputs, scaled by `TALLYD_TEST_SCALE`; what fails is made smaller.
    pub(crate) fn hold_for_any<S: Strategy>(usual: u32, inputs: &S, property: impl Fn(S::Value)) {
        let scale = env::var("TALLYD_TEST_SCALE").map_or(1.0, |scale| scale.parse().unwrap());
        let seed = env::var("TALLYD_TEST_SEED").ok();
        let seed = seed.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
        eprintln!("repeat with TALLYD_TEST_SEED={seed}");
        let config = Config {
            cases: ((f64::from(usual) * scale) as u32).max(1),
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed),
            ..Config::default()
        };
        let run = TestRunner::new(config).run(inputs, |input| {
            property(input);
            Ok(())
        });
        run.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

//! Random steps on the store and on a server of paper: the same answers, the same counts.

mod compare;
mod paper;
mod step;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config as Proptest;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tallyd::clock::{Clock, Timestamp};
use tallyd::config::{BackoffPolicy, Config, Policy, QueueConfig};
use tallyd::metrics::Metrics;
use tallyd::store::{JobId, Lease, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bed::{self, BEGIN};
use paper::Paper;
use step::Step;

/// How many cases are tried; `TALLYD_TEST_SCALE` multiplies them.
const CASES: u32 = 2_000;

fn proptest() -> Proptest {
    let scale = std::env::var("TALLYD_TEST_SCALE").ok().and_then(|scale| scale.parse().ok());
    let cases = (f64::from(CASES) * scale.unwrap_or(1.0)).max(1.0);
    Proptest {
        cases: cases as u32,
        max_shrink_iters: 4_000,
        failure_persistence: None, // the smallest case is printed, and the seed would name a path
        ..Proptest::default()
    }
}

prop_state_machine! {
    #![proptest_config(proptest())]

    /// F1, F5, F6: every change by random operations is that of a model on paper, with its counts.
    #[test]
    fn the_store_does_what_the_design_says(sequential 20..40 => OnDisk);
}

/// The pairs that may have counts of their own at first.
const MAX_PAIRS: usize = 4;

struct OnPaper;

impl ReferenceStateMachine for OnPaper {
    type State = Paper;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Paper> {
        Just(Paper::new(BEGIN.0, MAX_PAIRS)).boxed()
    }

    fn transitions(_: &Paper) -> BoxedStrategy<Step> {
        step::any_step()
    }

    fn apply(mut paper: Paper, step: &Step) -> Paper {
        paper.take(step);
        paper
    }
}

/// Where the stores of all cases live, one after the other, and who waits for their answers.
struct Place {
    directory: TempDir,
    runtime: Runtime,
}

thread_local! {
    static PLACE: RefCell<Option<Arc<Place>>> = const { RefCell::new(None) };
}

fn place() -> Arc<Place> {
    PLACE.with_borrow_mut(|place| {
        let new = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            Arc::new(Place { directory: bed::directory(), runtime: runtime.expect("a runtime") })
        };
        place.get_or_insert_with(new).clone()
    })
}

/// The real store, and what is needed to speak of its jobs as the paper does.
struct OnDisk {
    place: Arc<Place>,
    config: Config,
    store: Store,
    metrics: Arc<Metrics>,
    clock: Clock,
    ids: Vec<JobId>,
    leases: Vec<Lease>,
    steps: usize,
}

impl StateMachineTest for OnDisk {
    type SystemUnderTest = Self;
    type Reference = OnPaper;

    fn init_test(_: &Paper) -> Self {
        let place = place();
        let config = config(&place, MAX_PAIRS);
        let other = place.directory.path().join("other.db");
        for file in [&config.data, &other] {
            for suffix in ["", "-wal", "-shm"] {
                drop(std::fs::remove_file(bed::beside(file, suffix))); // it may not be there
            }
        }
        let clock = Clock::manual(BEGIN);
        let (store, metrics) = bed::open(&config, &clock).expect("a new store opens");
        let (ids, leases) = (Vec::new(), Vec::new());
        Self { place, config, store, metrics, clock, ids, leases, steps: 0 }
    }

    fn apply(mut disk: Self, paper: &Paper, step: Step) -> Self {
        let place = disk.place.clone();
        match step {
            Step::Advance(ms) => disk.clock.advance(Duration::from_millis(ms.unsigned_abs())),
            Step::Jump(ms) => disk.clock.jump(Timestamp(disk.clock.now().0 + ms)),
            Step::Restart { crash, max_pairs } => disk.restart(crash, max_pairs),
            step => {
                let answer = place.runtime.block_on(disk.take(step, paper));
                assert_eq!(answer, paper.answer);
            }
        }
        disk.steps += 1;
        disk
    }

    fn check_invariants(disk: &Self, paper: &Paper) {
        assert_eq!(disk.clock.now(), Timestamp(paper.now));
        disk.place.runtime.block_on(async {
            disk.compare_counts(paper).await;
            if disk.steps % 8 == 7 {
                disk.compare_jobs(paper).await;
            }
        });
    }

    fn teardown(disk: Self, paper: Paper) {
        disk.place.runtime.block_on(async {
            disk.compare_jobs(&paper).await;
            disk.store.close().await.expect("it closes");
        });
    }
}

impl OnDisk {
    /// Opens the file again, or what a crash would have left of it.
    fn restart(&mut self, crash: bool, max_pairs: usize) {
        let mut config = config(&self.place, max_pairs);
        config.data.clone_from(&self.config.data);
        if crash {
            let [one, other] =
                ["t.db", "other.db"].map(|name| self.place.directory.path().join(name));
            config.data = if config.data == one { other } else { one };
            bed::copy_store(&self.config.data, &config.data);
        }
        self.place.runtime.block_on(self.store.close()).expect("it closes");
        self.config = config;
        self.clock = Clock::manual(self.clock.now());
        (self.store, self.metrics) = bed::open(&self.config, &self.clock).expect("it opens again");
    }
}

/// The rules of the paper as a configuration.
fn config(place: &Place, max_pairs: usize) -> Config {
    let mut config = bed::config(place.directory.path(), |_| {});
    config.max_pairs = max_pairs;
    config.max_queues = paper::MAX_QUEUES;
    config.defaults = policy("");
    config.queues = paper::CONFIGURED
        .into_iter()
        .map(|name| (name.to_owned(), QueueConfig::leased(policy(name))))
        .collect();
    config.queues.get_mut("main").expect("configured").kinds = vec!["a".to_owned()];
    config
}

fn policy(queue: &str) -> Policy {
    let rules = paper::rules(queue);
    let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    let (initial, factor, longest) = rules.backoff;
    Policy {
        max_attempts: rules.max_attempts,
        timeout: Some(ms(rules.timeout)).filter(|timeout| !timeout.is_zero()),
        lease: ms(rules.lease),
        backoff: BackoffPolicy {
            initial: ms(initial),
            factor: factor as f64,
            max: ms(longest),
            jitter: 0.0,
        },
        keep_completed: ms(rules.keep_completed),
        max_completed: rules.max_completed as u64,
        keep_dead: ms(rules.keep_dead),
        max_dead: rules.max_dead.map(|most| most as u64),
        max_depth: rules.max_depth.map(|most| most as u64),
    }
}

//! What can be done to the server: steps, and how to choose them by chance.

use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const QUEUES: [&str; 4] = ["main", "side", "x", "y"];
pub(crate) const KINDS: [&str; 3] = ["a", "b", "c"];
pub(crate) const KEYS: [&str; 2] = ["k", "l"];

const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;

/// A job to create. Times are milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) queue: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) priority: u8,
    pub(crate) start: When,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) timeout: Option<i64>,
    /// The key, and whether only the end of the job's life frees it, not that of its work.
    pub(crate) unique: Option<(&'static str, bool)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    Now,
    /// So far from now, in either direction.
    At(i64),
    After(i64),
}

/// How a worker says that an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    Completed,
    Failed { permanent: bool, retry_in: i64 },
    TimedOut,
    Released { retry_in: i64 },
}

/// A lease: one of those given out so far, counted from the newest, or one that never was.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LeasePick {
    Given(usize),
    /// With the id of a job, but a secret that nobody gave out.
    Invented(usize),
    /// Of a job that never was.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Act {
    Cancel,
    Requeue,
    Discard,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Create(Spec),
    CreateBatch(Vec<Spec>),
    Claim {
        queues: Vec<&'static str>,
        max: usize,
        duration: Option<i64>,
        own: bool,
    },
    Finish(Vec<(LeasePick, End)>),
    Renew(Vec<LeasePick>, Option<i64>),
    /// On a job counted from the newest.
    Act(usize, Act),
    ActOnMany {
        queue: &'static str,
        act: Act,
        kind: Option<&'static str>,
        age: Option<i64>,
        limit: usize,
    },
    SetPaused(&'static str, bool),
    Forget(&'static str),
    Advance(i64),
    /// The wall clock alone.
    Jump(i64),
    Sweep,
    Restart {
        crash: bool,
        max_pairs: usize,
    },
}

fn spec() -> impl Strategy<Value = Spec> {
    let start = prop_oneof![
        4 => Just(When::Now),
        1 => (-30i64..30).prop_map(|seconds| When::At(seconds * SECOND)),
        1 => (0i64..30).prop_map(|seconds| When::After(seconds * SECOND)),
    ];
    let timeout = prop_oneof![4 => Just(None), 1 => select(vec![Some(0), Some(10 * SECOND)])];
    let unique = prop_oneof![
        2 => Just(None),
        1 => (select(&KEYS[..]), any::<bool>()).prop_map(Some),
    ];
    let max_attempts = prop_oneof![3 => Just(None), 1 => (1u32..3).prop_map(Some)];
    let names = (select(&QUEUES[..]), select(&KINDS[..]), prop_oneof![Just(5u8), 0u8..10]);
    (names, start, max_attempts, timeout, unique).prop_map(
        |((queue, kind, priority), start, max_attempts, timeout, unique)| Spec {
            queue,
            kind,
            priority,
            start,
            max_attempts,
            timeout,
            unique,
        },
    )
}

/// Mostly the newest.
fn recent() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0usize..4, 1 => 0usize..64]
}

fn lease() -> impl Strategy<Value = LeasePick> {
    prop_oneof![
        12 => recent().prop_map(LeasePick::Given),
        1 => recent().prop_map(LeasePick::Invented),
        1 => Just(LeasePick::Unknown),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let wait = || prop_oneof![2 => Just(0), 1 => Just(15 * SECOND)];
    prop_oneof![
        3 => Just(End::Completed),
        4 => wait().prop_map(|retry_in| End::Failed { permanent: false, retry_in }),
        2 => Just(End::Failed { permanent: true, retry_in: 0 }),
        1 => Just(End::TimedOut),
        2 => wait().prop_map(|retry_in| End::Released { retry_in }),
    ]
}

fn claim() -> impl Strategy<Value = Step> {
    let queues =
        prop_oneof![Just(QUEUES.to_vec()), proptest::collection::vec(select(&QUEUES[..]), 1..3),];
    let duration = prop_oneof![2 => Just(None), 1 => (1i64..90).prop_map(|s| Some(s * SECOND))];
    (queues, 1usize..5, duration, any::<bool>())
        .prop_map(|(queues, max, duration, own)| Step::Claim { queues, max, duration, own })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![2 => Just(Act::Cancel), 2 => Just(Act::Requeue), 1 => Just(Act::Discard)]
}

fn act_on_many() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(None), select(&KINDS[..]).prop_map(Some)];
    let age = prop_oneof![2 => Just(None), 1 => (0i64..60).prop_map(|s| Some(s * SECOND))];
    (select(&QUEUES[..]), act(), kind, age, 1usize..4).prop_map(|(queue, act, kind, age, limit)| {
        // Which jobs are cancelled first is nobody's promise.
        let limit = if act == Act::Cancel { 1_000 } else { limit };
        Step::ActOnMany { queue, act, kind, age, limit }
    })
}

thread_local! {
    /// Made once: it is asked for at every step of every case.
    static ANY_STEP: BoxedStrategy<Step> = choose_step();
}

/// Any step; all are possible at any time.
pub(crate) fn any_step() -> BoxedStrategy<Step> {
    ANY_STEP.with(Clone::clone)
}

fn choose_step() -> BoxedStrategy<Step> {
    let renewal = prop_oneof![1 => Just(None), 1 => (1i64..90).prop_map(|s| Some(s * SECOND))];
    prop_oneof![
        10 => spec().prop_map(Step::Create),
        4 => proptest::collection::vec(spec(), 1..5).prop_map(Step::CreateBatch),
        12 => claim(),
        12 => proptest::collection::vec((lease(), end()), 1..4).prop_map(Step::Finish),
        4 => (proptest::collection::vec(lease(), 1..3), renewal)
            .prop_map(|(leases, duration)| Step::Renew(leases, duration)),
        6 => (recent(), act()).prop_map(|(job, act)| Step::Act(job, act)),
        2 => act_on_many(),
        2 => (select(&QUEUES[..]), any::<bool>()).prop_map(|(q, paused)| Step::SetPaused(q, paused)),
        1 => select(&QUEUES[..]).prop_map(Step::Forget),
        6 => (0i64..40).prop_map(|seconds| Step::Advance(seconds * SECOND)),
        1 => select(vec![-DAY, DAY, -40 * SECOND, 40 * SECOND]).prop_map(Step::Jump),
        6 => Just(Step::Sweep),
        2 => (any::<bool>(), 1usize..6)
            .prop_map(|(crash, max_pairs)| Step::Restart { crash, max_pairs }),
    ]
    .boxed()
}

//! Who checkpoints, and when: what it does to the latency of commits and to the size of the WAL.
//!
//! SQLite syncs the database file only in a checkpoint that reaches the end of the WAL. Under load
//! the passes of a thread never do, so all they copied is synced in the writer's tail, unless the
//! thread syncs the file itself.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::store::{Fallible, Layout, MIB, Store, checkpoint, open};
use super::{Request, median, remove};

/// One way to share the checkpoints out.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    /// A thread of its own checkpoints whenever so much was appended; 0 for no thread.
    pass_mib: f64,
    /// The thread syncs the database file after each pass.
    syncs: bool,
    /// How often the thread repeats a pass that left more than 64 KiB behind.
    again: usize,
    /// The writer checkpoints what is left, so that the WAL starts over, from this size of it…
    tail_mib: f64,
    /// … and then only right after a pass of the thread.
    after_pass: bool,
}

const THREAD: Plan = Plan {
    name: "thread, tail at once",
    pass_mib: 4.0,
    syncs: false,
    again: 0,
    tail_mib: 32.0,
    after_pass: false,
};
const AFTER: Plan = Plan { name: "thread, tail after pass", after_pass: true, ..THREAD };
const SYNCS: Plan = Plan { name: "  and thread syncs", syncs: true, ..AFTER };

const PLANS: [Plan; 9] = [
    Plan { name: "writer, 1000 pages", pass_mib: 0.0, tail_mib: 3.9, ..THREAD },
    THREAD,
    AFTER,
    Plan { name: "  of 4 in a row", again: 3, ..AFTER },
    Plan { name: "thread syncs, at once", after_pass: false, ..SYNCS },
    SYNCS,
    Plan { name: "  2 in a row", again: 1, ..SYNCS },
    Plan { name: "  2 in a row, each 1 MiB", again: 1, pass_mib: 1.0, ..SYNCS },
    Plan { name: "  2 in a row, each 16 MiB", again: 1, pass_mib: 16.0, ..SYNCS },
];

/// Whatever the plan, the writer finishes the tail here.
const TAIL_AT_ANY_RATE_MIB: f64 = 48.0;

/// What the writer and the checkpoint thread tell each other.
#[derive(Default)]
struct Shared {
    /// Frames appended since the start.
    appended: AtomicU64,
    /// A pass (or chase) has just ended.
    passed: AtomicBool,
}

/// What one run of a plan showed.
#[derive(Default)]
struct Outcome {
    jobs_per_second: f64,
    commits_ms: Vec<f64>,
    tails_ms: Vec<f64>,
    wal_mib: f64,
}

fn frames(mib: f64) -> u64 {
    (mib * (1 << 20) as f64) as u64 / 4096
}

/// Checkpoints whenever it is asked to, until the writer hangs up.
fn pass(path: &Path, plan: Plan, shared: &Shared, asked: &Receiver<()>) -> Fallible {
    let connection = open(path, &Layout::default())?;
    // Closed last: with it go the locks that this process holds on the file.
    let file = File::open(path)?;
    while asked.recv().is_ok() {
        for _ in 0..=plan.again {
            let before = shared.appended.load(Ordering::Relaxed);
            checkpoint(&connection)?;
            if plan.syncs {
                file.sync_data()?;
            }
            if shared.appended.load(Ordering::Relaxed) - before <= frames(64.0 / 1024.0) {
                break;
            }
        }
        shared.passed.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Inserts for `duration`, `batch` jobs per transaction.
fn write(
    store: &mut Store,
    plan: Plan,
    (shared, ask): (&Shared, &SyncSender<()>),
    batch: usize,
    duration: Duration,
) -> Fallible<Outcome> {
    let mut outcome = Outcome::default();
    let (mut asked_at, mut appended, mut before) = (0, 0, 0);
    let start = Instant::now();
    while start.elapsed() < duration {
        let begun = Instant::now();
        store.insert(batch)?;
        let frames_now = store.frames.load(Ordering::Relaxed);
        appended += frames_now.checked_sub(before).unwrap_or(frames_now);
        before = frames_now;
        shared.appended.store(appended, Ordering::Relaxed);
        if plan.pass_mib > 0.0 && appended - asked_at >= frames(plan.pass_mib) {
            // A full channel means that the thread has been asked already.
            if ask.try_send(()).is_ok() {
                asked_at = appended;
            }
        }
        let is_time = !plan.after_pass || shared.passed.swap(false, Ordering::Relaxed);
        if frames_now >= frames(TAIL_AT_ANY_RATE_MIB)
            || (is_time && frames_now >= frames(plan.tail_mib))
        {
            let tail = Instant::now();
            checkpoint(&store.connection)?;
            outcome.tails_ms.push(tail.elapsed().as_secs_f64() * 1e3);
        }
        outcome.commits_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        outcome.wal_mib = outcome.wal_mib.max(frames_now as f64 * 4096.0 / MIB as f64);
    }
    let jobs = outcome.commits_ms.len() * batch;
    outcome.jobs_per_second = jobs as f64 / start.elapsed().as_secs_f64();
    Ok(outcome)
}

fn measure(path: &Path, plan: Plan, batch: usize, duration: Duration) -> Fallible<Outcome> {
    let mut store = Store::create(path, &Layout::default(), 200)?;
    store.checkpoint_frames = u64::MAX;
    let shared = Shared::default();
    let (ask, asked) = sync_channel(1);
    let outcome = thread::scope(|scope| {
        let shared = &shared;
        let passes = scope.spawn(move || pass(path, plan, shared, &asked).expect("a pass"));
        let outcome = write(&mut store, plan, (shared, &ask), batch, duration);
        drop(ask);
        passes.join().expect("passes do not panic");
        outcome
    });
    remove(path);
    outcome
}

/// The value below which `share` of the sorted `values` lie.
fn quantile(values: &[f64], share: f64) -> f64 {
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Runs every plan in turns; here `JOBS` is how many milliseconds a turn takes.
pub(crate) fn run(request: &Request) -> Fallible {
    let duration = Duration::from_millis(request.jobs as u64);
    let path = request.directory.path().join("c.db");
    for batch in [13, 100] {
        let mut outcomes: Vec<Vec<Outcome>> = PLANS.iter().map(|_| Vec::new()).collect();
        for _ in 0..request.rounds {
            for (plan, outcomes) in PLANS.iter().zip(&mut outcomes) {
                outcomes.push(measure(&path, *plan, batch, duration)?);
            }
        }
        println!("\ncreates of 200 bytes, {batch} a transaction; commits and tails in ms");
        println!(
            "{:26} {:>8} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>6} {:>8}",
            "", "jobs/s", "p50", "p99", "p99.9", "max", "WAL", "tails", "median", "longest"
        );
        for (plan, outcomes) in PLANS.iter().zip(outcomes) {
            print(plan, outcomes);
        }
    }
    Ok(())
}

/// One line: the median of each figure over the rounds.
fn print(plan: &Plan, mut outcomes: Vec<Outcome>) {
    for outcome in &mut outcomes {
        outcome.commits_ms.sort_by(f64::total_cmp);
        outcome.tails_ms.sort_by(f64::total_cmp);
    }
    let over = |figure: &dyn Fn(&Outcome) -> f64| median(outcomes.iter().map(figure).collect());
    let commit = |share| over(&|outcome| quantile(&outcome.commits_ms, share));
    let tail = |share| {
        over(&|outcome| match outcome.tails_ms.as_slice() {
            [] => 0.0,
            tails => quantile(tails, share),
        })
    };
    println!(
        "{:26} {:>8.0} {:>6.2} {:>6.2} {:>6.1} {:>6.0} {:>6.1} {:>7} {:>6.1} {:>8.1}",
        plan.name,
        over(&|outcome| outcome.jobs_per_second),
        commit(0.5),
        commit(0.99),
        commit(0.999),
        commit(1.0),
        over(&|outcome| outcome.wal_mib),
        over(&|outcome| outcome.tails_ms.len() as f64),
        tail(0.5),
        tail(1.0),
    );
}

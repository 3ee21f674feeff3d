//! A kill at the Nth write or sync of one operation: what its callers were told holds, whatever was
//! written by then. The usual run draws some N by lot; by hand each is tried.

mod answers;
mod steps;

use std::collections::BTreeMap;
use std::mem::replace;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use self::steps::Step;
use crate::crash::{Client, judge, note_kill, seed};
use crate::fixture::{Daemon, ended_by, scaled};
use crate::journal::Journal;
use crate::oracle::Run;
use crate::restart::restart_for;
use crate::strace::{Attached, attach, attach_to_thread};

/// Queues for outside workers, one of which keeps little; one whose commands report what they do,
/// and take a moment; and a drain that waits for them, but not for long.
const CONFIG: &str = r#"
drain_timeout = "200ms"

[defaults]
max_attempts = 4
max_completed = 1_000_000_000
timeout = "0s"
backoff = { initial = "1ms", max = "50ms" }

[queues.outside]
lease = "10m"

[queues.brief]
lease = "1s"

[queues.kept]
lease = "10m"
max_completed = 2

[queues.work]
concurrency = 8
exec = { command = ["/bin/sh", "-c", '''
    echo "started $TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs
    read -r payload
    case "$payload" in *long*) sleep 100;; *) sleep 0.1;; esac
    echo "worked $TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs''', "work"] }
"#;

const STORE: &str = "tallyd.db";
const LOG: &str = "tallyd.db-wal";
const WRITES: &str = "pwrite64";
const SYNCS: &str = "fdatasync,fsync";
const CUTS: &str = "ftruncate,unlink";

/// How many kills there are at the calls of one sort, if they are not all tried.
const KILLS: u32 = 6;

/// From this scale on all are tried.
const ALL_AT: u32 = 10;

/// How often a call is waited for then, which does not come each time.
const TRIES_OF_ALL: u32 = 5;

/// How many kills a store takes before it is judged: one may leave megabytes of jobs.
const KILLS_OF_A_STORE: u32 = 100;

/// Calls on one file, and which of them a thread does not survive; none only counts.
struct Place {
    calls: &'static str,
    file: &'static str,
    number: Option<u32>,
}

/// Traces a daemon that runs already, and its syncs in any case: they tell when a checkpoint ends.
fn watch(daemon: &Daemon, step: Step, place: &Place) -> Attached {
    let Place { calls, file, number } = place;
    let inject = number.map(|number| format!("inject={calls}:signal=KILL:when={number}"));
    let (calls, inject) = (format!("trace={calls},{SYNCS}"), inject.as_deref());
    match step.thread() {
        Some(thread) => attach_to_thread(daemon, thread, &calls, inject, &[file]),
        None => attach(daemon, &calls, inject, &[file]),
    }
}

/// The most of these calls that one thread has made, as far as they were traced.
fn counted(daemon: &Daemon, calls: &str) -> u32 {
    let trace = std::fs::read_to_string(daemon.path("trace.log")).expect("it was traced");
    let is_call = |line: &&str| calls.split(',').any(|call| line.contains(&format!(" {call}(")));
    let mut by_thread = BTreeMap::new();
    for line in trace.lines().filter(is_call) {
        let thread = line.split(' ').next().expect("a line begins with its thread");
        *by_thread.entry(thread).or_insert(0) += 1;
    }
    by_thread.into_values().max().unwrap_or(0)
}

/// One store, whose daemon is killed again and again.
struct Victim {
    daemon: Daemon,
    journal: Arc<Journal>,
    random: StdRng,
    kills: u32,
}

impl Victim {
    fn new(random: StdRng) -> Self {
        let daemon = Daemon::prepare(CONFIG);
        let journal = Arc::new(Journal::new(&daemon.path("clients.log")));
        Self { daemon, journal, random, kills: 0 }
    }

    /// Starts the daemon and has it take the step, in which it may be killed; whether it was.
    async fn take(&mut self, step: Step, place: &Place) -> bool {
        let Self { daemon, journal, random, .. } = self;
        restart_for(daemon, journal).await;
        let mut client = Client::new(journal, daemon, random.random());
        let ready = step.prepare(&mut client, daemon).await.expect("nobody kills it yet");
        let strace = watch(daemon, step, place);
        journal.let_end(true);
        let lived = step.take(&mut client, daemon, ready).await.is_ok();
        if lived && step != Step::Drain {
            daemon.signal(Signal::KILL);
        }
        let status = daemon.wait();
        // It would wait for what a killed daemon has left running.
        drop(strace);
        let was_killed = ended_by(status, Signal::KILL);
        assert!(was_killed || step == Step::Drain && status.success(), "{status}");
        note_kill(daemon);
        if step == Step::Drain { was_killed } else { !lived }
    }

    /// Kills at calls on a file in this step: at some by lot, or at all.
    async fn kill_at(&mut self, step: Step, calls: &'static str, file: &'static str) {
        let most = match step.calls(calls) {
            Some(known) => known,
            None => {
                self.take(step, &Place { calls, file, number: None }).await;
                counted(&self.daemon, calls)
            }
        };
        assert!(most > 0, "{step:?} makes no {calls} on {file}");
        // The log takes seconds to become that long.
        let usual = if step == Step::Rest { KILLS / 2 } else { KILLS };
        let tries_all = scaled(1) >= ALL_AT;
        let tried = if tries_all { most } else { scaled(usual).min(most) };
        let tries = if tries_all { TRIES_OF_ALL } else { step.tries() };
        let numbers = sample(&mut self.random, most as usize, tried as usize);
        let numbers: Vec<u32> = numbers.into_iter().map(|number| number as u32 + 1).collect();
        let mut kills = 0;
        for number in &numbers {
            let place = Place { calls, file, number: Some(*number) };
            for _ in 0..tries {
                if self.take(step, &place).await {
                    kills += 1;
                    self.kills += 1;
                    break;
                }
            }
            if self.kills == KILLS_OF_A_STORE {
                let next = Self::new(StdRng::from_rng(&mut self.random));
                replace(self, next).judge().await;
            }
        }
        eprintln!("{step:?}: {kills} kills at {calls} of {file}, of {most}: {numbers:?}");
        // What a step does is not the same each time: the last of its calls may not come, and the few
        // that are drawn may be among them.
        let enough = if tries_all { tried - tried / 5 } else { tried.div_ceil(2) };
        assert!(kills >= enough, "{step:?}: {kills} kills of {tried} at {calls} of {file}");
    }

    async fn judge(mut self) {
        let reported = self.daemon.path("runs");
        let runs = || if reported.exists() { Run::read(&reported) } else { Vec::new() };
        judge(&mut self.daemon, &self.journal, runs).await;
    }
}

/// Kills at some or all of these calls in a step, and has the store judged.
async fn check(step: Step, places: &[(&'static str, &'static str)]) {
    let mut victim = Victim::new(StdRng::seed_from_u64(seed()));
    for (calls, file) in places {
        victim.kill_at(step, calls, file).await;
    }
    victim.judge().await;
}

/// F6, F19: a create is counted with its job or not at all, and its caller may repeat it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_create_loses_nothing() {
    check(Step::Create, &[(WRITES, LOG), (SYNCS, LOG)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_claim_loses_nothing() {
    check(Step::Claim, &[(WRITES, LOG), (SYNCS, LOG)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_finish_loses_nothing() {
    check(Step::Finish, &[(WRITES, LOG), (SYNCS, LOG)]).await;
}

/// F1, F5: an expiry and a prune happen with all that belongs to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_sweep_loses_nothing() {
    check(Step::Sweep, &[(WRITES, LOG), (SYNCS, LOG)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_checkpoint_loses_nothing() {
    let places = [(WRITES, STORE), (SYNCS, STORE), (WRITES, LOG), (SYNCS, LOG)];
    check(Step::Checkpoint, &places).await;
}

/// The writer copies what the thread has left, and the log begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_the_writers_own_checkpoint_loses_nothing() {
    check(Step::Rest, &[(WRITES, STORE), (SYNCS, STORE)]).await;
}

/// F8: a shutdown may be cut off anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_drain_loses_nothing() {
    let places = [(WRITES, LOG), (SYNCS, LOG), (WRITES, STORE), (SYNCS, STORE), (CUTS, LOG)];
    check(Step::Drain, &places).await;
}

#[test]
fn a_strace_ends_with_a_test_that_panics() {
    let daemon = Daemon::start("");
    let status = format!("/proc/{}/status", daemon.pid().as_raw_nonzero());
    let is_traced = || {
        let status = std::fs::read_to_string(&status).expect("the daemon runs");
        !status.lines().any(|line| line == "TracerPid:\t0")
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _strace = attach(&daemon, "trace=none", None, &[]);
        assert!(!is_traced(), "it is, and so this fails");
    }));
    assert!(panicked.is_err() && !is_traced());
}

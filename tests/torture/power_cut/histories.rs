//! Short lives of a real store, recorded.

use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use tallyd::clock::{Clock, Timestamp};
use tallyd::config::{BackoffPolicy, Config, Policy, QueueConfig};
use tallyd::metrics::{Metrics, Snapshot};
use tallyd::tally::Count;
use tokio::runtime::Runtime;

use super::clients::{Clients, MANY};
use super::recording::{Cut, History, Recording};
use crate::bed::{self, BEGIN};
use crate::oracle::Entry;

/// How long a job waits after a failure: the clock moves on by so much in a few sweeps.
const BACKOFF: std::time::Duration = std::time::Duration::from_secs(1);

/// How often the rounds of a load are repeated at most: far more than it takes.
const MOST_RUNS: usize = 50;

/// What never goes back.
const NEVER_LESS: [Count; 14] = [
    Count::Created,
    Count::Completed,
    Count::Cancelled,
    Count::Discarded,
    Count::Retried,
    Count::Died,
    Count::Requeued,
    Count::Started,
    Count::EndedCompleted,
    Count::EndedFailed,
    Count::EndedTimedOut,
    Count::EndedLeaseExpired,
    Count::EndedReleased,
    Count::EndedCancelled,
];

/// The configuration of a store in this directory: more pairs than have a row of their own, and a
/// queue that keeps one dead job.
pub fn config(directory: &Path) -> Config {
    bed::config(directory, |config| {
        let backoff = BackoffPolicy { initial: BACKOFF, ..config.defaults.backoff };
        let policy = Policy { max_attempts: 3, timeout: None, backoff, ..config.defaults.clone() };
        let short = Policy { max_dead: Some(1), ..policy.clone() };
        config.max_pairs = 4;
        config.defaults = policy.clone();
        let queues = ["a", "brief", "own", MANY[0], MANY[1]].map(|name| (name, &policy));
        let queue = |(name, policy): (&str, &Policy)| {
            (name.to_owned(), QueueConfig::leased(policy.clone()))
        };
        config.queues = queues.into_iter().chain([("short", &short)]).map(queue).collect();
    })
}

/// What a scrape shows of what never goes back.
pub fn cut(snapshot: &Snapshot) -> Cut {
    let counts = snapshot.rows.iter().map(|row| {
        let pair = (row.queue.to_string(), row.kind.to_string());
        (pair, NEVER_LESS.map(|count| row.counts[count]).to_vec())
    });
    counts.collect()
}

/// What the world knows at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Before<'h> {
    pub entries: &'h [Entry],
    pub cut: Option<&'h Cut>,
    pub now: Timestamp,
}

impl Default for Before<'_> {
    fn default() -> Self {
        Self { entries: &[], cut: None, now: BEGIN }
    }
}

/// How much is done in a history.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How often each caller does what it does.
    pub rounds: usize,
    /// How many bytes the text of a failure has.
    pub error_bytes: usize,
    /// Whether callers then make the log long, and wait until the store's thread has copied it.
    pub waits_for_copy: bool,
    /// How often the log must have begun at its start; if need be there are more rounds.
    pub log_begins: usize,
}

/// Opens a store, has it used by callers who know what was before, and closes it; all of that is
/// recorded.
pub fn record(
    recording: &Arc<Recording>,
    config: &Config,
    before: Before<'_>,
    load: Load,
    runtime: &Runtime,
    random: &mut StdRng,
) -> History {
    let clock = Clock::manual(before.now);
    before.entries.iter().for_each(|entry| recording.note(before.now, entry.clone()));
    before.cut.into_iter().for_each(|cut| recording.note_cut(cut.clone()));
    let note = |entry| recording.note(clock.now(), entry);
    runtime.block_on(async {
        let (store, metrics) = bed::open(config, &clock).expect("it opens");
        scrape_at_each_sync(recording, metrics);
        let clients = Clients::new(&store, &clock, &note, before.entries, load.error_bytes);
        clients.settle(before.entries).await;
        let has_begun = || recording.so_far(|history| history.begins_of_log().len());
        if load.waits_for_copy {
            clients.run(load.rounds, random).await;
            clients.fill_log(|| recording.so_far(History::is_log_long)).await;
            recording.wait_until(History::is_log_copied);
        }
        for _ in 0..MOST_RUNS {
            clients.run(load.rounds, random).await;
            if has_begun() >= load.log_begins {
                break;
            }
        }
        assert!(has_begun() >= load.log_begins, "the log does not begin anew");
        store.close().await.expect("it closes");
    });
    recording.end()
}

/// What a scrape showed before a sync must be there if the sync never came. And callers get a
/// chance to be answered before it.
fn scrape_at_each_sync(recording: &Arc<Recording>, metrics: Arc<Metrics>) {
    let weak = Arc::downgrade(recording);
    recording.set_before_sync(move || {
        let Some(recording) = weak.upgrade() else { return };
        recording.note_cut(cut(&metrics.snapshot()));
        (0..3).for_each(|_| std::thread::yield_now());
    });
}

impl History {
    /// What the world knows at a moment.
    pub fn before(&self, moment: usize) -> Before<'_> {
        let told = self.times.partition_point(|time| time.after <= moment);
        let shown = self.cuts.partition_point(|cut| cut.after <= moment);
        Before {
            entries: &self.entries[..told],
            cut: self.cuts[..shown].last().map(|cut| &cut.told),
            now: self.times[..told].last().map_or(BEGIN, |time| time.told),
        }
    }
}

//! Short lives of a real store, recorded, and where in them the power may be cut.

use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use tallyd::clock::{Clock, Timestamp};
use tallyd::config::{BackoffPolicy, Config, Policy, QueueConfig};
use tallyd::metrics::{Metrics, Snapshot};
use tallyd::tally::Count;
use tokio::runtime::Runtime;

use super::clients::{Clients, MANY};
use super::recording::{Cut, Event, History, Recording};
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
    /// How often the log must have begun at its start; if need be there are more rounds.
    pub log_begins: usize,
}

/// Opens a store, has it used by callers who know what was before, and closes it.
pub fn record(
    config: &Config,
    before: Before<'_>,
    load: Load,
    runtime: &Runtime,
    random: &mut StdRng,
) -> History {
    let recording = Recording::begin(config.data.parent().expect("it is in a directory"));
    let clock = Clock::manual(before.now);
    before.entries.iter().for_each(|entry| recording.note(before.now, entry.clone()));
    before.cut.into_iter().for_each(|cut| recording.note_cut(cut.clone()));
    let note = |entry| recording.note(clock.now(), entry);
    runtime.block_on(async {
        let (store, metrics) = bed::open(config, &clock).expect("it opens");
        scrape_at_each_sync(&recording, metrics);
        let clients = Clients::new(&store, &clock, &note, before.entries, load.error_bytes);
        clients.settle(before.entries).await;
        let has_begun = || recording.so_far(|history| history.begins_of_log().len());
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
    /// Moments at which the power may be cut, as numbers of events that have happened: before,
    /// after and between syncs, in order. Each sync has its turn.
    pub fn moments(&self, number: usize, random: &mut StdRng) -> Vec<usize> {
        let is_sync = |(_, event): &(usize, &Event)| {
            matches!(event, Event::Synced { .. } | Event::Deleted { durably: true, .. })
        };
        let events = self.events.iter().enumerate();
        let mut syncs: Vec<usize> = events.filter(is_sync).map(|(index, _)| index).collect();
        syncs.push(self.events.len());
        let number = number.max(syncs.len());
        let mut moments: Vec<usize> = (0..number)
            .map(|turn| {
                let index = turn * syncs.len() / number;
                let last = if index == 0 { 0 } else { syncs[index - 1] + 1 };
                let is_first = turn == 0 || (turn - 1) * syncs.len() / number < index;
                match random.random_range(0..10) {
                    _ if is_first => syncs[index],
                    0..=3 => syncs[index],
                    4 | 5 => last,
                    _ => random.random_range(last..=syncs[index]),
                }
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// Moments at which the log is copied into the database or begins anew, in order.
    pub fn moments_of_copying(&self, number: usize, random: &mut StdRng) -> Vec<usize> {
        let database = self.numbers_of("t.db");
        let begins = self.begins_of_log();
        let is_copied = |index: &usize| match &self.events[*index] {
            Event::Wrote { file, .. } | Event::Synced { file, .. } => database.contains(file),
            _ => false,
        };
        let copied = (0..self.events.len()).filter(is_copied);
        let begun = begins.iter().flat_map(|begin| *begin..(begin + 50).min(self.events.len()));
        let of_interest: Vec<usize> = copied.chain(begun).collect();
        let mut moments: Vec<usize> =
            (0..number).map(|_| of_interest[random.random_range(0..of_interest.len())]).collect();
        moments.sort_unstable();
        moments
    }

    /// Where the log begins at its start, the first time and again.
    pub fn begins_of_log(&self) -> Vec<usize> {
        let logs = self.numbers_of("t.db-wal");
        let is_begin = |(_, event): &(usize, &Event)| match event {
            Event::Wrote { file, offset, .. } => *offset == 0 && logs.contains(file),
            _ => false,
        };
        self.events.iter().enumerate().filter(is_begin).map(|(index, _)| index).collect()
    }

    /// The files that ever had this name.
    fn numbers_of(&self, name: &str) -> Vec<usize> {
        let created = self.events.iter().filter_map(|event| match event {
            Event::Created { name } => Some(name),
            _ => None,
        });
        let names = self.files.iter().map(|(name, _)| name).chain(created);
        names.enumerate().filter(|(_, other)| *other == name).map(|(number, _)| number).collect()
    }

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

//! The judge of tests that break things: what clients were told against what is stored afterwards.

mod bounds;
mod final_state;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::bounds::{LENIENCE, late_recoveries, most_until_claimable};
pub use self::runs::{Run, overlaps};
use crate::fixture::Scrape;
use crate::stored::{Job, Stored};

/// The store counts a lease by whole milliseconds, so it may last this much less than it says.
const TICK: Duration = Duration::from_millis(1);

/// What a client was about to do, or was told; in the order of one journal. Times are those of one
/// monotonic clock.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Asks for jobs with these marks: all or none of them. With a unique key it may ask again.
    Creating { marks: Vec<u64>, unique: bool },
    /// Was told that the job with this mark exists.
    Created { mark: u64, id: String },
    /// Was given an attempt, which was asked for and came at these times. Of a brief lease, which
    /// may run out before its end is reported, the duration. Its payload told the mark.
    Leased {
        id: String,
        mark: u64,
        attempt: u64,
        lease: String,
        brief: Option<Duration>,
        asked_at: Duration,
        at: Duration,
    },
    /// Asks for more time.
    Renewing { lease: String, at: Duration },
    /// Was told whether there is more.
    Renewed { lease: String, answer: String, at: Duration },
    /// Reports the end of an attempt.
    Ending { lease: String, outcome: &'static str },
    /// Was told what became of that report.
    Ended { lease: String, outcome: &'static str, answer: String, at: Duration },
    /// Asks for a cancel.
    Cancelling { id: String },
    /// Was told that the job is cancelled.
    Cancelled { id: String },
    /// Was told that a dead job is put back, after so many attempts.
    Requeued { id: String, attempt: u64 },
    /// Asks for a dead job to be removed; of one whose create was never answered, its payload told
    /// the mark.
    Discarding { mark: u64 },
    /// Was told that it is.
    Discarded { id: String },
    /// Was told that it is there and not dead, or gone.
    DiscardRefused { mark: u64 },
    /// Asks for one thing to happen to many jobs of a queue and kind, at most to so many.
    AskingMany { action: Many, queue: &'static str, kind: &'static str, most: u64 },
    /// Was told to how many of at most so many it did.
    ToldMany { action: Many, count: u64, most: u64 },
}

/// What an operator may have happen to many jobs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Many {
    Cancel,
    Requeue,
    Discard,
}

/// What operators asked for and were told, of one action.
#[derive(Default)]
struct OfMany<'j> {
    /// Queues and kinds it was asked for.
    asked: BTreeSet<(&'j str, &'j str)>,
    /// How many jobs it happened to, as far as was told.
    told: u64,
    /// How many they may be, with those that were not told.
    most: u64,
}

/// An attempt that a client was given.
struct Given<'j> {
    id: &'j str,
    mark: u64,
    attempt: u64,
    brief: Option<Duration>,
    /// Until when the lease stands for certain, unless its end is reported; of brief leases only.
    held_until: Duration,
    /// When the last renewal was asked for.
    renewing_at: Duration,
    /// How often its end was reported.
    endings: u32,
    /// Whether a later attempt had been given out when the last report or renewal was sent.
    is_stale: bool,
    /// The outcome that was acknowledged.
    acknowledged: Option<&'static str>,
}

/// Everything that the clients of one store know, by what it is about.
#[derive(Default)]
struct Known<'j> {
    /// Marks asked for, in groups that exist together or not at all; and whether with a key.
    groups: Vec<(&'j [u64], bool)>,
    created: BTreeMap<u64, BTreeSet<&'j str>>,
    /// By lease.
    given: BTreeMap<&'j str, Given<'j>>,
    /// The lease of the last attempt of each job.
    last: BTreeMap<&'j str, &'j str>,
    /// Leases whose completion was asked for.
    completing: BTreeSet<&'j str>,
    cancelling: BTreeSet<&'j str>,
    /// Jobs of which somebody was told so, whoever cancelled them.
    cancelled: BTreeSet<&'j str>,
    /// How often a cancel of one job was acknowledged.
    cancels: u64,
    /// Jobs that were put back, and after how many attempts the last time.
    requeued: BTreeMap<&'j str, u64>,
    /// How often that was acknowledged.
    requeues: u64,
    discarding: BTreeSet<u64>,
    discarded: BTreeSet<&'j str>,
    /// Marks of jobs of which a client was given an attempt.
    begun: BTreeSet<u64>,
    /// Marks of jobs whose completion was asked for.
    ending: BTreeSet<u64>,
    many: BTreeMap<Many, OfMany<'j>>,
    /// Attempts whose completion was repeated and found nothing: only a prune explains that.
    gone: Vec<(&'j str, u64)>,
    wrong: Vec<String>,
}

/// What is wrong with a store, one line each. `runs` is what commands reported.
pub fn violations<'j>(
    journal: impl IntoIterator<Item = &'j Entry>,
    runs: &[Run],
    stored: &Stored,
) -> Vec<String> {
    let mut known = Known::default();
    journal.into_iter().for_each(|entry| known.take_in(entry));
    let mut wrong = std::mem::take(&mut known.wrong);
    wrong.extend(final_state::wrong(&known, runs, stored));
    wrong.extend(runs::overlaps(runs));
    wrong.extend(stored.wrong_counts());
    wrong.extend(stored.integrity.iter().map(|text| format!("integrity check: {text}")));
    wrong
}

impl<'j> Known<'j> {
    fn take_in(&mut self, entry: &'j Entry) {
        match entry {
            Entry::Creating { marks, unique } => self.groups.push((marks, *unique)),
            Entry::Created { mark, id } => {
                self.created.entry(*mark).or_default().insert(id);
            }
            Entry::Leased { id, mark, attempt, lease, brief, asked_at, at } => {
                self.check_overlap(id, *attempt, *at);
                let held_until = *asked_at + brief.unwrap_or_default();
                let given = Given::new(id, *mark, *attempt);
                self.give(lease, Given { held_until, brief: *brief, ..given });
            }
            Entry::Renewing { lease, at } => self.sent(lease).renewing_at = *at,
            Entry::Renewed { lease, answer, at } => self.check_renewal(lease, answer, *at),
            Entry::Ending { lease, outcome } => {
                self.sent(lease).endings += 1;
                if *outcome == "completed" {
                    self.completing.insert(lease);
                    self.ending.insert(self.given[&**lease].mark);
                }
            }
            Entry::Ended { lease, outcome, answer, at } => {
                self.check_end(lease, outcome, answer, *at);
            }
            Entry::Cancelling { id } => drop(self.cancelling.insert(id)),
            Entry::Cancelled { id } => {
                self.cancelled.insert(id);
                self.cancels += 1;
            }
            Entry::Requeued { id, attempt } => {
                self.requeued.insert(id, *attempt);
                self.requeues += 1;
            }
            Entry::Discarding { mark } => drop(self.discarding.insert(*mark)),
            Entry::Discarded { id } => drop(self.discarded.insert(id)),
            Entry::DiscardRefused { mark } => drop(self.discarding.remove(mark)),
            Entry::AskingMany { action, queue, kind, most } => {
                let many = self.many.entry(*action).or_default();
                many.asked.insert((queue, kind));
                many.most += most;
            }
            Entry::ToldMany { action, count, most } => {
                let many = self.many.entry(*action).or_default();
                many.told += count;
                many.most = many.most - most + count;
                if count > most {
                    self.wrong.push(format!("{action:?} of at most {most} jobs took {count}"));
                }
            }
        }
    }

    /// Whether a cancel of this job was asked for, or may have been with many others.
    fn may_be_cancelled(&self, id: &str) -> bool {
        self.cancelling.contains(id) || self.many.contains_key(&Many::Cancel)
    }

    fn give(&mut self, lease: &'j str, given: Given<'j>) {
        let Given { id, attempt, mark, .. } = given;
        self.begun.insert(mark);
        if self.given.insert(lease, given).is_some() {
            self.wrong.push(format!("a lease on {id} was given out twice"));
        }
        let last = self.last.entry(id).or_insert(lease);
        if self.given[*last].attempt < attempt {
            *last = lease;
        }
    }

    /// An earlier attempt must have been ended by its holder, unless its lease may have run out.
    fn check_overlap(&mut self, id: &str, attempt: u64, at: Duration) {
        let Some(lease) = self.last.get(id) else { return };
        let last = &self.given[lease];
        let earlier = last.attempt;
        if earlier >= attempt && last.brief.is_none() {
            let text = format!("attempt {attempt} of {id} given out after {earlier}");
            self.wrong.push(text);
        } else if earlier < attempt && last.endings == 0 && last.stands(at) {
            let text = format!("attempt {attempt} of {id} overlaps {earlier}, never ended");
            self.wrong.push(text);
        }
    }

    /// The attempt about which something is sent now.
    fn sent(&mut self, lease: &str) -> &mut Given<'j> {
        let id = self.given[lease].id;
        let last = self.given[self.last[id]].attempt;
        let given = self.given.get_mut(lease).expect("it was given out");
        given.is_stale = last > given.attempt;
        given
    }

    fn check_end(&mut self, lease: &str, outcome: &'static str, answer: &str, at: Duration) {
        let may_be_cancelled = self.may_be_cancelled(self.given[lease].id);
        let given = self.given.get_mut(lease).expect("it was given out");
        let is_explained = match answer {
            "ok" => !given.is_stale,
            "cancelled" => !given.is_stale && may_be_cancelled,
            // A repeated failure or release may find the job in other hands already.
            "lease_lost" if outcome == "completed" && given.stands(at) => {
                self.gone.push((given.id, given.attempt));
                given.endings > 1
            }
            "lease_lost" => given.endings > 1 || !given.stands(at),
            _ => false,
        };
        if !is_explained {
            let text = format!("{outcome} of {} attempt {}: {answer}", given.id, given.attempt);
            self.wrong.push(text);
        }
        match answer {
            "ok" => given.acknowledged = Some(outcome),
            "cancelled" => drop(self.cancelled.insert(given.id)),
            _ => {}
        }
    }

    fn check_renewal(&mut self, lease: &str, answer: &str, at: Duration) {
        let may_be_cancelled = self.may_be_cancelled(self.given[lease].id);
        let given = self.given.get_mut(lease).expect("it was given out");
        let is_explained = match answer {
            "ok" => !given.is_stale && given.acknowledged.is_none(),
            "cancelled" => !given.is_stale && may_be_cancelled,
            "lease_lost" => given.endings > 0 || !given.stands(at),
            _ => false,
        };
        if !is_explained {
            let text = format!("renewal of {} attempt {}: {answer}", given.id, given.attempt);
            self.wrong.push(text);
        }
        let renewed_until = given.renewing_at + given.brief.unwrap_or_default();
        match answer {
            "ok" => given.held_until = given.held_until.max(renewed_until),
            "cancelled" => drop(self.cancelled.insert(given.id)),
            _ => {}
        }
    }
}

impl<'j> Given<'j> {
    fn new(id: &'j str, mark: u64, attempt: u64) -> Self {
        Self {
            id,
            mark,
            attempt,
            brief: None,
            held_until: Duration::ZERO,
            renewing_at: Duration::ZERO,
            endings: 0,
            is_stale: false,
            acknowledged: None,
        }
    }

    /// Whether the lease, if nobody ended it, stands for certain at this time.
    fn stands(&self, at: Duration) -> bool {
        self.brief.is_none() || at + TICK < self.held_until
    }

    /// Whether the completion was acknowledged.
    fn is_completed(&self) -> bool {
        self.acknowledged == Some("completed")
    }
}

/// The scrapes of one store, across its restarts, one after the other.
#[derive(Default)]
pub struct Scrapes {
    last: Option<Scrape>,
    pub seen: u64,
    pub wrong: Vec<String>,
}

impl Scrapes {
    /// Takes in the next scrape.
    pub fn see(&mut self, scrape: Scrape) {
        self.wrong.extend(scrape.broken_identities());
        let mismatch = scrape.value("tallyd_tally_mismatch");
        if mismatch != 0.0 {
            self.wrong.push(format!("a recount differs by {mismatch}"));
        }
        self.wrong.extend(bounds::exceeded(&scrape));
        if let Some(last) = &self.last {
            self.wrong.extend(scrape.went_back_from(last));
        }
        self.last = Some(scrape);
        self.seen += 1;
    }
}

#[cfg(test)]
mod tests;

//! The judge of tests that break things: what clients were told against what is stored afterwards.

mod stored;

use std::collections::{BTreeMap, BTreeSet};

use crate::fixture::Scrape;

pub use self::stored::{Job, Stored, identity_of_store};

/// What a client was about to do, or was told; in the order of one journal.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Asks for jobs with these marks: all or none of them. With a unique key it may ask again.
    Creating { marks: Vec<u64>, unique: bool },
    /// Was told that the job with this mark exists.
    Created { mark: u64, id: String },
    /// Was given an attempt. Whether its lease may run out before its end is reported.
    Leased { id: String, attempt: u64, lease: String, brief: bool },
    /// Reports the end of an attempt.
    Ending { lease: String, outcome: &'static str },
    /// Was told what became of that report.
    Ended { lease: String, outcome: &'static str, answer: String },
    /// Asks for a cancel.
    Cancelling { id: String },
    /// Was told that the job is cancelled.
    Cancelled { id: String },
    /// Asks for a dead job to be removed; of one whose create was never answered, its payload told
    /// the mark.
    Discarding { mark: u64 },
    /// Was told that it is.
    Discarded { id: String },
}

/// An attempt that a client was given.
struct Given<'j> {
    id: &'j str,
    attempt: u64,
    brief: bool,
}

/// Everything that the clients of one store know, by what it is about.
#[derive(Default)]
struct Known<'j> {
    /// Marks asked for, in groups that exist together or not at all; and whether with a key.
    groups: Vec<(&'j [u64], bool)>,
    created: BTreeMap<u64, BTreeSet<&'j str>>,
    given: BTreeMap<&'j str, Given<'j>>,
    /// Leases whose completion was asked for, and those where it was acknowledged.
    completing: BTreeSet<&'j str>,
    completed: BTreeSet<&'j str>,
    cancelling: BTreeSet<&'j str>,
    cancelled: BTreeSet<&'j str>,
    discarding: BTreeSet<u64>,
    discarded: BTreeSet<&'j str>,
    wrong: Vec<String>,
}

/// What is wrong with a store, one line each. `runs` are the attempts that commands reported.
pub fn violations(journal: &[Entry], runs: &[(String, u64)], stored: &Stored) -> Vec<String> {
    let mut known = Known::default();
    let mut ended = BTreeSet::new();
    for entry in journal {
        known.take_in(entry, &mut ended);
    }
    let mut wrong = std::mem::take(&mut known.wrong);
    wrong.extend(wrong_creates(&known, stored));
    wrong.extend(wrong_ends(&known, runs, stored));
    wrong.extend(wrong_attempts(&known, runs, stored));
    wrong.extend(stored.wrong_counts());
    wrong.extend(stored.integrity.iter().map(|text| format!("integrity check: {text}")));
    wrong
}

impl<'j> Known<'j> {
    fn take_in(&mut self, entry: &'j Entry, ended: &mut BTreeSet<&'j str>) {
        match entry {
            Entry::Creating { marks, unique } => self.groups.push((marks, *unique)),
            Entry::Created { mark, id } => {
                self.created.entry(*mark).or_default().insert(id);
            }
            Entry::Leased { id, attempt, lease, brief } => {
                self.check_overlap(id, *attempt, ended);
                let given = Given { id, attempt: *attempt, brief: *brief };
                if self.given.insert(lease, given).is_some() {
                    self.wrong.push(format!("a lease on {id} was given out twice"));
                }
            }
            Entry::Ending { lease, outcome } => {
                ended.insert(lease);
                if *outcome == "completed" {
                    self.completing.insert(lease);
                }
            }
            Entry::Ended { lease, outcome, answer } => self.check_answer(lease, outcome, answer),
            Entry::Cancelling { id } => drop(self.cancelling.insert(id)),
            Entry::Cancelled { id } => drop(self.cancelled.insert(id)),
            Entry::Discarding { mark } => drop(self.discarding.insert(*mark)),
            Entry::Discarded { id } => drop(self.discarded.insert(id)),
        }
    }

    /// An earlier attempt must have been ended by its holder, unless its lease may have run out.
    fn check_overlap(&mut self, id: &str, attempt: u64, ended: &BTreeSet<&str>) {
        let others = self.given.iter().filter(|(_, given)| given.id == id && !given.brief);
        for (lease, given) in others {
            let earlier = given.attempt;
            if earlier >= attempt {
                let text = format!("attempt {attempt} of {id} given out after {earlier}");
                self.wrong.push(text);
            } else if !ended.contains(lease) {
                let text = format!("attempt {attempt} of {id} overlaps {earlier}, never ended");
                self.wrong.push(text);
            }
        }
    }

    fn check_answer(&mut self, lease: &'j str, outcome: &str, answer: &str) {
        let given = &self.given[lease];
        let is_explained = match answer {
            "ok" => true,
            "cancelled" => self.cancelling.contains(given.id),
            // A repeated failure or release may find the job in other hands already.
            _ => given.brief || outcome != "completed",
        };
        if !is_explained {
            let text = format!("{outcome} of {} attempt {}: {answer}", given.id, given.attempt);
            self.wrong.push(text);
        }
        if outcome == "completed" && answer == "ok" {
            self.completed.insert(lease);
        }
    }
}

/// Acknowledged jobs that are not there once, unseen ones that are there more than once, batches
/// that are there in part, and jobs that nobody asked for.
fn wrong_creates(known: &Known<'_>, stored: &Stored) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_mark: BTreeMap<u64, Vec<&Job>> = BTreeMap::new();
    stored.jobs.iter().for_each(|job| by_mark.entry(job.mark).or_default().push(job));
    let times = |mark: &u64| by_mark.get(mark).map_or(0, Vec::len);
    let asked: BTreeSet<u64> =
        known.groups.iter().flat_map(|(marks, _)| marks.iter().copied()).collect();
    wrong.extend(
        by_mark
            .keys()
            .filter(|mark| !asked.contains(mark))
            .map(|mark| format!("mark {mark} was never asked for")),
    );
    wrong.extend(
        asked
            .iter()
            .filter(|mark| times(mark) > 1)
            .map(|mark| format!("mark {mark} exists {} times", times(mark))),
    );
    for (mark, ids) in &known.created {
        if ids.len() > 1 {
            wrong.push(format!("mark {mark} was acknowledged as {ids:?}"));
        }
        let found =
            by_mark.get(mark).is_some_and(|jobs| jobs.iter().all(|job| ids.contains(&*job.id)));
        if !found && !known.discarding.contains(mark) {
            wrong.push(format!("mark {mark}, acknowledged as {ids:?}, is lost"));
        }
    }
    let was_there = |mark: &&u64| times(mark) > 0 || known.discarding.contains(mark);
    for (marks, unique) in &known.groups {
        let there = marks.iter().filter(was_there).count();
        if there != 0 && there != marks.len() {
            wrong.push(format!(
                "a batch exists in part, {there} of {} marks {marks:?}",
                marks.len()
            ));
        }
        if *unique && there == 0 {
            wrong.push(format!(
                "mark {marks:?} was asked for until it was acknowledged, but is lost"
            ));
        }
    }
    for id in &known.discarded {
        if stored.job(id).is_some() {
            wrong.push(format!("{id} was discarded, but exists"));
        }
    }
    wrong
}

/// Acknowledged ends that are not final, doubled ones, and ends that nobody asked for.
fn wrong_ends(known: &Known<'_>, runs: &[(String, u64)], stored: &Stored) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut completed: BTreeMap<&str, u64> = BTreeMap::new();
    for lease in &known.completed {
        let Given { id, attempt, .. } = known.given[lease];
        if let Some(other) = completed.insert(id, attempt) {
            wrong.push(format!("{id} was completed twice, by attempts {other} and {attempt}"));
        }
        match stored.job(id) {
            Some(job) if job.state == "completed" && job.attempt == attempt => {}
            other => wrong.push(format!("{id} was completed by attempt {attempt}, is {other:?}")),
        }
    }
    for id in &known.cancelled {
        if stored.job(id).is_none_or(|job| job.state != "cancelled") {
            wrong.push(format!("{id} was cancelled, is {:?}", stored.job(id)));
        }
    }
    let completing: BTreeSet<(&str, u64)> = known
        .completing
        .iter()
        .map(|lease| (known.given[lease].id, known.given[lease].attempt))
        .chain(runs.iter().map(|(id, attempt)| (&**id, *attempt)))
        .collect();
    for job in &stored.jobs {
        let asked = match &*job.state {
            "completed" => completing.contains(&(&*job.id, job.attempt)),
            "cancelled" => known.cancelling.contains(&*job.id),
            _ => true,
        };
        if !asked {
            wrong.push(format!("nobody asked for the end of {job:?}"));
        }
    }
    wrong
}

/// Attempt numbers that were used twice, or that the store does not know.
fn wrong_attempts(known: &Known<'_>, runs: &[(String, u64)], stored: &Stored) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut started = BTreeSet::new();
    let given = known.given.values().map(|given| (given.id, given.attempt));
    for (id, attempt) in given.chain(runs.iter().map(|(id, attempt)| (&**id, *attempt))) {
        if !started.insert((id, attempt)) {
            wrong.push(format!("attempt {attempt} of {id} was started twice"));
        }
        if stored.job(id).is_some_and(|job| job.attempt < attempt) {
            wrong.push(format!("attempt {attempt} of {id} was started, but {:?}", stored.job(id)));
        }
    }
    wrong
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
        if let Some(last) = &self.last {
            self.wrong.extend(scrape.went_back_from(last));
        }
        self.last = Some(scrape);
        self.seen += 1;
    }
}

#[cfg(test)]
mod tests;

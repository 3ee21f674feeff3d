//! What clients were told against the jobs that are stored in the end.

use std::collections::{BTreeMap, BTreeSet};

use super::{Given, Known, Many, OfMany, Run};
use crate::stored::{Job, Stored};

/// What the store does not hold as it must, one line each.
pub(super) fn wrong(known: &Known<'_>, runs: &[Run], stored: &Stored) -> Vec<String> {
    let jobs: BTreeMap<&str, &Job> = stored.by_id();
    let mut wrong = wrong_creates(known, stored, &jobs);
    wrong.extend(wrong_ends(known, stored, &jobs));
    wrong.extend(unasked_ends(known, runs, stored));
    wrong.extend(wrong_failures(stored));
    wrong.extend(wrong_attempts(known, runs, &jobs));
    wrong.extend(wrong_totals(known, stored));
    wrong
}

/// Acknowledged jobs that are not there once, unseen ones that are there more than once, batches
/// that are there in part, and jobs that nobody asked for.
fn wrong_creates(known: &Known<'_>, stored: &Stored, jobs: &BTreeMap<&str, &Job>) -> Vec<String> {
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
    let mut removed = 0;
    for (mark, ids) in &known.created {
        if ids.len() > 1 {
            wrong.push(format!("mark {mark} was acknowledged as {ids:?}"));
        }
        let found =
            by_mark.get(mark).is_some_and(|jobs| jobs.iter().all(|job| ids.contains(&*job.id)));
        if found || known.discarding.contains(mark) {
            continue;
        }
        if times(mark) == 0 && may_be_removed(known, *mark, stored) {
            removed += 1;
        } else {
            wrong.push(format!("mark {mark}, acknowledged as {ids:?}, is lost"));
        }
    }
    let counted = stored.totals.discarded - known.discarded.len() as i64 + stored.totals.pruned;
    if removed > counted {
        wrong.push(format!("{removed} jobs are gone, {counted} were counted as removed"));
    }
    let was_there = |mark: &&u64| {
        times(mark) > 0 || known.discarding.contains(mark) || may_be_removed(known, **mark, stored)
    };
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
    let discarded = known.discarded.iter().filter(|id| jobs.contains_key(**id));
    wrong.extend(discarded.map(|id| format!("{id} was discarded, but exists")));
    wrong
}

/// Whether a job may be gone, dead and discarded with many others or completed and pruned. Only
/// outside workers are known to have begun one.
fn may_be_removed(known: &Known<'_>, mark: u64, stored: &Stored) -> bool {
    let may_be_discarded = known.many.contains_key(&Many::Discard) && known.begun.contains(&mark);
    may_be_discarded || stored.totals.pruned > 0 && known.ending.contains(&mark)
}

/// Acknowledged ends, cancels and requeues that are not stored, and doubled completions.
fn wrong_ends(known: &Known<'_>, stored: &Stored, jobs: &BTreeMap<&str, &Job>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut pruned = stored.totals.pruned;
    let mut completed: BTreeMap<&str, u64> = BTreeMap::new();
    for given in known.given.values().filter(|given| given.is_completed()) {
        let Given { id, attempt, .. } = *given;
        if let Some(other) = completed.insert(id, attempt) {
            wrong.push(format!("{id} was completed twice, by attempts {other} and {attempt}"));
        }
        match jobs.get(id) {
            Some(job) if job.state == "completed" && job.attempt == attempt => {}
            None if pruned > 0 => pruned -= 1,
            other => wrong.push(format!("{id} was completed by attempt {attempt}, is {other:?}")),
        }
    }
    let is_there = |id: &str| jobs.contains_key(id) || stored.totals.pruned == 0;
    let there = known.gone.iter().filter(|(id, _)| is_there(id));
    wrong.extend(
        there.map(|(id, attempt)| format!("completed of {id} attempt {attempt}: lease_lost")),
    );
    for given in known.given.values() {
        let (Some(outcome), Some(job)) = (given.acknowledged, jobs.get(given.id)) else { continue };
        // A release uses up no try.
        let is_undone = job.state == "running" || outcome == "released" && job.state == "dead";
        if job.attempt == given.attempt && is_undone {
            wrong.push(format!("attempt {} was acknowledged as {outcome}: {job:?}", job.attempt));
        }
    }
    for id in &known.cancelled {
        if jobs.get(id).is_none_or(|job| job.state != "cancelled") {
            wrong.push(format!("{id} was cancelled, is {:?}", jobs.get(id)));
        }
    }
    for (id, attempt) in &known.requeued {
        let job = jobs.get(id).filter(|job| job.state == "dead" && job.attempt <= *attempt);
        wrong.extend(job.map(|job| format!("{id} was put back after attempt {attempt}: {job:?}")));
    }
    wrong
}

/// Ends that nobody asked for.
fn unasked_ends(known: &Known<'_>, runs: &[Run], stored: &Stored) -> Vec<String> {
    let worked = runs.iter().filter_map(|run| match run {
        Run::Ended { id, attempt, worked: true } => Some((&**id, *attempt)),
        _ => None,
    });
    let completing: BTreeSet<(&str, u64)> = known
        .completing
        .iter()
        .map(|lease| (known.given[lease].id, known.given[lease].attempt))
        .chain(worked)
        .collect();
    let with_many = |job: &Job| {
        let many = known.many.get(&Many::Cancel);
        many.is_some_and(|many| many.asked.contains(&(&*job.queue, &*job.kind)))
    };
    let unasked = stored.jobs.iter().filter(|job| match &*job.state {
        "completed" => !completing.contains(&(&*job.id, job.attempt)),
        "cancelled" => !known.cancelling.contains(&*job.id) && !with_many(job),
        _ => false,
    });
    unasked.map(|job| format!("nobody asked for the end of {job:?}")).collect()
}

/// Failures that there cannot be so many of, and jobs given up too early. The clients whose jobs say
/// how often they may fail report no failure as permanent.
fn wrong_failures(stored: &Stored) -> Vec<String> {
    let mut wrong = Vec::new();
    for job in &stored.jobs {
        if job.failures > job.attempt {
            wrong.push(format!("has failed more often than it was tried: {job:?}"));
        }
        let has_tries = job.max_attempts.is_some_and(|most| job.failures < most);
        if job.state == "dead" && has_tries {
            wrong.push(format!("is dead with tries left: {job:?}"));
        }
    }
    wrong
}

/// Attempt numbers that were used twice, or that the store does not know.
fn wrong_attempts(known: &Known<'_>, runs: &[Run], jobs: &BTreeMap<&str, &Job>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut started = BTreeSet::new();
    let given = known.given.values().map(|given| (given.id, given.attempt));
    let run = runs.iter().filter_map(|run| match run {
        Run::Started { id, attempt } => Some((&**id, *attempt)),
        _ => None,
    });
    for (id, attempt) in given.chain(run) {
        if !started.insert((id, attempt)) {
            wrong.push(format!("attempt {attempt} of {id} was started twice"));
        }
        if let Some(job) = jobs.get(id).filter(|job| job.attempt < attempt) {
            wrong.push(format!("attempt {attempt} of {id} was started, but {job:?}"));
        }
    }
    wrong
}

/// Totals that are less than what was acknowledged, or more than what was asked for.
fn wrong_totals(known: &Known<'_>, stored: &Stored) -> Vec<String> {
    let none = OfMany::default();
    let many = |action| known.many.get(&action).unwrap_or(&none);
    let [cancels, requeues, discards] = [Many::Cancel, Many::Requeue, Many::Discard].map(many);
    let completed = known.given.values().filter(|given| given.is_completed()).count() as u64;
    let asked: BTreeSet<u64> =
        known.groups.iter().flat_map(|(marks, _)| marks.iter().copied()).collect();
    let [created, asked, cancelling, discarding, discarded] = [
        known.created.len(),
        asked.len(),
        known.cancelling.len(),
        known.discarding.len(),
        known.discarded.len(),
    ]
    .map(|number| number as u64);
    let totals = &stored.totals;
    let unbounded = u64::MAX;
    let totals = [
        ("created", totals.created, created, asked),
        ("completed", totals.completed, completed, unbounded),
        ("cancelled", totals.cancelled, known.cancels + cancels.told, cancelling + cancels.most),
        ("discarded", totals.discarded, discarded + discards.told, discarding + discards.most),
        ("requeued", totals.requeued, known.requeues + requeues.told, unbounded),
    ];
    let wrong = |(what, counted, told, asked): (&str, i64, u64, u64)| {
        let counted = counted.unsigned_abs();
        if counted < told {
            Some(format!("{counted} {what} counted, {told} acknowledged"))
        } else if counted > asked {
            Some(format!("{counted} {what} counted, {asked} asked for"))
        } else {
            None
        }
    };
    totals.into_iter().filter_map(wrong).collect()
}

//! What clients were told against the jobs that are stored in the end.

use std::collections::{BTreeMap, BTreeSet};

use super::{Given, Known, Run};
use crate::stored::{Job, Stored};

/// What the store does not hold as it must, one line each.
pub(super) fn wrong(known: &Known<'_>, runs: &[Run], stored: &Stored) -> Vec<String> {
    let jobs: BTreeMap<&str, &Job> = stored.by_id();
    let mut wrong = wrong_creates(known, stored, &jobs);
    wrong.extend(wrong_ends(known, &jobs));
    wrong.extend(unasked_ends(known, runs, stored));
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
    let discarded = known.discarded.iter().filter(|id| jobs.contains_key(**id));
    wrong.extend(discarded.map(|id| format!("{id} was discarded, but exists")));
    wrong
}

/// Acknowledged ends, cancels and requeues that are not stored, and doubled completions.
fn wrong_ends(known: &Known<'_>, jobs: &BTreeMap<&str, &Job>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut completed: BTreeMap<&str, u64> = BTreeMap::new();
    for given in known.given.values().filter(|given| given.is_completed()) {
        let Given { id, attempt, .. } = *given;
        if let Some(other) = completed.insert(id, attempt) {
            wrong.push(format!("{id} was completed twice, by attempts {other} and {attempt}"));
        }
        match jobs.get(id) {
            Some(job) if job.state == "completed" && job.attempt == attempt => {}
            other => wrong.push(format!("{id} was completed by attempt {attempt}, is {other:?}")),
        }
    }
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
    let unasked = stored.jobs.iter().filter(|job| match &*job.state {
        "completed" => !completing.contains(&(&*job.id, job.attempt)),
        "cancelled" => !known.cancelling.contains(&*job.id),
        _ => false,
    });
    unasked.map(|job| format!("nobody asked for the end of {job:?}")).collect()
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

/// Totals that are less than what was acknowledged.
fn wrong_totals(known: &Known<'_>, stored: &Stored) -> Vec<String> {
    let completed = known.given.values().filter(|given| given.is_completed()).count();
    let totals = [
        ("completed", stored.totals.completed, completed),
        ("cancelled", stored.totals.cancelled, known.cancelled.len()),
        ("discarded", stored.totals.discarded, known.discarded.len()),
    ];
    let less = totals.into_iter().filter(|(_, counted, told)| *counted < *told as i64);
    less.map(|(what, counted, told)| format!("{counted} {what} counted, {told} acknowledged"))
        .collect()
}

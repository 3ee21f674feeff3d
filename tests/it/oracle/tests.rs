//! The judge is judged: a sound history passes, and each thing that may go wrong is found.

use super::*;

/// A job with this mark; so is its id.
fn job(mark: u64, state: &str, attempt: u64) -> Job {
    Job { id: format!("id-{mark}"), mark, state: state.into(), attempt }
}

fn creating(marks: &[u64]) -> Entry {
    Entry::Creating { marks: marks.to_vec(), unique: false }
}

fn created(mark: u64) -> Entry {
    Entry::Created { mark, id: format!("id-{mark}") }
}

fn leased(mark: u64, attempt: u64, brief: bool) -> Entry {
    let (id, lease) = (format!("id-{mark}"), format!("lease-{mark}-{attempt}"));
    Entry::Leased { id, attempt, lease, brief }
}

fn ended(mark: u64, attempt: u64, outcome: &'static str, answer: &str) -> [Entry; 2] {
    let lease = format!("lease-{mark}-{attempt}");
    let ending = Entry::Ending { lease: lease.clone(), outcome };
    [ending, Entry::Ended { lease, outcome, answer: answer.into() }]
}

/// A history in which everything is right: an unseen create and two unseen batches, of one of which
/// a job was discarded, a job completed in its second attempt and reported twice, a cancelled one, a
/// discarded one, one run by a command.
fn sound() -> (Vec<Entry>, Vec<(String, u64)>, Stored) {
    let mut journal = vec![
        creating(&[1]),
        created(1),
        creating(&[2]), // never seen, not there
        creating(&[3, 4]),
        Entry::Creating { marks: vec![5], unique: true },
        Entry::Creating { marks: vec![5], unique: true },
        created(5),
        creating(&[6]),
        created(6),
        creating(&[7]),
        creating(&[8, 9]), // never seen, but there; one was found dead and discarded
        leased(1, 1, false),
    ];
    journal.extend(ended(1, 1, "failed", "ok"));
    journal.push(leased(1, 2, false));
    journal.extend(ended(1, 2, "completed", "ok"));
    journal.extend(ended(1, 2, "completed", "ok"));
    journal.push(leased(5, 1, false));
    journal.push(Entry::Cancelling { id: "id-5".into() });
    journal.push(Entry::Cancelled { id: "id-5".into() });
    journal.extend(ended(5, 1, "completed", "cancelled"));
    journal.push(Entry::Discarding { mark: 6 });
    journal.push(Entry::Discarded { id: "id-6".into() });
    journal.push(Entry::Discarding { mark: 9 });
    journal.push(Entry::Discarded { id: "id-9".into() });
    let stored = Stored {
        jobs: vec![
            job(1, "completed", 2),
            job(3, "ready", 0),
            job(4, "ready", 0),
            job(5, "cancelled", 1),
            job(7, "completed", 1),
            job(8, "ready", 0),
        ],
        counts: vec![("ready of ledger 1".into(), 2, 2)],
        integrity: Vec::new(),
    };
    (journal, vec![("id-7".into(), 1)], stored)
}

/// What is found after a sound history was changed.
fn found(spoil: impl FnOnce(&mut Vec<Entry>, &mut Vec<(String, u64)>, &mut Stored)) -> String {
    let (mut journal, mut runs, mut stored) = sound();
    spoil(&mut journal, &mut runs, &mut stored);
    violations(&journal, &runs, &stored).join("\n")
}

fn finds(text: &str, spoil: impl FnOnce(&mut Vec<Entry>, &mut Vec<(String, u64)>, &mut Stored)) {
    let found = found(spoil);
    assert!(found.contains(text), "found only: {found:?}");
}

#[test]
fn a_sound_history_passes() {
    assert_eq!(found(|_, _, _| ()), "");
}

#[test]
fn lost_torn_doubled_and_invented_jobs_are_found() {
    finds("mark 1, acknowledged as {\"id-1\"}, is lost", |_, _, stored| {
        drop(stored.jobs.remove(0));
    });
    finds("exists in part, 1 of 2", |_, _, stored| drop(stored.jobs.remove(1)));
    finds("exists in part, 1 of 2", |_, _, stored| drop(stored.jobs.pop()));
    finds("mark 7 exists 2 times", |_, _, stored| {
        stored.jobs.push(Job { id: "other".into(), ..job(7, "ready", 0) });
    });
    finds("mark 5 was acknowledged as", |journal, _, _| {
        journal.push(Entry::Created { mark: 5, id: "other".into() });
    });
    finds("until it was acknowledged, but is lost", |journal, _, _| {
        journal.push(Entry::Creating { marks: vec![10], unique: true });
    });
    finds("mark 11 was never asked for", |_, _, stored| stored.jobs.push(job(11, "ready", 0)));
    finds("was discarded, but exists", |_, _, stored| stored.jobs.push(job(6, "dead", 0)));
}

#[test]
fn ends_that_are_not_final_doubled_or_invented_are_found() {
    finds("id-1 was completed by attempt 2, is", |_, _, stored| {
        stored.jobs[0].state = "ready".into();
    });
    finds("id-1 was completed twice, by attempts 2 and 3", |journal, _, _| {
        journal.push(leased(1, 3, false));
        journal.extend(ended(1, 3, "completed", "ok"));
    });
    finds("completed of id-1 attempt 2: lease_lost", |journal, _, _| {
        journal.extend(ended(1, 2, "completed", "lease_lost"));
    });
    finds("completed of id-1 attempt 2: cancelled", |journal, _, _| {
        journal.extend(ended(1, 2, "completed", "cancelled"));
    });
    finds("id-5 was cancelled, is", |_, _, stored| stored.jobs[3].state = "running".into());
    finds("nobody asked for the end of", |_, _, stored| stored.jobs[1].state = "completed".into());
    finds("nobody asked for the end of", |_, runs, _| runs.clear());
}

#[test]
fn attempts_that_are_doubled_overlapping_or_forgotten_are_found() {
    finds("attempt 1 of id-7 was started twice", |_, runs, _| runs.push(runs[0].clone()));
    finds("attempt 2 of id-1 given out after 2", |journal, _, _| {
        let lease = "another".into();
        journal.push(Entry::Leased { id: "id-1".into(), attempt: 2, lease, brief: false });
    });
    finds("attempt 2 of id-3 overlaps 1", |journal, _, stored| {
        journal.extend([leased(3, 1, false), leased(3, 2, false)]);
        stored.jobs[1].attempt = 2;
    });
    let brief = found(|journal, _, stored| {
        journal.extend([leased(3, 1, true), leased(3, 2, true)]);
        stored.jobs[1].attempt = 2;
    });
    assert_eq!(brief, "", "the first lease may have run out");
    finds("attempt 2 of id-7 was started, but", |_, runs, _| runs.push(("id-7".into(), 2)));
}

#[test]
fn wrong_counts_and_damage_are_found() {
    finds("ready of ledger 1: 2 counted, 3 found", |_, _, stored| stored.counts[0].2 = 3);
    finds("integrity check: page 7", |_, _, stored| stored.integrity.push("page 7".into()));
}

/// A scrape of one pair with so many jobs created and ready.
fn scrape(created: u64, ready: u64) -> Scrape {
    let pair = "queue=\"q\",kind=\"k\"";
    let totals = ["completed", "cancelled", "discarded", "retried", "died"];
    let states = ["scheduled", "retrying", "running", "dead"];
    let results = ["completed", "failed", "timed_out", "lease_expired", "released", "cancelled"];
    let mut text = format!(
        "tallyd_jobs_created_total{{{pair}}} {created}\n\
         tallyd_jobs{{{pair},state=\"ready\"}} {ready}\ntallyd_attempts_started_total{{{pair}}} 0\n"
    );
    let zeros = totals
        .map(|name| format!("tallyd_jobs_{name}_total{{{pair}}} 0\n"))
        .into_iter()
        .chain(states.map(|state| format!("tallyd_jobs{{{pair},state=\"{state}\"}} 0\n")))
        .chain(
            results.map(|r| format!("tallyd_attempts_ended_total{{{pair},result=\"{r}\"}} 0\n")),
        );
    text.extend(zeros);
    Scrape::parse(&text)
}

#[test]
fn counters_that_go_back_and_broken_identities_are_found() {
    let mut scrapes = Scrapes::default();
    scrapes.see(scrape(3, 3));
    scrapes.see(scrape(4, 4));
    assert_eq!((scrapes.seen, &scrapes.wrong), (2, &Vec::new()));
    scrapes.see(scrape(3, 3));
    assert!(
        scrapes.wrong[0].contains("jobs_created_total{queue=\"q\",kind=\"k\"} was 4, is Some(3.0)")
    );
    scrapes.wrong.clear();
    scrapes.see(scrape(5, 4));
    assert_eq!(scrapes.wrong, ["I1 of queue=\"q\",kind=\"k\": 5 != 4"]);
}

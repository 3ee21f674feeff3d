//! The judge is judged: a sound history passes, and each thing that may go wrong is found.

use super::*;
use crate::stored::{Counted, Totals};

/// A job with this mark; so is its id.
fn job(mark: u64, state: &str, attempt: u64) -> Job {
    let (id, queue, kind) = (format!("id-{mark}"), "q".into(), "k".into());
    let (failures, max_attempts) = (0, None);
    Job { id, mark, queue, kind, state: state.into(), attempt, failures, max_attempts }
}

fn creating(marks: &[u64]) -> Entry {
    Entry::Creating { marks: marks.to_vec(), unique: false }
}

fn created(mark: u64) -> Entry {
    Entry::Created { mark, id: format!("id-{mark}") }
}

const SECOND: Duration = Duration::from_secs(1);

fn lease_of(mark: u64, attempt: u64) -> String {
    format!("lease-{mark}-{attempt}")
}

fn leased(mark: u64, attempt: u64) -> Entry {
    let (id, lease, zero) = (format!("id-{mark}"), lease_of(mark, attempt), Duration::ZERO);
    Entry::Leased { id, mark, attempt, lease, brief: None, asked_at: zero, at: zero }
}

/// A lease of a second, that was asked for and came at these milliseconds.
fn briefly(mark: u64, attempt: u64, asked_ms: u64, ms: u64) -> Entry {
    let (id, lease) = (format!("id-{mark}"), lease_of(mark, attempt));
    let [asked_at, at] = [asked_ms, ms].map(Duration::from_millis);
    Entry::Leased { id, mark, attempt, lease, brief: Some(SECOND), asked_at, at }
}

fn ending(mark: u64, attempt: u64, outcome: &'static str) -> Entry {
    Entry::Ending { lease: lease_of(mark, attempt), outcome }
}

fn ended(mark: u64, attempt: u64, outcome: &'static str, answer: &str) -> [Entry; 2] {
    let (lease, at) = (lease_of(mark, attempt), Duration::ZERO);
    let ended = Entry::Ended { lease, outcome, answer: answer.into(), at };
    [ending(mark, attempt, outcome), ended]
}

/// A renewal that was asked for and answered at these milliseconds.
fn renewed(mark: u64, attempt: u64, answer: &str, asked_ms: u64, ms: u64) -> [Entry; 2] {
    let lease = lease_of(mark, attempt);
    let [asked_at, at] = [asked_ms, ms].map(Duration::from_millis);
    let renewing = Entry::Renewing { lease: lease.clone(), at: asked_at };
    [renewing, Entry::Renewed { lease, answer: answer.into(), at }]
}

fn started(mark: u64, attempt: u64) -> Run {
    Run::Started { id: format!("id-{mark}"), attempt }
}

fn worked(mark: u64, attempt: u64) -> Run {
    Run::Ended { id: format!("id-{mark}"), attempt, worked: true }
}

fn counted(what: &str, kept: i64, found: i64, or_more: bool) -> Counted {
    Counted { what: what.into(), kept, found, or_more }
}

/// A history in which everything is right: an unseen create and two unseen batches, of one of which
/// a job was discarded, a job renewed and completed in its second attempt and reported twice, a
/// cancelled one, a discarded one, one put back and released, one run by commands of which the
/// first was killed.
fn sound() -> (Vec<Entry>, Vec<Run>, Stored) {
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
        leased(1, 1),
    ];
    journal.extend(ended(1, 1, "failed", "ok"));
    journal.push(leased(1, 2));
    journal.extend(renewed(1, 2, "ok", 10, 20));
    journal.extend(ended(1, 2, "completed", "ok"));
    journal.extend(ended(1, 2, "completed", "ok"));
    journal.extend(renewed(1, 2, "lease_lost", 30, 40));
    journal.push(leased(5, 1));
    journal.push(Entry::Cancelling { id: "id-5".into() });
    journal.push(Entry::Cancelled { id: "id-5".into() });
    journal.extend(ended(5, 1, "completed", "cancelled"));
    journal.push(Entry::Discarding { mark: 6 });
    journal.push(Entry::Discarded { id: "id-6".into() });
    journal.push(Entry::Discarding { mark: 9 });
    journal.push(Entry::Discarded { id: "id-9".into() });
    journal.push(leased(8, 1));
    journal.extend(ended(8, 1, "failed", "ok"));
    journal.push(Entry::Requeued { id: "id-8".into(), attempt: 1 });
    journal.push(leased(8, 2));
    journal.extend(ended(8, 2, "released", "ok"));
    let runs = vec![started(7, 1), Run::Killed, started(7, 2), worked(7, 2)];
    let stored = Stored {
        jobs: vec![
            job(1, "completed", 2),
            job(3, "ready", 0),
            job(4, "ready", 0),
            job(5, "cancelled", 1),
            job(7, "completed", 2),
            job(8, "ready", 2),
        ],
        counts: vec![
            counted("ready of ledger 1", 3, 3, false),
            counted("attempts of ledger 1", 9, 7, true),
        ],
        totals: Totals {
            created: 8,
            completed: 2,
            cancelled: 1,
            discarded: 2,
            requeued: 1,
            pruned: 0,
        },
        integrity: Vec::new(),
    };
    (journal, runs, stored)
}

/// What is found after a sound history was changed.
fn found(spoil: impl FnOnce(&mut Vec<Entry>, &mut Vec<Run>, &mut Stored)) -> String {
    let (mut journal, mut runs, mut stored) = sound();
    spoil(&mut journal, &mut runs, &mut stored);
    violations(&journal, &runs, &stored).join("\n")
}

fn finds(text: &str, spoil: impl FnOnce(&mut Vec<Entry>, &mut Vec<Run>, &mut Stored)) {
    let found = found(spoil);
    assert!(found.contains(text), "found only: {found:?}");
}

/// What is found when this happens to job 3, which is then ready after so many attempts.
fn found_after(attempts: u64, more: impl IntoIterator<Item = Entry>) -> String {
    found(|journal, _, stored| {
        journal.extend(more);
        stored.jobs[1].attempt = attempts;
    })
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
fn a_refused_discard_excuses_no_loss() {
    finds("a batch exists in part, 1 of 2", |journal, _, _| {
        journal.retain(|entry| !matches!(entry, Entry::Discarded { id } if id == "id-9"));
        journal.push(Entry::DiscardRefused { mark: 9 });
    });
    finds("mark 6, acknowledged as {\"id-6\"}, is lost", |journal, _, _| {
        journal.push(Entry::DiscardRefused { mark: 6 });
    });
}

#[test]
fn ends_that_are_not_final_doubled_or_invented_are_found() {
    finds("id-1 was completed by attempt 2, is", |_, _, stored| {
        stored.jobs[0].state = "ready".into();
    });
    finds("id-1 was completed twice, by attempts 2 and 3", |journal, _, _| {
        journal.push(leased(1, 3));
        journal.extend(ended(1, 3, "completed", "ok"));
    });
    finds("id-5 was cancelled, is", |_, _, stored| stored.jobs[3].state = "running".into());
    finds("nobody asked for the end of", |_, _, stored| stored.jobs[1].state = "completed".into());
    finds("nobody asked for the end of", |_, runs, _| drop(runs.pop()));
    finds("is dead with tries left", |_, _, stored| {
        let tries = Job { failures: 2, max_attempts: Some(3), ..job(3, "dead", 0) };
        stored.jobs[1] = tries;
    });
    finds("has failed more often than it was tried", |_, _, stored| stored.jobs[1].failures = 1);
}

#[test]
fn lost_failures_releases_and_requeues_are_found() {
    finds("attempt 2 was acknowledged as released", |_, _, stored| {
        stored.jobs[5].state = "running".into();
    });
    finds("attempt 2 was acknowledged as released", |_, _, stored| {
        stored.jobs[5].state = "dead".into();
    });
    finds("attempt 1 was acknowledged as failed", |_, _, stored| {
        stored.jobs[5] = job(8, "running", 1);
    });
    finds("id-8 was put back after attempt 1", |_, _, stored| stored.jobs[5] = job(8, "dead", 1));
}

#[test]
fn answers_that_cannot_be_right_are_found() {
    finds("completed of id-1 attempt 2: lease_lost", |journal, _, _| {
        journal.extend(ended(1, 2, "completed", "lease_lost"));
    });
    finds("completed of id-1 attempt 2: cancelled", |journal, _, _| {
        journal.extend(ended(1, 2, "completed", "cancelled"));
    });
    finds("completed of id-1 attempt 2: done", |journal, _, _| {
        journal.extend(ended(1, 2, "completed", "done"));
    });
    finds("failed of id-1 attempt 1: ok", |journal, _, _| {
        journal.extend(ended(1, 1, "failed", "ok"));
    });
    let first =
        |outcome, answer| [vec![leased(3, 1)], ended(3, 1, outcome, answer).into()].concat();
    let lost = found_after(1, first("failed", "lease_lost"));
    assert_eq!(lost, "failed of id-3 attempt 1: lease_lost");
    let repeated = first("failed", "ok").into_iter().chain(ended(3, 1, "failed", "lease_lost"));
    assert_eq!(found_after(1, repeated), "", "it may be in other hands");
    let brief = briefly(3, 1, 0, 10);
    let lost = |ms| Entry::Ended {
        lease: lease_of(3, 1),
        outcome: "failed",
        answer: "lease_lost".into(),
        at: Duration::from_millis(ms),
    };
    let early = found_after(1, [brief.clone(), ending(3, 1, "failed"), lost(900)]);
    assert_eq!(early, "failed of id-3 attempt 1: lease_lost");
    assert_eq!(found_after(1, [brief, ending(3, 1, "failed"), lost(1_000)]), "", "it ran out");
    // The last token of a cancelled job is not the first.
    finds("completed of id-5 attempt 1: cancelled", |journal, _, stored| {
        journal.push(briefly(5, 2, 0, 0));
        journal.extend(ended(5, 1, "completed", "cancelled"));
        stored.jobs[3].attempt = 2;
    });
}

#[test]
fn renewals_that_cannot_be_right_are_found() {
    for answer in ["ok", "cancelled", "done"] {
        finds(&format!("renewal of id-1 attempt 2: {answer}"), |journal, _, _| {
            journal.extend(renewed(1, 2, answer, 50, 60));
        });
    }
    let given = [leased(3, 1)];
    let lost = given.into_iter().chain(renewed(3, 1, "lease_lost", 0, 0));
    assert_eq!(found_after(1, lost), "renewal of id-3 attempt 1: lease_lost");
    let stale = [briefly(3, 1, 0, 0), briefly(3, 2, 1_000, 1_000)];
    let stale = stale.into_iter().chain(renewed(3, 1, "ok", 1_000, 1_000));
    assert_eq!(found_after(2, stale), "renewal of id-3 attempt 1: ok");
}

#[test]
fn attempts_that_are_doubled_overlapping_or_forgotten_are_found() {
    finds("attempt 2 of id-7 was started twice", |_, runs, _| runs.push(runs[2].clone()));
    finds("attempt 2 of id-1 given out after 2", |journal, _, _| {
        let (lease, zero) = ("another".into(), Duration::ZERO);
        let (id, mark, attempt) = ("id-1".into(), 1, 2);
        let (brief, asked_at, at) = (None, zero, zero);
        journal.push(Entry::Leased { id, mark, attempt, lease, brief, asked_at, at });
    });
    let overlapping = "attempt 2 of id-3 overlaps 1, never ended";
    assert_eq!(found_after(2, [leased(3, 1), leased(3, 2)]), overlapping);
    finds("attempt 3 of id-7 was started, but", |_, runs, _| runs.push(started(7, 3)));
}

#[test]
fn brief_leases_that_do_not_last_are_found() {
    let overlapping = "attempt 2 of id-3 overlaps 1, never ended";
    let early = [briefly(3, 1, 100, 200), briefly(3, 2, 150, 1_090)];
    assert_eq!(found_after(2, early), overlapping);
    let late = [briefly(3, 1, 100, 200), briefly(3, 2, 150, 1_100)];
    assert_eq!(found_after(2, late), "", "the first lease may have run out");
    let ended = [briefly(3, 1, 100, 200), ending(3, 1, "failed"), briefly(3, 2, 150, 300)];
    assert_eq!(found_after(2, ended), "", "its end was reported");
    let renewed_first = |answer| {
        let [renewing, renewed] = renewed(3, 1, answer, 500, 600);
        [briefly(3, 1, 100, 200), renewing, renewed, briefly(3, 2, 1_400, 1_450)]
    };
    assert_eq!(found_after(2, renewed_first("ok")), overlapping);
}

#[test]
fn commands_that_run_side_by_side_are_found() {
    finds("attempt 3 of id-7 started while 2 ran", |_, runs, stored| {
        runs.insert(3, started(7, 3));
        stored.jobs[4].attempt = 3;
    });
    finds("attempt 2 of id-7 started while 1 ran", |_, runs, _| drop(runs.remove(1)));
    finds("attempt 1 of id-7 started after 2", |_, runs, _| runs.swap(0, 2));
}

#[test]
fn wrong_counts_and_damage_are_found() {
    finds("ready of ledger 1: 3 counted, 4 found", |_, _, stored| stored.counts[0].found = 4);
    finds("ready of ledger 1: 4 counted, 3 found", |_, _, stored| stored.counts[0].kept = 4);
    finds("attempts of ledger 1: 6 counted, 7 found", |_, _, stored| stored.counts[1].kept = 6);
    finds("attempts of ledger 1: 9 counted, 7 found", |_, _, stored| {
        stored.counts[1].or_more = false;
    });
    finds("0 completed counted, 1 acknowledged", |_, _, stored| stored.totals.completed = 0);
    finds("0 cancelled counted, 1 acknowledged", |_, _, stored| stored.totals.cancelled = 0);
    finds("1 discarded counted, 2 acknowledged", |_, _, stored| stored.totals.discarded = 1);
    finds("integrity check: page 7", |_, _, stored| stored.integrity.push("page 7".into()));
}

fn asking(action: Many) -> Entry {
    Entry::AskingMany { action, queue: "q", kind: "k", most: 2 }
}

fn told(action: Many, count: u64) -> Entry {
    Entry::ToldMany { action, count, most: 2 }
}

#[test]
fn what_happened_to_many_at_once_is_judged_too() {
    let cancel = |journal: &mut Vec<Entry>, stored: &mut Stored| {
        journal.extend([asking(Many::Cancel), told(Many::Cancel, 1)]);
        stored.jobs[1].state = "cancelled".into();
        stored.totals.cancelled = 2;
    };
    assert_eq!(found(|journal, _, stored| cancel(journal, stored)), "");
    finds("nobody asked for the end of", |journal, _, stored| {
        cancel(journal, stored);
        stored.jobs[1].kind = "other".into();
    });
    finds("1 cancelled counted, 2 acknowledged", |journal, _, _| {
        journal.extend([asking(Many::Cancel), told(Many::Cancel, 1)]);
    });
    finds("3 cancelled counted, 2 asked for", |journal, _, stored| {
        cancel(journal, stored);
        stored.totals.cancelled = 3;
    });
    finds("at most 2 jobs took 3", |journal, _, _| {
        journal.extend([asking(Many::Requeue), told(Many::Requeue, 3)]);
    });
    finds("id-8 was cancelled, is", |journal, _, _| {
        journal.push(asking(Many::Cancel));
        journal.extend(ended(8, 2, "failed", "cancelled"));
    });
    finds("1 requeued counted, 2 acknowledged", |journal, _, _| {
        journal.extend([asking(Many::Requeue), told(Many::Requeue, 1)]);
    });
    finds("4 discarded counted, 3 asked for", |journal, _, stored| {
        journal.extend([asking(Many::Discard), told(Many::Discard, 1)]);
        stored.totals.discarded = 4;
    });
}

#[test]
fn a_discard_of_many_and_a_prune_excuse_no_other_loss() {
    let lost = "mark 3, acknowledged as {\"id-3\"}, is lost";
    let discard = |journal: &mut Vec<Entry>, stored: &mut Stored| {
        journal.extend([created(3), asking(Many::Discard)]);
        drop(stored.jobs.remove(1));
        stored.totals.discarded = 3;
    };
    finds(lost, |journal, _, stored| discard(journal, stored));
    let begun = found(|journal, _, stored| {
        discard(journal, stored);
        journal.push(leased(3, 1));
    });
    assert_eq!(begun, "", "it may have died");
    finds("1 jobs are gone, 0 were counted as removed", |journal, _, stored| {
        discard(journal, stored);
        journal.push(leased(3, 1));
        stored.totals.discarded = 2;
    });
    let prune = |mark: usize, stored: &mut Stored| {
        stored.totals.pruned = 1;
        drop(stored.jobs.remove(mark));
    };
    assert_eq!(found(|_, _, stored| prune(0, stored)), "", "it was completed");
    let repeated = found(|journal, _, stored| {
        journal.extend(ended(1, 2, "completed", "lease_lost"));
        prune(0, stored);
    });
    assert_eq!(repeated, "", "nobody knows the lease any more");
    finds("mark 5, acknowledged as", |journal, _, stored| {
        journal
            .retain(|entry| !matches!(entry, Entry::Ending { lease, .. } if lease == "lease-5-1"));
        journal
            .retain(|entry| !matches!(entry, Entry::Ended { lease, .. } if lease == "lease-5-1"));
        prune(3, stored);
    });
    finds("7 created counted, 8 acknowledged", |journal, _, stored| {
        journal.extend([3, 4, 7, 8, 9].map(created));
        stored.totals.created = 7;
    });
    finds("10 created counted, 9 asked for", |_, _, stored| stored.totals.created = 10);
}

#[test]
fn a_recovery_that_takes_too_long_is_found() {
    let late = |ms, starts: &[u64]| {
        let starts: Vec<Duration> = starts.iter().copied().map(Duration::from_millis).collect();
        late_recoveries(&[briefly(3, 1, 0, 10), briefly(3, 2, 20, ms)], &starts).join("\n")
    };
    assert_eq!(late(6_010, &[]), "");
    assert_eq!(late(6_011, &[]), "attempt 2 of id-3 came 6.001s after a lease of 1s");
    assert_eq!(late(6_011, &[5, 500, 7_000]), "", "it began anew at the start");
    let after = |between: [Entry; 2], attempt| {
        let mut journal = vec![briefly(3, attempt, 0, 10)];
        journal.extend(between);
        journal.push(briefly(3, attempt + 1, 20, 6_011));
        late_recoveries(&journal, &[])
    };
    assert_eq!(after(renewed(3, 1, "ok", 20, 30), 1), Vec::<String>::new());
    assert_eq!(after(ended(3, 1, "failed", "ok"), 1), Vec::<String>::new());
    assert_eq!(after(ended(3, 1, "failed", "lease_lost"), 1).len(), 1);
    assert_eq!(after(ended(3, 4, "failed", "lease_lost"), 4).len(), 0, "it was dead");
}

/// A scrape of one pair with so many jobs created and ready.
fn scrape(created: u64, ready: u64) -> Scrape {
    let pair = "queue=\"q\",kind=\"k\"";
    let totals = ["completed", "cancelled", "discarded", "retried", "died"];
    let states = ["scheduled", "retrying", "running", "dead"];
    let results = ["completed", "failed", "timed_out", "lease_expired", "released", "cancelled"];
    let mut text = format!(
        "tallyd_tally_mismatch 0\nprocess_resident_memory_bytes 5e7\n\
         tallyd_store_wal_size_bytes 4e6\ntallyd_pairs_overflow_jobs_total {created}\n\
         tallyd_jobs_created_total{{{pair}}} {created}\n\
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
fn counters_that_go_back_broken_identities_and_excess_are_found() {
    let mut scrapes = Scrapes::default();
    scrapes.see(scrape(3, 3));
    scrapes.see(scrape(4, 4));
    assert_eq!((scrapes.seen, &scrapes.wrong), (2, &Vec::new()));
    scrapes.see(scrape(3, 3));
    let wrong = scrapes.wrong.join("\n");
    assert!(wrong.contains("jobs_created_total{queue=\"q\",kind=\"k\"} was 4, is Some(3.0)"));
    assert!(wrong.contains("tallyd_pairs_overflow_jobs_total was 4, is Some(3.0)"), "{wrong}");
    scrapes.wrong.clear();
    scrapes.see(scrape(5, 4));
    assert_eq!(scrapes.wrong, ["I1 of queue=\"q\",kind=\"k\": 5 != 4"]);
    scrapes.wrong.clear();
    let text = scrape(6, 6).text.replace("tally_mismatch 0", "tally_mismatch -2");
    scrapes.see(Scrape::parse(&text));
    assert_eq!(scrapes.wrong, ["a recount differs by -2"]);
    scrapes.wrong.clear();
    let text = scrape(7, 7).text.replace("memory_bytes 5e7", "memory_bytes 3e8");
    scrapes.see(Scrape::parse(&text.replace("size_bytes 4e6", "size_bytes 7e7")));
    let wrong = scrapes.wrong.join("\n");
    assert!(
        wrong.contains("process_resident_memory_bytes is over 268435456: 300000000"),
        "{wrong}"
    );
    assert!(wrong.contains("tallyd_store_wal_size_bytes is over 67108864: 70000000"), "{wrong}");
}

#[test]
fn both_formats_are_read_as_the_same() {
    let text = "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\na_total 4\n";
    let open_metrics = "# TYPE h histogram\nh_bucket{le=\"1.0\"} 2 # {job_id=\"x\"} 0.5 7.5\n\
                        h_bucket{le=\"+Inf\"} 3\na_total 4\n# EOF\n";
    let [text, open_metrics] = [text, open_metrics].map(Scrape::parse);
    for (sample, value) in [("h_bucket{le=\"1\"}", 2.0), ("h_bucket{le=\"+Inf\"}", 3.0)] {
        assert_eq!([text.value(sample), open_metrics.value(sample)], [value; 2]);
    }
    assert_eq!(text.starting("").count(), open_metrics.starting("").count());
    let (whole, ledger) = (scrape(3, 2), Scrape::parse_ledger(&scrape(3, 2).text));
    assert_eq!(ledger, whole, "the check needs no more");
}

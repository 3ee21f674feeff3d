//! Rows that somebody else has changed are reported and passed over; they hold up no others.

use std::sync::Arc;

use rusqlite::Connection;
use tallyd::clock::Timestamp;
use tallyd::job::State;
use tallyd::server::{self, Api, Routes};
use tallyd::store::{
    Action, Bulk, Finish, JobId, LeaseAnswer, OpenError, Recounted, Renewal, StoreError,
};
use tallyd::tally::Count;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, claim, job, later, open, unique};
use tallyd::store::UniqueUntil;

/// Changes the file behind the back of the server.
fn tamper(bed: &Bed, sql: &str) {
    let file = Connection::open(bed.file()).expect("another program can open the file");
    file.execute_batch(sql).expect("the statement is valid");
}

/// Points a job at a row of the ledger that is not there.
fn damage(bed: &Bed, id: JobId) {
    tamper(bed, &format!("UPDATE jobs SET ledger = 999 WHERE id = {}", id.key()));
}

#[tokio::test]
async fn promotion_passes_over_a_damaged_row() {
    let bed = Bed::new();
    let first = bed.create(later(1)).await.id;
    let second = bed.create(later(2)).await.id;
    damage(&bed, first);
    bed.advance_secs(5);
    let swept = bed.sweep().await;
    assert_eq!((swept.promoted, swept.passed_over), (1, 1));
    assert_eq!(bed.state(first).await, State::Scheduled);
    assert_eq!(bed.state(second).await, State::Ready);
}

#[tokio::test]
async fn expiry_passes_over_a_damaged_row() {
    let bed = Bed::new();
    let [first, second] = [bed.create(job("a", "k")).await.id, bed.create(job("a", "k")).await.id];
    assert_eq!(bed.claim(claim(&["a"], 2)).await.len(), 2);
    damage(&bed, first);
    bed.advance_secs(61);
    let swept = bed.sweep().await;
    assert_eq!((swept.expired, swept.passed_over), (1, 1));
    assert_eq!(bed.state(first).await, State::Running);
    assert_eq!(bed.state(second).await, State::Ready);
}

/// More damaged rows than one step handles must not starve what lies behind them.
/// F2: each tick begins behind what the last one could not handle.
#[tokio::test]
async fn a_batch_of_damaged_rows_starves_no_later_ones() {
    let bed = Bed::with_policy(|policy| policy.max_completed = 0);
    let jobs = (0..500).map(|_| later(1)).collect();
    let damaged = bed.store.create_batch(jobs).await.expect("created").ids;
    let last = bed.create(later(2)).await.id;
    tamper(&bed, &format!("UPDATE jobs SET ledger = 999 WHERE id <= {}", damaged[499].key()));
    bed.advance_secs(5);
    let tick = bed.tick().await;
    assert_eq!((tick.promoted, tick.passed_over), (1, 500), "promoted behind 500 others");
    tamper(
        &bed,
        &format!(
            "UPDATE jobs SET state = 'completed', ended_at = {} WHERE state = 'scheduled'",
            bed.now().0
        ),
    );
    bed.advance_secs(1);
    bed.complete(bed.claim_one("a").await.lease).await;
    let tick = bed.tick().await;
    assert_eq!((tick.pruned, tick.passed_over), (1, 500), "pruned behind 500 others");
    assert_eq!(bed.store.job(last).await, Err(StoreError::NoSuchJob(last)));
}

#[tokio::test]
async fn a_damaged_row_is_not_pruned_in_place_of_those_behind_it() {
    let bed = Bed::with_policy(|policy| policy.max_completed = 1);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bed.create(job("a", "k")).await.id);
        bed.complete(bed.claim_one("a").await.lease).await;
        bed.advance_secs(1);
    }
    damage(&bed, ids[0]);
    assert_eq!(bed.tick().await.pruned, 2, "only one may stay, and the damaged one does");
    assert_eq!(bed.state(ids[0]).await, State::Completed);
}

#[tokio::test]
async fn claims_pass_over_damaged_rows() {
    let bed = Bed::new();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(bed.create(job("a", "k")).await.id);
    }
    damage(&bed, ids[0]);
    tamper(&bed, &format!("UPDATE jobs SET attempt = -1 WHERE id = {}", ids[2].key()));
    let claimed: Vec<_> =
        bed.claim(claim(&["a"], 2)).await.iter().map(|leased| leased.job.id).collect();
    assert_eq!(claimed, [ids[1], ids[3]]);
    let claimed = bed.claim(claim(&["a"], 2)).await;
    assert_eq!(claimed.iter().map(|leased| leased.job.id).collect::<Vec<_>>(), [ids[4]]);
    assert_eq!(bed.claim(claim(&["a"], 2)).await.len(), 0);
}

#[tokio::test]
async fn a_damaged_row_does_not_keep_others_from_being_finished_or_renewed() {
    let bed = Bed::new();
    for _ in 0..4 {
        bed.create(job("a", "k")).await;
    }
    let leases: Vec<_> =
        bed.claim(claim(&["a"], 4)).await.iter().map(|leased| leased.lease).collect();
    damage(&bed, leases[0].job);
    for (lease, change) in leases[1..3].iter().zip(["attempt = -1", "lease = x'07'"]) {
        tamper(&bed, &format!("UPDATE jobs SET {change} WHERE id = {}", lease.job.key()));
    }
    let renewal = Renewal { leases: leases[1..].to_vec(), duration: None };
    let renewed = bed.store.renew(renewal).await.expect("it answers");
    use LeaseAnswer::{LeaseLost, Ok};
    assert_eq!(renewed, [LeaseLost, LeaseLost, Ok]);
    let finish = |lease: &_| Finish {
        lease: *lease,
        outcome: tallyd::job::Outcome::Completed,
        result: None,
        error: None,
    };
    let finished = bed.store.finish(leases.iter().map(finish).collect()).await;
    assert_eq!(finished.expect("it answers"), [LeaseLost, LeaseLost, LeaseLost, Ok]);
    assert_eq!(bed.count("a", "k", Count::Completed), 1);
}

#[tokio::test]
async fn a_batch_with_a_damaged_duplicate_is_created_whole() {
    let bed = Bed::new();
    let holder = bed.create(unique("u", UniqueUntil::Gone)).await.id;
    tamper(&bed, &format!("UPDATE jobs SET attempt = -1 WHERE id = {}", holder.key()));
    let batch = vec![job("a", "k"), unique("u", UniqueUntil::Gone), job("a", "k")];
    let created = bed.store.create_batch(batch).await.expect("the key's holder is known");
    assert_eq!(created.ids[1], holder);
    assert_eq!(created.duplicates, [1]);
    assert_eq!(bed.count("a", "k", Count::Created), 3);
}

#[tokio::test]
async fn operators_are_told_of_damage_and_the_store_goes_on() {
    let bed = Bed::new();
    let ids = [bed.create(job("a", "k")).await.id, bed.create(job("a", "k")).await.id];
    damage(&bed, ids[0]);
    let refused = bed.store.act(ids[0], Action::Cancel).await;
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
    tamper(&bed, &format!("UPDATE jobs SET queue = 999 WHERE id = {}", ids[0].key()));
    let refused = bed.store.act(ids[0], Action::Cancel).await;
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
    let all = Bulk {
        queue: "a".to_owned(),
        action: Action::Cancel,
        kind: None,
        before: None,
        limit: 10,
        from: None,
    };
    assert_eq!(bed.store.act_on_many(all).await.expect("it answers").count, 1);
    assert_eq!(bed.state(ids[1]).await, State::Cancelled);
}

#[tokio::test]
async fn a_recount_notices_what_was_changed_behind_the_back_of_the_server() {
    let bed = Bed::new();
    let ids = [bed.create(job("a", "k")).await.id, bed.create(job("a", "k")).await.id];
    assert_eq!(bed.mismatch().await, 0);
    tamper(&bed, &format!("UPDATE jobs SET state = 'dead' WHERE id = {}", ids[0].key()));
    assert_eq!(bed.mismatch().await, 2, "one too few is ready, one too many dead");
    tamper(&bed, &format!("DELETE FROM jobs WHERE id = {}", ids[0].key()));
    assert_eq!(bed.mismatch().await, 1, "one is missing");
    let mismatch = bed.metrics.snapshot();
    let family = mismatch.rest.iter().find(|family| family.name == "tallyd_tally_mismatch");
    let value = &family.expect("the gauge").samples[0].value;
    assert_eq!(*value, tallyd::metrics::RestValue::Number(1.0));
}

/// Jobs that change between two steps of a recount are no mismatch.
#[tokio::test]
async fn a_recount_allows_for_what_goes_on_meanwhile() {
    let bed = Bed::new();
    let jobs = (0..1_500).map(|_| job("a", "k")).collect();
    let ids = bed.store.create_batch(jobs).await.expect("created").ids;
    assert_eq!(bed.store.recount().await, Ok(Recounted::Going));
    for id in [ids[0], ids[1_499]] {
        bed.store.act(id, Action::Cancel).await.expect("ready jobs can be cancelled");
    }
    bed.create(job("a", "k")).await;
    assert_eq!(bed.claim(claim(&["a"], 1)).await.len(), 1);
    assert_eq!(bed.store.recount().await, Ok(Recounted::Done(0)));
    assert_eq!(bed.now(), Timestamp(bed.job(ids[0]).await.created_at.0));
}

#[tokio::test]
async fn counts_of_a_queue_that_are_wrong_are_found_by_the_recount() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    tamper(&bed, "UPDATE queues SET ready = 3 WHERE name = 'a'");
    let bed = bed.restart().await;
    assert_eq!(bed.mismatch().await, 2);
}

#[tokio::test]
async fn a_failed_store_is_neither_healthy_nor_ready() {
    let bed = Bed::new();
    let config = Arc::new(bed.config.clone());
    let stop = CancellationToken::new();
    let (store, metrics) = (bed.store.clone(), bed.metrics.clone());
    let api = Api::new(store, metrics, config, stop.clone(), bed.clock.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let api = api.expect("there can be one more thread");
    let serving = tokio::spawn(server::serve(api, listener, Routes::Whole, stop.clone()));
    let probe = async |path: &str| {
        let answer = crate::fixture::client()
            .get(format!("http://{address}/-/{path}"))
            .send()
            .await
            .expect("answered");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    };
    assert_eq!(probe("healthy").await, (200, "healthy\n".to_owned()));
    tamper(&bed, "DROP TABLE payloads");
    let failed = bed.store.create(job("a", "k")).await.expect_err("there is no table");
    assert!(matches!(failed, StoreError::Stopped(_)), "{failed}");
    for path in ["healthy", "ready"] {
        let (status, text) = probe(path).await;
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("store_stopped") && text.contains("payloads"), "{text}");
    }
    stop.cancel();
    serving.await.expect("it ends");
}

#[tokio::test]
async fn a_text_that_is_no_utf_8_concerns_its_own_job_only() {
    let bed = Bed::new();
    let damaged = bed.create(job("a", "k")).await.id;
    let sound = bed.create(job("a", "k")).await.id;
    let sql = format!("UPDATE jobs SET worker = CAST(x'ff' AS TEXT) WHERE id = {}", damaged.key());
    tamper(&bed, &sql);
    let error = bed.store.act(damaged, Action::Cancel).await.expect_err("it cannot be read");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(bed.claim_one("a").await.job.id, sound);
}

#[tokio::test]
async fn a_recount_passes_over_rows_that_it_cannot_read() {
    let bed = Bed::new();
    let jobs = (0..1_500).map(|_| job("a", "k")).collect();
    bed.store.create_batch(jobs).await.expect("created");
    assert_eq!(bed.mismatch().await, 0);
    tamper(
        &bed,
        "PRAGMA ignore_check_constraints = ON; UPDATE jobs SET state = CAST(x'ff' AS TEXT)",
    );
    assert_eq!(bed.mismatch().await, 1_500, "they are missing, and the pass ends all the same");
}

/// It stays due, so the time of what comes next must not be hidden behind it.
#[tokio::test]
async fn a_damaged_row_that_is_due_makes_no_other_late() {
    let bed = Bed::new();
    let first = bed.create(later(1)).await.id;
    let second = bed.create(later(10)).await;
    damage(&bed, first);
    bed.advance_secs(5);
    bed.tick().await;
    assert_eq!(*bed.store.due().borrow(), Some(second.run_at));
}

#[tokio::test]
async fn counts_below_zero_are_refused_at_the_start() {
    for sql in ["UPDATE totals SET pruned = -1", "UPDATE queues SET duplicates = -1"] {
        let bed = Bed::new();
        bed.create(job("a", "k")).await;
        tamper(&bed, sql);
        bed.store.close().await.expect("it closes");
        let refused = open(&bed.config, &bed.clock).err().expect(sql);
        assert!(matches!(refused, OpenError::Engine { .. }), "{refused}");
    }
}

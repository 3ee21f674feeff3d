//! Backups of the store, by themselves and under changes of every sort.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rusqlite::Connection;
use tallyd::store::{Action, BackupError, Bulk, NewJob, StoreError, Sweep};
use tallyd::tally::Count;

use crate::bed::{Bed, claim, job};
use crate::stored::Stored;

/// A store whose backups go into its own directory, and that keeps few jobs that have ended.
fn bed() -> Bed {
    Bed::with(|config| {
        config.backup_dir = config.data.parent().map(Into::into);
        config.defaults.max_completed = 100;
    })
}

#[tokio::test]
async fn a_backup_is_a_store_with_the_same_jobs_and_counts() {
    let bed = bed();
    for _ in 0..20 {
        bed.create(job("a", "k")).await;
    }
    let leased = bed.claim(claim(&["a"], 3)).await;
    bed.complete(leased[0].lease).await;
    bed.fail(leased[1].lease).await;
    let (identity, listed) = (bed.store.identity(), bed.list().await);
    let backup = bed.store.backup().await.expect("written");
    let again = bed.store.backup().await.expect("written");
    assert_ne!(backup.file, again.file, "the clock stands still");
    let later = bed.create(job("a", "k")).await;
    let bed = bed.restart_with(|config| config.data = backup.file).await;
    assert_eq!(bed.store.identity(), identity);
    assert_eq!(bed.list().await.len(), listed.len());
    assert_eq!(bed.store.job(later.id).await, Err(StoreError::NoSuchJob(later.id)));
    assert_eq!(bed.count("a", "k", Count::Created), 20);
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn a_closed_store_writes_no_backup() {
    let bed = bed();
    bed.store.stop_waiting().await.expect("told");
    assert_eq!(bed.store.backup().await, Err(StoreError::Backup(BackupError::GivenUp)));
    bed.store.close().await.expect("it closes");
    let refused = bed.store.backup().await.expect_err("it is closed");
    assert!(matches!(refused, StoreError::Stopped(_)), "{refused}");
}

/// The file grows, shrinks and is overwritten, and the log begins anew many times, while one backup
/// after the other is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_exact_whatever_changes_meanwhile() {
    let bed = bed();
    let done = Arc::new(AtomicBool::new(false));
    let (store, stop) = (bed.store.clone(), done.clone());
    let changing = tokio::spawn(async move {
        let large = NewJob { payload: Bytes::from(vec![b'1'; 20_000]), ..job("b", "large") };
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            let jobs = (0..400).map(|_| large.clone()).chain((0..400).map(|_| job("a", "k")));
            store.create_batch(jobs.collect()).await.expect("created");
            let action = Action::Cancel;
            let all = Bulk {
                queue: "b".into(),
                action,
                kind: None,
                before: None,
                limit: 400,
                from: None,
            };
            store.act_on_many(all).await.expect("cancelled");
            let mut sweep = Sweep::default();
            while let Some(next) = store.sweep(sweep).await.expect("swept").next {
                sweep = next;
            }
            rounds += 1;
        }
        rounds
    });
    for _ in 0..12 {
        let backup = bed.store.backup().await.expect("written");
        let stored = Stored::read(&backup.file);
        assert_eq!(stored.integrity, Vec::<String>::new());
        assert_eq!(stored.wrong_counts(), Vec::<String>::new());
        let copy = Connection::open(&backup.file).expect("opens");
        let pages = "PRAGMA page_count";
        let pages: u32 = copy.query_row(pages, [], |row| row.get(0)).expect("a number");
        assert_eq!(u64::from(pages) * 4_096, backup.bytes);
        drop(copy);
        std::fs::remove_file(backup.file).expect("removed");
    }
    done.store(true, Ordering::Relaxed);
    assert!(changing.await.expect("it ends") > 12);
    bed.store.close().await.expect("it closes");
}

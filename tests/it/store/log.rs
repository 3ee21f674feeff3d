//! The write-ahead log begins anew although we read all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tallyd::store::{Filter, NewJob};

use crate::bed::{Bed, job};

/// What the log may have at the most.
const LIMIT_BYTES: u64 = 64 << 20;

/// F9: our own readers stand in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_overlap_all_the_time_do_not_fill_the_log() {
    let bed = Bed::new();
    // Enough jobs to look through that a listing takes a while.
    bed.store.create_batch((0..10_000).map(|_| job("a", "k")).collect()).await.expect("created");
    let (done, listed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let list = || {
        let (store, done, listed) = (bed.store.clone(), done.clone(), listed.clone());
        let filter = Filter { kind: Some("none".to_owned()), limit: 1, ..Filter::default() };
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                store.list(filter.clone()).await.expect("no listing is refused");
                listed.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let listing: Vec<_> = (0..6).map(|_| list()).collect();
    let large = NewJob { payload: Bytes::from(vec![b'1'; 1 << 20]), ..job("a", "k") };
    let log = bed.path().join("t.db-wal");
    let mut greatest = 0;
    for created in 0..300 {
        let answer = bed.store.create(large.clone()).await;
        answer.unwrap_or_else(|error| panic!("{created} MiB were written: {error}"));
        greatest = greatest.max(std::fs::metadata(&log).expect("there is a log").len());
    }
    done.store(true, Ordering::Relaxed);
    for listing in listing {
        listing.await.expect("it ends");
    }
    assert!(greatest < LIMIT_BYTES, "the log has grown to {greatest} bytes");
    assert!(listed.load(Ordering::Relaxed) > 6, "and listings went on");
}

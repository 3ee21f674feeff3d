//! What is wrong with a store after a power cut: the real recovery opens what is left, and the
//! oracle judges what it makes of it.

use std::cell::RefCell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tallyd::clock::Clock;
use tallyd::config::Config;
use tallyd::store::OpenError;
use tokio::runtime::Runtime;

use super::clients::Clients;
use super::histories::{Before, cut};
use super::recording::Cut;
use crate::bed;
use crate::oracle::{Entry, violations};
use crate::stored::Stored;

/// What is wrong with the store that is left, one line each.
pub fn wrong(config: &Config, before: Before<'_>, runtime: &Runtime) -> Vec<String> {
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let (mut wrong, told) = runtime.block_on(reopened(config, before))?;
        let stored = Stored::read(&config.data);
        wrong.extend(violations(before.entries.iter().chain(&told), &[], &stored));
        Ok::<_, OpenError>(wrong)
    }));
    match judged {
        Ok(Ok(wrong)) => wrong,
        Ok(Err(error)) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            vec![format!("the store does not open: {error}{cause}")]
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map_or("a panic", |text| text);
            vec![format!("the store does not work: {text}")]
        }
    }
}

/// Opens and closes it; what its first scrape has wrong, and what callers are told then.
async fn reopened(
    config: &Config,
    before: Before<'_>,
) -> Result<(Vec<String>, Vec<Entry>), OpenError> {
    let clock = Clock::manual(before.now);
    let (store, metrics) = bed::open(config, &clock)?;
    let snapshot = metrics.snapshot();
    let mut wrong = before.cut.map(|before| less(before, &cut(&snapshot))).unwrap_or_default();
    let broken = snapshot.rows.iter().filter_map(|row| Some((row, row.counts.check().err()?)));
    wrong.extend(broken.map(|(row, broken)| format!("{} {}: {broken:?}", row.queue, row.kind)));
    let told = RefCell::new(Vec::new());
    let note = |entry| told.borrow_mut().push(entry);
    Clients::new(&store, &clock, &note, before.entries, 0).settle(before.entries).await;
    store.close().await.expect("it closes");
    Ok((wrong, told.take()))
}

/// Counts that went back.
fn less(before: &Cut, after: &Cut) -> Vec<String> {
    let mut wrong = Vec::new();
    for (pair, counts) in before {
        let now = after.get(pair);
        let is_less = now.is_none_or(|now| now.iter().zip(counts).any(|(now, was)| now < was));
        if is_less && counts.iter().any(|count| *count > 0) {
            wrong.push(format!("the counts of {pair:?} went back from {counts:?} to {now:?}"));
        }
    }
    wrong
}

//! What a batch may still add to the log while somebody else's reader keeps it from being copied.
//!
//! The log must not pass 64 MiB, and nothing is ever copied out of it before the reader has gone. So
//! what brings work stops first, what begins it next, and what ends it last:
//!
//! ```text
//! length of the log            48 MiB                  56 MiB                  64 MiB
//! creates                ......|
//! claims and the sweeper ..............................|
//! finishes, renewals, cancels and all else .....................................|
//! ```
//!
//! Whoever comes behind that gets 503 and loses nothing: as the sweeper rests, no lease expires.
//!
//! How many pages a change takes is known only after its commit, so it is estimated from above.
//! Pages that a batch changes several times are logged once: a finish alone takes about 12, one of
//! a hundred less than one.

use super::checkpoint::PAGE_BYTES;
use crate::store::StoreError;

/// The length that the log may not pass: 64 MiB.
const MOST: i64 = (64 << 20) / PAGE_BYTES;

/// What is left to those who end work when no more may begin: 8 MiB.
const KEPT_FOR_ENDS: i64 = (8 << 20) / PAGE_BYTES;

/// The most pages that a batch takes whatever it does: of the ledger, the queues and the totals, and
/// the ends of the indexes.
const BATCH_PAGES: i64 = 20;

/// The most pages that a job takes beside its bytes: its row, what it leaves, and a share of the
/// indexes.
const JOB_PAGES: i64 = 3;

/// What the batch under way may still add.
pub(super) struct Quota {
    /// In pages; none if the log can be copied.
    left: Option<i64>,
}

impl Quota {
    /// The log can be copied.
    pub(super) fn unlimited() -> Self {
        Self { left: None }
    }

    /// The log has so many pages, and nobody can copy it.
    pub(super) fn held(pages: i64) -> Self {
        Self { left: Some(MOST - pages - BATCH_PAGES) }
    }

    /// Takes room to change so many jobs, which bring so many bytes.
    pub(super) fn take(&mut self, jobs: usize, bytes: usize) -> Result<(), StoreError> {
        let Some(left) = &mut self.left else { return Ok(()) };
        let needed = pages_of(jobs).saturating_add(pages_of_bytes(bytes));
        if needed > *left {
            return Err(StoreError::Busy);
        }
        *left -= needed;
        Ok(())
    }

    /// Takes room to begin work on jobs, but leaves enough to end it; answers on how many.
    pub(super) fn take_beginnings(&mut self, most: usize) -> Result<usize, StoreError> {
        let Some(left) = &mut self.left else { return Ok(most) };
        let fit = usize::try_from((*left - KEPT_FOR_ENDS) / JOB_PAGES).unwrap_or(0);
        if fit == 0 {
            return Err(StoreError::Busy);
        }
        let jobs = most.min(fit);
        *left -= pages_of(jobs);
        Ok(jobs)
    }

    /// Gives back what was taken for jobs that were not changed.
    pub(super) fn give_back(&mut self, jobs: usize) {
        if let Some(left) = &mut self.left {
            *left += pages_of(jobs);
        }
    }

    /// Whether there is any.
    pub(super) fn is_limited(&self) -> bool {
        self.left.is_some()
    }
}

fn pages_of(jobs: usize) -> i64 {
    i64::try_from(jobs).unwrap_or(i64::MAX).saturating_mul(JOB_PAGES)
}

/// Pages that so many bytes fill.
pub(super) fn pages_of_bytes(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX) / PAGE_BYTES + 1
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::seq::SliceRandom;
    use rusqlite::Connection;

    use super::super::tests::Traced;
    use super::*;
    use crate::job::Outcome;
    use crate::store::{Action, Claim, Finish, JobId, Lease, NewJob, Renewal, Start};

    #[test]
    fn what_begins_work_is_refused_first_and_leaves_room_to_end_it() {
        let mut quota = Quota::held(MOST - BATCH_PAGES - KEPT_FOR_ENDS - 10 * JOB_PAGES);
        assert_eq!(quota.take_beginnings(8), Ok(8));
        assert_eq!(quota.take_beginnings(8), Ok(2), "as many as fit");
        assert_eq!(quota.take_beginnings(8), Err(StoreError::Busy));
        quota.give_back(1);
        assert_eq!(quota.take_beginnings(8), Ok(1));
        let jobs = usize::try_from(KEPT_FOR_ENDS / JOB_PAGES).expect("a few") - 1;
        assert_eq!(quota.take(jobs, 1), Ok(()));
        assert_eq!(quota.take(1, 20_000), Err(StoreError::Busy), "its result does not fit");
        assert_eq!(quota.take(1, 0), Ok(()));
        assert_eq!(quota.take(1, 0), Err(StoreError::Busy));
    }

    #[test]
    fn a_log_that_can_be_copied_takes_whatever_comes() {
        let mut quota = Quota::unlimited();
        assert_eq!(quota.take_beginnings(1_000_000), Ok(1_000_000));
        assert_eq!(quota.take(1_000_000, usize::MAX), Ok(()));
        assert!(!quota.is_limited() && Quota::held(0).is_limited());
    }

    const STORED: usize = 20_000;
    const CHANGED: usize = 250;

    /// A store with jobs of which those that are next lie far apart, and a reader that keeps the log
    /// from being copied.
    fn scattered() -> (Traced, Connection, Vec<JobId>) {
        let mut traced = Traced::new();
        let reader = Connection::open(traced.engine.file()).expect("opens");
        reader.execute_batch("BEGIN; SELECT count(*) FROM jobs").expect("it reads");
        let priorities = (0..STORED).map(|number| (number % 10) as u8);
        let job = |priority| NewJob {
            queue: "q".to_owned(),
            kind: "k".to_owned(),
            payload: Bytes::from_static(b"[1,2,3]"),
            priority,
            start: Start::Now,
            max_attempts: None,
            timeout: None,
            unique: None,
            traceparent: None,
        };
        let mut jobs: Vec<NewJob> = priorities.map(job).collect();
        jobs.shuffle(&mut rand::rng());
        let created = traced.commit(|engine| engine.create_batch(&jobs)).expect("created");
        (traced, reader, created.ids)
    }

    /// Does something in a batch of its own and checks that it took no more pages than estimated.
    fn measured<R>(traced: &mut Traced, done: impl FnOnce(&mut super::super::Engine) -> R) -> R {
        let bytes = |traced: &Traced| traced.engine.checkpointer.wal_bytes().cast_signed();
        let before = bytes(traced);
        let done = traced.commit(done);
        traced.engine.after_commit();
        let pages = (bytes(traced) - before) / PAGE_BYTES;
        let estimated = BATCH_PAGES + CHANGED as i64 * JOB_PAGES;
        eprintln!("{pages} pages, at most {estimated} estimated");
        assert!((1..=estimated).contains(&pages), "{pages} pages");
        done
    }

    #[test]
    fn changes_take_no_more_pages_than_estimated_also_if_they_lie_far_apart() {
        let (mut traced, reader, ids) = scattered();
        let claim = Claim {
            queues: vec!["q".to_owned()],
            max: CHANGED,
            max_bytes: usize::MAX,
            duration: None,
            worker: None,
            own: false,
        };
        let mut leases: Vec<Lease> = Vec::new();
        for _ in 0..4 {
            let claimed = measured(&mut traced, |engine| engine.claim(&claim)).expect("claimed");
            leases.extend(claimed.leases());
        }
        leases.shuffle(&mut rand::rng());
        let (some, others) = leases.split_at(CHANGED);
        let renewal = Renewal { leases: some.to_vec(), duration: None };
        measured(&mut traced, |engine| engine.renew(&renewal)).expect("renewed");
        let failed = Outcome::Failed { permanent: false, retry_in: std::time::Duration::ZERO };
        for (outcome, leases) in [(Outcome::Completed, some), (failed, &others[..CHANGED])] {
            let text = "x".repeat(100);
            let finish = |lease: &Lease| Finish {
                lease: *lease,
                outcome,
                result: Some(Bytes::from_static(b"[1,2,3]")),
                error: Some(text.clone()),
            };
            let finishes: Vec<Finish> = leases.iter().map(finish).collect();
            measured(&mut traced, |engine| engine.finish(&finishes)).expect("finished");
        }
        let waiting: Vec<JobId> = ids.into_iter().rev().take(CHANGED).collect();
        measured(&mut traced, |engine| {
            for id in waiting {
                drop(engine.act(id, Action::Cancel)); // some have ended already
            }
        });
        drop(reader);
    }
}

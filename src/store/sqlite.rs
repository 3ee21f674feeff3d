//! The embedded engine: one SQLite file, one writing connection, a few reading ones.
//!
//! # On disk
//!
//! `FILE` with its log `FILE-wal`, `FILE.lock` (held while open), `FILE.reserve` (room to finish
//! jobs when the disk is full) and `FILE.vN.bak` (what a migration started from). The schema is in
//! `sqlite/schema.sql`.
//!
//! # Why it is laid out so
//!
//! Measured with `cargo bench --bench layout -- EXPERIMENT`, on two cores: the whole life of jobs
//! (insert, claim, finish, prune) in transactions of 100, variants in turns, medians. Two equal
//! variants differ by up to 5 %, so ratios within that are ties.
//!
//! *Payload apart from the row* (`payload`): ratio to payload in the row, bytes of log per job.
//!
//! ```text
//! payload   100 B  200 B  400 B  512 B  1 KiB  2 KiB  4 KiB  64 KiB
//! ratio      0.95   0.98   1.01   1.03   1.12   1.42   1.55    3.33
//! log, in   2,437  2,817  3,548  4,219  6,316 13,893 15,667 134,353
//! apart     2,443  2,677  3,152  3,225  4,340  6,479  7,112  68,950
//! ```
//!
//! A threshold of 512 bytes would take the better side everywhere, for up to 5 % of the smallest
//! jobs; one path for all payloads is worth more. Results and error texts lie apart for the same
//! reason.
//!
//! *Indexes* (`indexes`): partial ones, each for one question. One full index over (queue,
//! state, priority, run_at) runs at 0.89 and logs 25 % more. The one that finds the waiting jobs of
//! a queue, for a bulk cancel, runs at 0.96, or 0.98 and 3 % more log if each job is scheduled first:
//! ties. *State as text* (`state`): integers
//! are 1.02, a tie, and say nothing to a person with a shell. *Claim* (`claim`): a SELECT and one
//! cached UPDATE a row; `UPDATE … RETURNING` runs at 0.89 (one job) to 0.94 (100), in no promised
//! order.
//!
//! *Jobs in a transaction* (`batch`): creates per second, and bytes of log each.
//!
//! ```text
//! jobs        1       4      16       64      256     1024     4096
//! per s   6,984  24,828  67,134  142,677  194,968  219,104  224,621
//! log    13,553   4,335   1,904      817      466      364      334
//! ```
//!
//! *`auto_vacuum = INCREMENTAL`* (`vacuum`): costs 4 to 5 % of the life and 11 % more log against
//! NONE, under which a file never shrinks: 372 MiB stay 372 MiB after a million jobs came and went.
//! Giving pages back only while a quarter of the file is free costs nothing more, giving them back
//! at each prune another 4 %. *Pages* (`pages`): of 4 KiB; 8 KiB make claims among a million jobs
//! 1.01 to 1.22 times as fast for a log a third larger. For checkpoints see [`checkpoint`].

mod act;
mod backup;
mod bulk;
mod checkpoint;
mod claim;
mod create;
mod disk;
mod finish;
#[cfg(test)]
mod guards;
mod index;
mod kept;
mod log;
mod open;
mod queues;
mod read;
mod reading;
mod recount;
mod recover;
mod rows;
mod schema;
mod state;
mod steps;
mod sweep;
#[cfg(test)]
mod tests;
mod unwritten;

pub(super) use backup::{BackupStep, Copying, Source, remove_leftovers};
pub(super) use log::Mark;
pub(super) use open::open;
pub(super) use read::Readers;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::watch;
use tracing::{info, warn};

use self::checkpoint::Checkpointer;
use self::disk::{Lock, Reserve};
use self::log::Log;
use self::state::State;
use self::unwritten::Unwritten;
use super::operation::Failure;
use super::{JobId, OpenError, StoreError};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::metrics::{Metrics, StoreFiles};
use crate::tally::TallyDelta;

/// After so many bytes of the log more, or less, the room on the disk is measured.
const MEASURE_EACH_BYTES: u64 = 1 << 20;

/// Free pages that are never given back, 4 MiB: the next jobs need them.
const FREE_PAGES_KEPT: i64 = 1_024;

/// The writing side of an open store.
pub(super) struct Engine {
    connection: Connection,
    state: State,
    /// The store's file, by its own name.
    file: PathBuf,
    config: Arc<Config>,
    clock: Clock,
    metrics: Arc<Metrics>,
    checkpointer: Checkpointer,
    /// The log as a file, for backups.
    log: Arc<Log>,
    /// Room for the index of the log, held open: closing it would end SQLite's locks on it.
    index: File,
    reserve: Reserve,
    /// Renewals of which the file knows nothing.
    unwritten: Unwritten,
    /// Whether the disk has too little room for new jobs, and the log's length when it was measured.
    is_short_of_room: bool,
    measured_at: u64,
    /// The key of the newest job; keys ascend even if the wall clock does not.
    last_key: i64,
    /// Rows changed since the connection was opened, as it was when the batch began.
    changes: u64,
    /// Whether the files shall be looked after once the batch is committed.
    files_are_due: bool,
    /// The keys of the damaged rows that were reported.
    reported: RefCell<HashSet<i64>>,
    /// When the next job is due or lease ends, for the sweeper.
    due: watch::Sender<Option<Timestamp>>,
    /// What marks the processes that work for it.
    mark: Arc<str>,
    /// Held until everything else is closed.
    lock: Option<Lock>,
}

impl Engine {
    /// The store's file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The UUID that the store was given when it was made.
    pub(super) fn identity(&self) -> Arc<str> {
        self.state.identity.clone()
    }

    /// What marks the processes that work for this store.
    pub(super) fn mark(&self) -> Arc<str> {
        self.mark.clone()
    }

    /// Begins a batch whose creates bring so many bytes to the log.
    pub(super) fn begin(&mut self, brought: usize) -> Result<(), Failure> {
        if let Some(reason) = self.checkpointer.failure() {
            return Err(Failure::Fatal(reason));
        }
        self.changes = self.connection.total_changes();
        self.checkpointer.catch_up(&self.connection, brought);
        let begun = self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
        match begun {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                Err(Failure::Busy)
            }
            begun => Ok(begun.map(drop)?),
        }
    }

    /// Writes the counts that the batch changed, then commits and syncs; what to publish, if
    /// anything changed.
    pub(super) fn commit(&mut self) -> Result<Option<TallyDelta>, Failure> {
        let delta = self.state.settle(&self.connection)?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok((self.connection.total_changes() != self.changes).then_some(delta))
    }

    /// What follows a commit: attempts that were ended learn it, the sweeper what is due next, and
    /// the log what was done.
    pub(super) fn after_commit(&mut self) {
        self.state.revoke();
        self.state.write_steps();
        if let Some(due) = self.state.take_due() {
            self.due.send_if_modified(|known| {
                let earlier = known.is_none_or(|known| due < known);
                if earlier {
                    *known = Some(due);
                }
                earlier
            });
        }
        self.checkpointer.after_commit(&self.connection, &self.metrics);
        if self.checkpointer.wal_bytes().abs_diff(self.measured_at) >= MEASURE_EACH_BYTES {
            self.measure_room();
        }
        if std::mem::take(&mut self.files_are_due) {
            self.look_after_files();
        }
    }

    /// Undoes a batch that failed; an error is the reason to stop.
    pub(super) fn roll_back(&mut self) -> Result<(), String> {
        let undo = || -> rusqlite::Result<State> {
            if !self.connection.is_autocommit() {
                self.connection.execute_batch("ROLLBACK")?;
            }
            self.state.reload(&self.connection, &self.config)
        };
        self.checkpointer.tell_again();
        self.state = undo().map_err(|error| format!("cannot undo a batch: {error}"))?;
        Ok(())
    }

    /// Notes again that a queue has ready jobs, for the next batch.
    pub(super) fn note_ready(&mut self, queue: &str) {
        self.state.note_ready_again(queue);
    }

    /// The queues that have had a job become ready since this was last asked.
    pub(super) fn take_ready(&mut self) -> Vec<Arc<str>> {
        self.state.take_ready()
    }

    /// Why no job can be created now, if so.
    pub(super) fn refuses_creates(&self) -> Option<StoreError> {
        if self.reserve.is_given_up() || self.is_short_of_room {
            Some(StoreError::DiskFull)
        } else if self.checkpointer.is_over_limit() {
            Some(StoreError::Busy)
        } else {
            None
        }
    }

    /// Whether no attempt may begin now, nor an operator change jobs: the log is too long for more than
    /// the ends of what was begun.
    pub(super) fn refuses_claims(&self) -> bool {
        self.checkpointer.is_left_to_ends()
    }

    /// Makes room on a full disk.
    pub(super) fn give_up_reserve(&mut self) {
        self.reserve.give_up();
    }

    /// Gives pages back to the file system when there are many free ones, and has the files
    /// looked after once the batch is committed.
    fn tidy_file(&mut self) -> rusqlite::Result<()> {
        self.files_are_due = true;
        let pages = |pragma| -> rusqlite::Result<i64> {
            self.connection.prepare_cached(pragma)?.query_row([], |row| row.get(0))
        };
        let free = pages("PRAGMA freelist_count")?;
        if !self.checkpointer.is_long()
            && free > FREE_PAGES_KEPT
            && free > pages("PRAGMA page_count")? / 4
        {
            let mut vacuum = self.connection.prepare_cached("PRAGMA incremental_vacuum(256)")?;
            let mut given_back = vacuum.query([])?; // a row for each page
            while given_back.next()?.is_some() {}
        }
        Ok(())
    }

    /// Looks whether there is room for new jobs beside what finishes need: the log may still have to
    /// be copied, and grow a little until it begins anew.
    fn measure_room(&mut self) {
        self.measured_at = self.checkpointer.wal_bytes();
        let Ok(free) = disk::free_bytes(self.file()) else { return };
        let needed = self.checkpointer.uncopied_bytes() + self.reserve.margin_bytes();
        let is_short = free < needed;
        if is_short != self.is_short_of_room {
            self.is_short_of_room = is_short;
            self.checkpointer.set_short_of_room(is_short);
            if is_short {
                warn!(event = "disk_nearly_full", free, needed, "refusing creates");
            } else {
                info!(event = "disk_has_room", free, "accepting creates");
            }
        }
    }

    /// Takes the reserve back when there is room, tries again to copy a log that is long, and
    /// reports the sizes of the files.
    fn look_after_files(&mut self) {
        self.reserve.take_back_if_possible();
        self.measure_room();
        self.checkpointer.retry(&self.connection, &self.metrics);
        let size_bytes = std::fs::metadata(self.file()).map_or(0, |file| file.len());
        self.metrics.set_store_files(StoreFiles {
            size_bytes,
            wal_bytes: self.checkpointer.wal_bytes(),
            free_bytes: disk::free_bytes(self.file()).unwrap_or(0),
        });
    }

    /// The id of a new job.
    fn next_id(&mut self, now: Timestamp) -> JobId {
        self.last_key = JobId::key_at(now.0).max(self.last_key + 1);
        JobId::new(self.last_key, rand::random())
    }

    /// Closes the files; an error says which and why.
    pub(super) fn close(self) -> Result<(), String> {
        let file = self.file.display().to_string();
        let synced = self.checkpointer.stop();
        let closed = self.connection.close();
        drop((synced, self.index));
        closed.map_err(|(_, error)| format!("cannot close {file}: {error}"))
    }
}

impl OpenError {
    /// Why the engine could not open the file, by the sort of its error.
    fn engine(file: &Path, error: rusqlite::Error) -> Self {
        let file = file.to_owned();
        if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
            return Self::NotAStore { file, found: "not a database".into() };
        }
        match Failure::from(error) {
            Failure::Full => Self::DiskFull { file },
            Failure::Fatal(reason) => Self::Engine { file, source: reason.into() },
            Failure::Busy | Failure::Refused(_) => {
                Self::Engine { file, source: "another program holds it".into() }
            }
        }
    }
}

impl From<rusqlite::Error> for Failure {
    /// A full disk can be waited out, nothing else can. That the log's index cannot grow is found out
    /// after the commit was synced: whoever asked would be refused what exists after a crash.
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Fatal(error.to_string()),
        }
    }
}

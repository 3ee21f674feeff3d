//! Keeping the log short without making commits wait.
//!
//! ```text
//! pages in the log:  0 ...... THREAD_AT ................. WRITER_AT .......... LIMIT ........ CLAIM_LIMIT
//! who copies them:             a thread, again and again   and the writer      creates get    claims and bulk
//!                                                          copies the rest     503            operations too
//! ```
//!
//! The thread's PASSIVE checkpoints copy what was committed before they began, beside the writer.
//! They never catch up with a writer that goes on, so from half of the limit the writer copies the
//! little that is left by itself, after which the log begins at its start again.
//!
//! SQLite syncs the database file only in a checkpoint that reaches the end of the log, which would
//! leave the sync of everything copied to the writer. So the thread syncs the file itself, and from
//! half of the limit copies twice in a row, so that the writer finds next to nothing to do. Measured
//! with `cargo bench --bench layout -- checkpoints`, in ms, commits of 100 jobs (of 13):
//!
//! ```text
//! plan                                 p99          longest    writer's copy, median / longest
//! writer copies every 4 MiB            4.51 (0.39)  6 (6)      4.1 / 5.3  (1.7 / 5.7)
//! thread every 4 MiB, no sync          0.74 (0.37)  14 (5)     10.3 / 13.6 (2.9 / 5.2)
//! thread syncs                         1.45 (0.43)  5 (3)      3.1 / 4.3  (1.7 / 2.0)
//! thread syncs, twice in a row (this)  1.37 (0.45)  4 (4)      0.6 / 0.7  (0.4 / 0.5)
//! the same every 1 MiB                 1.01 (0.66)  2 (3)      0.5 / 0.6  (0.4 / 0.5)
//! ```
//!
//! Every 1 MiB costs 4–6 % of the throughput; the other plans cost none of it.
//!
//! When the disk has little room left, the writer's turn comes as early as the thread's: the log begins
//! anew in the room that it has, and what is not copied yet still fits into the file.
//!
//! From `CLAIM_LIMIT` on renewals are not written, or leases that run long would fill any log.
//!
//! The log only begins at its start again when nobody reads from it. Our own listings can overlap for
//! ever, so they pause when they are in the way. A reader of somebody else is not waited for.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};
use tracing::warn;

use self::copy::{Copied, CopyError, begins_anew, copy};
use super::backup::BackupStep;
use super::log::{Changed, Log, Mark};
use super::open::flags;
use super::reading::Reading;
use crate::metrics::Metrics;
use crate::store::OpenError;

mod copy;

/// The bytes of a page in the log, with its header.
const PAGE_BYTES: i64 = 4_096 + 24;

/// The log's length at which the thread copies: 4 MiB.
const THREAD_AT: i64 = (4 << 20) / PAGE_BYTES;

/// The length from which the writer copies the rest: 32 MiB.
const WRITER_AT: i64 = (32 << 20) / PAGE_BYTES;

/// The length from which our own reads pause in any case: 40 MiB.
const PAUSE_AT: i64 = (40 << 20) / PAGE_BYTES;

/// The length from which creates are refused: 48 MiB. What a batch of them brings may pass it by 4.
const LIMIT: i64 = (48 << 20) / PAGE_BYTES;
const OVER_LIMIT: i64 = (4 << 20) / PAGE_BYTES;

/// The length from which no attempt begins either, and nothing is promoted or pruned: 56 MiB. What runs
/// may still renew its lease, without the log, and end, for which 250 attempts take 8 MiB if each ends by itself.
const CLAIM_LIMIT: i64 = (56 << 20) / PAGE_BYTES;

/// How long the writer waits for the thread, and for our own reads, when the log has reached its limit.
const CATCH_UP: Duration = Duration::from_millis(500);

/// The writer's end.
pub(super) struct Checkpointer {
    /// Pages in the log after the last commit.
    pages: Arc<AtomicI64>,
    /// Whether the log must be kept shorter than usual.
    is_short_of_room: bool,
    /// Pages up to which the thread was last asked to copy.
    asked_at: i64,
    /// The log is over its limit, and copying it does not help until the next look.
    is_held: bool,
    /// The log's length when it was last looked at without a commit.
    looked_at: i64,
    /// The log's length when the writer had copied all of it: the next commit begins at its start,
    /// unless somebody reads.
    copied_at: Option<i64>,
    reading: Arc<Reading>,
    /// The log's length when our own reads paused last.
    paused_at: i64,
    shared: Arc<Shared>,
    /// The store's file. Closing any descriptor of it drops SQLite's locks on it, so this one must
    /// outlive all connections.
    file: Arc<File>,
    /// None once it was joined.
    thread: Option<JoinHandle<()>>,
    /// What changes while a backup is made, and whether nothing is copied meanwhile.
    changed: Option<Changed>,
    is_still: bool,
}

#[derive(Default)]
struct Shared {
    order: Mutex<Order>,
    changed: Condvar,
}

#[derive(Default)]
struct Order {
    wanted: bool,
    running: bool,
    /// Whether to copy twice in a row, so that the writer finds little left.
    twice: bool,
    stop: bool,
    /// The thread has copied all but what was committed meanwhile.
    near: bool,
    /// Pages of the log that are in the file as well.
    copied: i64,
    /// A sync has failed: what is on disk is not known any more.
    failed: Option<String>,
    /// Failures that go away by themselves, for the writer to count.
    errors: u64,
}

impl Order {
    /// Notes what a checkpoint came to; one that could not begin says nothing.
    fn note_copied(&mut self, copied: &Copied) {
        if copied.pages >= 0 {
            self.copied = copied.pages;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().expect("nothing panics while it holds the order")
    }
}

impl Checkpointer {
    /// Starts the thread, with a connection of its own; so many pages are in the log.
    pub(super) fn start(
        file: &Path,
        writer: &mut Connection,
        pages: i64,
    ) -> Result<Self, OpenError> {
        let pages = Arc::new(AtomicI64::new(pages));
        let counter = pages.clone();
        let hook = move |_: &mut Wal, pages: std::ffi::c_int| {
            counter.store(pages.into(), Ordering::Relaxed);
            Ok(())
        };
        writer.wal_hook(Some(hook)).map_err(|error| OpenError::engine(file, error))?;
        let connection = Connection::open_with_flags(file, flags(true))
            .and_then(|connection| super::open::configure(&connection).map(|()| connection))
            .map_err(|error| OpenError::engine(file, error))?;
        let shared = Arc::new(Shared::default());
        let io = |source| OpenError::Io {
            doing: "start the checkpoints of",
            file: file.to_owned(),
            source,
        };
        let file = File::options().read(true).write(true).open(file).map(Arc::new).map_err(io)?;
        let (for_thread, synced) = (shared.clone(), file.clone());
        let thread = thread::Builder::new()
            .name("tallyd-checkpoint".into())
            .spawn(move || copy_when_asked(&connection, &for_thread, &synced))
            .map_err(io)?;
        Ok(Self {
            pages,
            is_short_of_room: false,
            asked_at: 0,
            is_held: false,
            looked_at: 0,
            copied_at: None,
            reading: Reading::new(),
            paused_at: 0,
            shared,
            file,
            thread: Some(thread),
            changed: None,
            is_still: false,
        })
    }

    /// What our own reads go through.
    pub(super) fn reading(&self) -> Arc<Reading> {
        self.reading.clone()
    }

    /// Bytes of the log that are in use.
    pub(super) fn wal_bytes(&self) -> u64 {
        (self.pages.load(Ordering::Relaxed) * PAGE_BYTES).unsigned_abs()
    }

    /// Bytes by which the file grows at most when the rest of the log is copied.
    pub(super) fn uncopied_bytes(&self) -> u64 {
        let copied = self.shared.lock().copied;
        ((self.pages.load(Ordering::Relaxed) - copied).max(0) * PAGE_BYTES).unsigned_abs()
    }

    /// Keeps the log shorter than usual from now on, or not any more.
    pub(super) fn set_short_of_room(&mut self, is_short: bool) {
        self.is_short_of_room = is_short;
    }

    /// Whether what can wait should not make the log longer.
    pub(super) fn is_long(&self) -> bool {
        self.pages.load(Ordering::Relaxed) >= WRITER_AT
    }

    /// Whether the log cannot be kept short, since somebody else holds the file, and the batch would
    /// bring it over the limit of creates.
    pub(super) fn is_over_limit(&self) -> bool {
        self.is_held
    }

    /// Whether it is so long, for the same reason, that only what was begun may go on and end.
    pub(super) fn is_left_to_ends(&self) -> bool {
        self.is_held && self.pages.load(Ordering::Relaxed) >= CLAIM_LIMIT
    }

    /// Before a batch whose creates bring so many bytes, if the log would pass their limit: waits for the
    /// thread and our own reads and copies the rest, so that only somebody else's reader can keep it.
    pub(super) fn catch_up(&mut self, connection: &Connection, brought: usize) {
        let pages = self.pages.load(Ordering::Relaxed);
        let brought = i64::try_from(brought).unwrap_or(i64::MAX) / PAGE_BYTES;
        // Below PAUSE_AT a backup may need the file as it is.
        if pages < PAUSE_AT || (pages < LIMIT && pages + brought < LIMIT + OVER_LIMIT) {
            self.is_held = false;
        } else if !self.is_held {
            self.reading.pause();
            let order = self.shared.lock();
            let is_copying = |order: &mut Order| order.wanted || order.running;
            let waited = self.shared.changed.wait_timeout_while(order, CATCH_UP, is_copying);
            drop(waited.expect("nothing panics while it holds the order"));
            let is_ours = !self.reading.wait_for_none(CATCH_UP);
            let is_copied = self.copy_rest(connection);
            let is_pinned = self.pages.load(Ordering::Relaxed) > 0;
            self.is_held = !is_copied || (is_pinned && !is_ours);
            if self.is_held {
                self.reading.resume(); // it is not for them to make room
            }
        }
    }

    /// Copies what is left; whether nothing is. The log has no length then, unless a reader keeps it
    /// from beginning anew.
    fn copy_rest(&self, connection: &Connection) -> bool {
        match copy(connection) {
            Ok(copied) if copied.rest == 0 && !begins_anew(connection) => {
                self.shared.lock().note_copied(&copied);
                true
            }
            Ok(Copied { rest: 0, .. }) => {
                self.pages.store(0, Ordering::Relaxed);
                self.shared.lock().copied = 0;
                true
            }
            Ok(copied) => {
                self.shared.lock().note_copied(&copied);
                false
            }
            Err(error) => {
                self.shared.note(&error);
                false
            }
        }
    }

    /// Why the store must stop, if a sync has failed.
    pub(super) fn failure(&self) -> Option<String> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Some("its checkpoint thread has ended unexpectedly".into());
        }
        self.shared.lock().failed.clone()
    }

    /// Asks the thread to copy what has come, or copies the rest.
    pub(super) fn after_commit(&mut self, connection: &Connection, metrics: &Metrics) {
        let pages = self.pages.load(Ordering::Relaxed);
        if let Some(changed) = &mut self.changed {
            changed.note(pages.unsigned_abs());
            self.is_still &= pages < PAUSE_AT; // a backup does not make creates wait
        }
        let copied_at = self.copied_at.take();
        if pages < self.asked_at {
            self.asked_at = 0; // the log has begun at its start again
            self.shared.lock().copied = 0;
            self.paused_at = 0;
            self.reading.resume();
        } else if (copied_at.is_some() || pages >= PAUSE_AT)
            && !self.is_held
            && pages - self.paused_at >= THREAD_AT
        {
            // Once for each few MiB: if it is somebody else who reads, it is of no use.
            self.paused_at = pages;
            self.reading.pause();
        }
        if pages - self.asked_at >= THREAD_AT {
            self.look(pages, connection, metrics);
        }
    }

    /// The same when nothing was committed: a reader that held the file may have gone.
    pub(super) fn retry(&mut self, connection: &Connection, metrics: &Metrics) {
        let pages = self.pages.load(Ordering::Relaxed);
        self.is_held = false;
        if self.is_still {
            return;
        }
        if pages >= THREAD_AT && pages != self.looked_at {
            self.looked_at = if pages >= self.writer_at() { 0 } else { pages }; // once is enough
            self.look(pages, connection, metrics);
        }
    }

    /// The length from which the writer copies the rest, for now.
    fn writer_at(&self) -> i64 {
        if self.is_short_of_room { THREAD_AT } else { WRITER_AT }
    }

    fn look(&mut self, pages: i64, connection: &Connection, metrics: &Metrics) {
        if self.is_still {
            return;
        }
        let writer_at = self.writer_at();
        let mut order = self.shared.lock();
        for _ in 0..std::mem::take(&mut order.errors) {
            metrics.store_error();
        }
        if order.running || order.wanted {
            return;
        }
        if pages >= writer_at && std::mem::take(&mut order.near) {
            drop(order);
            if self.copy_rest(connection) {
                self.copied_at = Some(pages);
            }
            // If a reader keeps the log from beginning anew, more has to come before the next try.
            self.asked_at = pages;
        } else {
            order.wanted = true;
            order.twice = pages >= writer_at;
            // The writer's turn comes right after the thread's, not when more has come.
            self.asked_at = if order.twice { pages - THREAD_AT } else { pages };
            self.shared.changed.notify_all();
        }
    }

    /// Ends the thread; what it hands back must be closed after all connections.
    pub(super) fn stop(mut self) -> Arc<File> {
        self.join();
        self.file.clone()
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if thread.join().is_err() {
            warn!(event = "checkpoint_panicked", "the checkpoint thread had panicked");
        }
    }

    /// The store's file, for reading; to be closed after all connections.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Tells when the thread does not copy.
    pub(super) fn idle(&self) -> Idle {
        Idle(self.shared.clone())
    }

    /// After a batch was undone: what a backup was told in it, it may not have heard.
    pub(super) fn tell_again(&mut self) {
        self.changed.iter_mut().for_each(Changed::tell_again);
    }

    /// Notes nothing for a backup any more, and goes on copying.
    pub(super) fn end_backup(&mut self) {
        (self.changed, self.is_still) = (None, false);
    }

    /// Takes a step of a backup, between two commits.
    pub(super) fn backup_step(&mut self, step: BackupStep, log: &Arc<Log>) -> Result<Mark, String> {
        let frames = self.pages.load(Ordering::Relaxed).unsigned_abs();
        if step == BackupStep::Begin {
            let begun = Changed::begin(log.clone(), frames).map_err(|error| error.to_string())?;
            self.changed = Some(begun);
        }
        let is_still = self.is_still;
        match step {
            BackupStep::Begin | BackupStep::Mark => {
                let not_begun = "it has not begun".to_owned();
                return self.changed.as_mut().ok_or(not_begun).and_then(Changed::take);
            }
            BackupStep::Hold => self.is_still = true,
            BackupStep::Release => self.is_still = false,
            BackupStep::End => self.end_backup(),
        }
        Ok(Mark::of_stillness(is_still))
    }
}

impl Drop for Checkpointer {
    /// A start that fails leaves no connection behind.
    fn drop(&mut self) {
        self.join();
    }
}

/// Tells when the thread does not copy.
#[derive(Clone)]
pub(super) struct Idle(Arc<Shared>);

impl Idle {
    /// Waits until the thread has done what it was asked to.
    pub(super) fn wait(&self) {
        let is_copying = |order: &mut Order| (order.wanted || order.running) && !order.stop;
        let waited = self.0.changed.wait_while(self.0.lock(), is_copying);
        drop(waited.expect("nothing panics while it holds the order"));
    }
}

impl Shared {
    /// Tells failures that end the store from those that pass.
    fn note(&self, error: &CopyError) {
        use ErrorCode as Code;
        let mut order = self.lock();
        match error {
            CopyError::Engine(error)
                if matches!(
                    error.sqlite_error_code(),
                    Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::DiskFull)
                ) =>
            {
                order.errors += 1;
                warn!(event = "checkpoint_failed", %error, "the log could not be copied");
            }
            CopyError::Engine(error) => order.failed = Some(format!("checkpoint failed: {error}")),
            CopyError::Sync(error) => {
                order.failed = Some(format!("cannot sync the store's file: {error}"));
            }
        }
    }
}

/// The thread: copies when asked until it is told to stop.
fn copy_when_asked(connection: &Connection, shared: &Shared, synced: &File) {
    loop {
        let mut order = shared.lock();
        while !order.wanted && !order.stop {
            order = shared.changed.wait(order).expect("nothing panics while it holds the order");
        }
        if order.stop {
            return;
        }
        let twice = order.twice;
        order.wanted = false;
        order.running = true;
        drop(order);
        let passes = if twice { 2 } else { 1 };
        let copied = (0..passes).try_for_each(|_| {
            let copied = copy(connection)?;
            shared.lock().note_copied(&copied);
            synced.sync_data().map_err(CopyError::Sync)
        });
        if let Err(error) = &copied {
            shared.note(error);
        }
        let mut order = shared.lock();
        order.running = false;
        order.near = twice && copied.is_ok();
        shared.changed.notify_all();
    }
}

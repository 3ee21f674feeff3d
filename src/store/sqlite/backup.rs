//! A copy of the store's file while it is written to.
//!
//! ```text
//! writer:  begin ......... mark ......... mark .... hold .... mark ... release ... end
//!            │ notes which pages each commit puts into the log │  no checkpoints   │
//! copier:    └ the whole file └ what changed └ what changed    └ the last, to memory └ write, sync, name
//! ```
//!
//! The file is only ever written by checkpoints, with pages of commits that the writer has noted. So
//! a copy of it, made while it changes, is right but for the pages noted since. These are copied
//! again, from the log or, where that has begun anew, from the file; in ever shorter rounds, since
//! fewer change in less time. When few are left, checkpoints are held back for as long as it takes to
//! read those into memory. The copy is then exactly one committed state: that of the last mark.
//!
//! Nothing waits for the copy: the writer takes a handful of steps of microseconds, and reads 24
//! bytes for each page that it logs meanwhile. The medium of the backup may be slow or hang: only
//! the copier writes to it.
//!
//! Measured with 64 callers who create jobs of 200 bytes beside 200,000 to 400,000 stored ones, one backup right
//! after the other, in turns with none (unoptimized build): creates per second as a ratio to none, and
//! their p99 (none: 4.2 ms).
//!
//! ```text
//! synced each   4 MiB   1 MiB   256 KiB   never   256 KiB, pauses (this)
//! creates        0.61    0.53      0.71    0.61   0.87
//! p99, ms          18      20        11      20   5.4
//! ```
//!
//! With the release build, `tallyd bench create --stored 300000` and backups one after the other, two pairs
//! of runs: 0.81 and 0.89 of the creates, p99 4.9 and 4.6 ms (none: 4.0 and 4.3), 115 MB/s copied.
//!
//! SQLite's own ways were looked at and left: `VACUUM INTO` and a backup
//! by another connection hold one reading of the file, so the log grows until they end; without
//! that, a backup begins again with each commit; and one by the writer's own connection writes to the
//! medium in the writer's time.
//!
//! The copy says of itself that it is not in WAL mode: it needs no log, can be read where nothing can
//! be written, and a log beside it is known to be another file's.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::{Advice, CWD, RenameFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Engine;
use super::checkpoint::Idle;
use super::disk;
use super::log::{self, Log, Mark, PAGE_BYTES, Pages};
use crate::clock::{Stopwatch, Timestamp};
use crate::store::operation::Failure;
use crate::store::{Backup, BackupError, StoreError};

/// The bytes that are copied between two syncs: a commit's own sync may have to wait for them.
const STEP_BYTES: usize = 256 << 10;

/// The longest pause after a step. It lasts as long as the step did, so that half of the disk's time
/// is left to commits.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How many pages may be left for the last round, which holds them in memory: 16 MiB.
const LAST_PAGES: usize = 4_096;

/// The step of a backup that the writer takes, between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum BackupStep {
    /// Begin to note which pages change.
    Begin,
    /// Tell which have changed.
    Mark,
    /// Leave the store's file as it is.
    Hold,
    /// Go on with checkpoints.
    Release,
    /// Note nothing any more.
    End,
}

impl Engine {
    /// Takes a step of a backup.
    pub(in crate::store) fn backup_step(&mut self, step: BackupStep) -> Result<Mark, Failure> {
        let marked = self.checkpointer.backup_step(step, &self.log);
        Ok(marked.map_err(|reason| StoreError::from(BackupError::Failed(reason)))?)
    }

    /// Ends a backup whose steps are refused.
    pub(in crate::store) fn end_backup(&mut self) {
        self.checkpointer.end_backup();
    }

    /// What a backup reads from.
    pub(in crate::store) fn backup_source(&self) -> Source {
        Source {
            file: Arc::downgrade(&self.checkpointer.file()),
            log: self.log.clone(),
            idle: self.checkpointer.idle(),
            margin_bytes: self.reserve.margin_bytes(),
        }
    }
}

/// What a backup reads from.
#[derive(Clone)]
pub(in crate::store) struct Source {
    /// Gone once the store is closed.
    file: Weak<File>,
    log: Arc<Log>,
    idle: Idle,
    /// The room that creates need.
    margin_bytes: u64,
}

fn place_of(page: u32) -> u64 {
    u64::from(page - 1) * PAGE_BYTES as u64
}

/// Reads until `into` is full or the file ends; how much was read.
fn read_most(file: &File, into: &mut [u8], place: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], place + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// A copy that is being written; what there is of it is removed unless it is completed.
pub(in crate::store) struct Copying {
    source: Source,
    file: Arc<File>,
    /// Ends it early.
    stop: CancellationToken,
    directory: PathBuf,
    name: PathBuf,
    partial: PathBuf,
    copy: File,
    /// Whether the copy takes room from the store's own file system.
    is_beside: bool,
    /// Pages that have changed since they were copied.
    pending: Pages,
    /// The last of them, as they are to be.
    last: Vec<(u32, Box<[u8]>)>,
    unsynced: usize,
    /// When the step began that is not synced yet.
    step: Stopwatch,
    pauses: bool,
    is_complete: bool,
}

impl Copying {
    /// Makes the file of a backup that begins now, if there is room for it.
    pub(in crate::store) fn begin(
        source: Source,
        directory: &Path,
        now: Timestamp,
        mark: &Mark,
        stop: CancellationToken,
    ) -> Result<Self, BackupError> {
        let unusable = |error| failed("use backup_dir", directory, &error);
        let directory = directory.canonicalize().map_err(unusable)?;
        let io = |error| write_failed(&directory, &directory, &error);
        let closed = || BackupError::Failed("the store is closed".into());
        let file = source.file.upgrade().ok_or_else(closed)?;
        let (name, partial, copy) = create(&directory, now).map_err(io)?;
        let device = |file: &File| file.metadata().map(|found| found.dev());
        let is_beside = device(&copy).and_then(|copy| Ok(copy == device(&file)?));
        let mut copying = Self {
            source,
            file,
            stop,
            directory: directory.clone(),
            name,
            partial,
            copy,
            is_beside: false,
            pending: Pages::default(),
            last: Vec::new(),
            unsynced: 0,
            step: Stopwatch::start(),
            pauses: true,
            is_complete: false,
        };
        copying.is_beside = is_beside.map_err(io)?;
        let bytes = copying.file.metadata().map_err(io)?.len();
        copying.check_room(bytes + mark.frames * PAGE_BYTES as u64)?;
        // Before anything is copied: what the log loses from here on is in the file.
        let pending = &mut copying.pending;
        copying.source.log.frames(mark, |_, page| pending.insert(page)).map_err(unreadable)?;
        info!(event = "backup_begun", file = %copying.name.display(), bytes);
        Ok(copying)
    }

    /// Copies the file as it is, page for page, while it changes.
    pub(in crate::store) fn copy_whole(&mut self) -> Result<(), BackupError> {
        let mut step = vec![0; STEP_BYTES];
        let mut place = 0;
        loop {
            let read = read_most(&self.file, &mut step, place).map_err(unreadable)?;
            if read == 0 {
                return Ok(());
            }
            self.write(&step[..read], place)?;
            place += read as u64;
        }
    }

    /// Takes in what has changed; whether few enough pages are left for the last round.
    pub(in crate::store) fn is_near(&mut self, mark: &Mark) -> bool {
        self.pending.add(&mark.changed);
        self.pending.count() <= LAST_PAGES
    }

    /// How many pages are left to copy.
    pub(in crate::store) fn left(&self) -> usize {
        self.pending.count()
    }

    /// Makes no pauses any more.
    pub(in crate::store) fn hurry(&mut self) {
        self.pauses = false;
    }

    /// Copies what has changed, as of `mark` or later.
    pub(in crate::store) fn copy_changed(&mut self, mark: &Mark) -> Result<(), BackupError> {
        let frames = self.frames(mark).map_err(unreadable)?;
        let mut bytes = [0; PAGE_BYTES];
        for page in std::mem::take(&mut self.pending).iter() {
            let frame = frames.get(&page).copied();
            self.read(page, frame, mark, &mut bytes).map_err(unreadable)?;
            self.write(&bytes, place_of(page))?;
        }
        Ok(())
    }

    /// Waits until nobody writes to the store's file, which was asked to be left as it is.
    pub(in crate::store) fn wait_until_still(&mut self) -> Result<(), BackupError> {
        self.source.idle.wait();
        Ok(())
    }

    /// Reads into memory what has changed last, while the store's file is left as it is.
    pub(in crate::store) fn read_last(&mut self, mark: &Mark) -> Result<(), BackupError> {
        self.pending.insert(1); // it tells how many there are
        let frames = self.frames(mark).map_err(unreadable)?;
        for page in self.pending.iter() {
            let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
            let frame = frames.get(&page).copied();
            self.read(page, frame, mark, &mut bytes).map_err(unreadable)?;
            self.last.push((page, bytes));
        }
        Ok(())
    }

    /// Forgets what was read last: the file has not been left as it was.
    pub(in crate::store) fn forget_last(&mut self) {
        self.last.clear();
    }

    /// Writes what was read last, syncs the copy and gives it its name.
    pub(in crate::store) fn complete(mut self) -> Result<Backup, BackupError> {
        let mut pages = 0;
        for (page, mut bytes) in std::mem::take(&mut self.last) {
            if page == 1 {
                pages = u32::from_be_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]);
                log::set_without_log(&mut bytes);
            }
            self.write(&bytes, place_of(page))?;
        }
        let bytes = u64::from(pages) * PAGE_BYTES as u64;
        let synced = self.copy.set_len(bytes).and_then(|()| self.copy.sync_all());
        synced.map_err(|error| self.write_failed(&error))?;
        if self.stop.is_cancelled() {
            return Err(BackupError::GivenUp);
        }
        rename(&self.partial, &self.name).map_err(|error| self.write_failed(&error))?;
        self.is_complete = true;
        let named = File::open(&self.directory).and_then(|directory| directory.sync_all());
        if let Err(error) = named {
            // It is told that there is none. Should this fail too, a whole copy is left.
            drop(fs::remove_file(&self.name));
            return Err(failed("sync", &self.directory, &error));
        }
        Ok(Backup { file: self.name.clone(), bytes })
    }

    /// Reads a page as it was at `mark`, or as it became since. Whatever of it is not in the log any
    /// more is in the file.
    fn read(&self, page: u32, frame: Option<u64>, mark: &Mark, into: &mut [u8]) -> io::Result<()> {
        if let Some(frame) = frame
            && self.source.log.read(frame, mark, into)?
        {
            return Ok(());
        }
        let read = read_most(&self.file, into, place_of(page))?;
        into[read..].fill(0); // past the end: the page was given back, or never written
        Ok(())
    }

    /// The last frame of each page in the log.
    fn frames(&self, mark: &Mark) -> io::Result<HashMap<u32, u64>> {
        let mut frames = HashMap::new();
        self.source.log.frames(mark, |frame, page| frames.extend([(page, frame)]))?;
        Ok(frames)
    }

    fn write(&mut self, bytes: &[u8], place: u64) -> Result<(), BackupError> {
        self.copy.write_all_at(bytes, place).map_err(|error| self.write_failed(&error))?;
        self.unsynced += bytes.len();
        if self.unsynced < STEP_BYTES {
            return Ok(());
        }
        self.copy.sync_data().map_err(|error| self.write_failed(&error))?;
        // Nobody reads it soon. Should the system not care, nothing is lost.
        let _ = rustix::fs::fadvise(&self.copy, 0, None, Advice::DontNeed);
        if self.stop.is_cancelled() {
            return Err(BackupError::GivenUp);
        }
        self.check_room(0)?;
        if self.pauses {
            std::thread::sleep(Duration::from_secs_f64(self.step.seconds()).min(LONGEST_PAUSE));
        }
        (self.unsynced, self.step) = (0, Stopwatch::start());
        Ok(())
    }

    /// Whether so many bytes more have room, beside what the store itself may need.
    fn check_room(&self, bytes: u64) -> Result<(), BackupError> {
        let own = if self.is_beside { 2 * self.source.margin_bytes } else { 0 };
        // A file system that does not tell will say so when it is full.
        let free = disk::free_bytes(&self.partial).unwrap_or(u64::MAX);
        let needed = bytes + own;
        if free >= needed {
            return Ok(());
        }
        Err(BackupError::NoRoom { directory: self.directory.clone(), needed, free })
    }

    fn write_failed(&self, error: &io::Error) -> BackupError {
        write_failed(&self.directory, &self.partial, error)
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if !self.is_complete
            && let Err(error) = fs::remove_file(&self.partial)
        {
            let file = self.partial.display();
            warn!(event = "backup_left", %file, %error, "cannot remove an incomplete backup");
        }
    }
}

fn failed(doing: &str, file: &Path, error: &io::Error) -> BackupError {
    BackupError::Failed(format!("cannot {doing} {}: {error}", file.display()))
}

fn write_failed(directory: &Path, file: &Path, error: &io::Error) -> BackupError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let (needed, free) = (STEP_BYTES as u64, 0);
            BackupError::NoRoom { directory: directory.to_owned(), needed, free }
        }
        _ => failed("write to", file, error),
    }
}

fn unreadable(error: io::Error) -> BackupError {
    BackupError::Failed(format!("cannot read the store's file: {error}"))
}

const PREFIX: &str = "tallyd-";
const PARTIAL_SUFFIX: &str = ".db.partial";

/// Makes the file of a backup under its first name, locked for as long as it is written; gives its
/// last name, its first, and the file. A name that is taken makes it a millisecond later.
fn create(directory: &Path, mut now: Timestamp) -> io::Result<(PathBuf, PathBuf, File)> {
    loop {
        let stem = format!("{PREFIX}{}.db", now.to_string().replace(':', ""));
        let (name, partial) = (directory.join(&stem), directory.join(format!("{stem}.partial")));
        let mut options = File::options();
        match options.read(true).write(true).create_new(true).mode(0o600).open(&partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(_) if name.symlink_metadata().is_ok() => fs::remove_file(&partial)?,
            file => {
                let file = file?;
                // Where there are no locks, another start may take it for a leftover: unlucky.
                let _ = file.try_lock();
                return Ok((name, partial, file));
            }
        }
        now.0 += 1;
    }
}

/// Gives the complete copy its name, unless something else has it.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can refuse to replace; it was free when the copy was begun.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// Removes what backups that a crash cut off have left in the directory; those that another process
/// writes are locked and stay.
pub(in crate::store) fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_partial) || !entry.file_type()?.is_file() {
            continue;
        }
        let path = entry.path();
        let removed =
            File::options().write(true).open(&path).and_then(|file| match file.try_lock() {
                Ok(()) => fs::remove_file(&path).map(|()| true),
                Err(_) => Ok(false), // it is being written
            });
        match removed {
            Ok(true) => {
                info!(event = "backup_removed", file = %path.display(), "removed an incomplete backup")
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(event = "backup_left", file = %path.display(), %error, "cannot remove an incomplete backup");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether an incomplete backup has such a name.
fn is_partial(name: &str) -> bool {
    let stamp = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(PARTIAL_SUFFIX));
    let shape = b"0000-00-00T000000.000Z";
    stamp.is_some_and(|stamp| {
        stamp.len() == shape.len()
            && stamp.bytes().zip(shape).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == *wanted,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_of_ours_are_removed_and_none_that_is_being_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let (name, partial, copy) = create(directory.path(), Timestamp(0)).expect("made");
        assert!(name.ends_with("tallyd-1970-01-01T000000.000Z.db"), "{}", name.display());
        let others = ["tallyd-1970-01-01T000000.000Z.db", "tallyd-x.db.partial", "a.db.partial"];
        for other in others {
            fs::write(directory.path().join(other), "").expect("written");
        }
        remove_leftovers(directory.path()).expect("looked through");
        assert!(partial.exists(), "it is locked");
        drop(copy);
        remove_leftovers(directory.path()).expect("looked through");
        assert!(!partial.exists(), "whoever wrote it has gone");
        assert!(others.iter().all(|other| directory.path().join(other).exists()));
    }

    #[test]
    fn no_two_backups_have_the_same_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let (first, partial, _) = create(directory.path(), Timestamp(0)).expect("made");
        let (second, ..) = create(directory.path(), Timestamp(0)).expect("made");
        rename(&partial, &first).expect("it gets its name");
        let (third, partial, _) = create(directory.path(), Timestamp(0)).expect("made");
        assert!(third != first && second != first && third != second);
        rename(&partial, &first).expect_err("it is taken");
    }
}

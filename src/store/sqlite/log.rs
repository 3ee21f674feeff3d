//! The log as it lies on disk: which pages its frames hold, and which ones changed since a backup
//! has begun.
//!
//! Its form is a promise of SQLite (<https://sqlite.org/fileformat2.html>, section 4): a header of 32
//! bytes, then frames of 24 bytes and a page each. The header and every frame carry two salts. When
//! the log begins at its start again, the first is raised by one and the second drawn anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::disk::beside;

/// The bytes of a page: no other size was ever given to a store.
pub(super) const PAGE_BYTES: usize = 4_096;

const HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: usize = 24;
const FRAME_BYTES: u64 = (FRAME_HEADER_BYTES + PAGE_BYTES) as u64;

/// The salts of the log from one beginning at its start to the next; zeros while it is empty.
type Generation = [u8; 8];

/// What a database says of itself that has no log, in bytes 18 and 19 of its file.
const NOT_IN_WAL_MODE: u8 = 1;

/// Makes the first page of a copy say that it has no log.
pub(super) fn set_without_log(page: &mut [u8]) {
    page[18..20].fill(NOT_IN_WAL_MODE);
}

/// Whether the log beside the store in `file` cannot be its own: a backup was put in the place of
/// another file. SQLite would take it for its log and mix up the two.
pub(super) fn is_of_another_file(file: &Path) -> io::Result<bool> {
    let mut modes = [0; 2];
    match File::open(file)?.read_exact_at(&mut modes, 18) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false), // new
        read => read?,
    }
    let has_log = beside(file, "-wal").metadata().is_ok_and(|log| log.len() > 0);
    Ok(has_log && modes == [NOT_IN_WAL_MODE; 2])
}

/// Writes what the log holds over itself, and syncs it. Nobody else may write meanwhile.
pub(super) fn write_again(file: &Path) -> io::Result<()> {
    let log = File::options().read(true).write(true).open(beside(file, "-wal"))?;
    let mut bytes = vec![0; 1 << 20];
    let mut place = 0;
    loop {
        let read = log.read_at(&mut bytes, place)?;
        if read == 0 {
            return log.sync_data();
        }
        log.write_all_at(&bytes[..read], place)?;
        place += read as u64;
    }
}

/// The log's file, read beside SQLite. Nobody locks it, so it may be closed at any time.
pub(super) struct Log(File);

impl Log {
    /// The log of the store in `file`.
    pub(super) fn open(file: &Path) -> io::Result<Self> {
        File::open(beside(file, "-wal")).map(Self)
    }

    fn generation(&self) -> io::Result<Generation> {
        let mut salts = Generation::default();
        match self.0.read_exact_at(&mut salts, 16) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Generation::default()),
            read => read.map(|()| salts),
        }
    }

    /// The page that a frame, counted from 1, holds; none if the log has begun anew since.
    fn page_of(&self, frame: u64, generation: Generation) -> io::Result<Option<u32>> {
        let mut header = [0; FRAME_HEADER_BYTES];
        match self.0.read_exact_at(&mut header, place_of(frame)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let page = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        Ok((header[8..16] == generation).then_some(page))
    }

    /// Whether a frame, counted from 1, is the last of a commit.
    fn ends_commit(&self, frame: u64, generation: Generation) -> io::Result<bool> {
        let mut header = [0; FRAME_HEADER_BYTES];
        match self.0.read_exact_at(&mut header, place_of(frame)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        Ok(header[8..16] == generation && header[4..8] != [0; 4])
    }

    /// Reads the page that a frame held when `mark` was made; false if the log has begun anew since.
    pub(super) fn read(&self, frame: u64, mark: &Mark, into: &mut [u8]) -> io::Result<bool> {
        let place = place_of(frame) + FRAME_HEADER_BYTES as u64;
        match self.0.read_exact_at(into, place) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        // The header is written before the page: while it is the old one, so was the page.
        Ok(self.page_of(frame, mark.generation)?.is_some())
    }

    /// Calls `each` with the frames, up to the mark, and their pages, in order. If the log begins anew
    /// meanwhile, the rest of them is in the store's file.
    pub(super) fn frames(&self, mark: &Mark, mut each: impl FnMut(u64, u32)) -> io::Result<()> {
        for frame in 1..=mark.frames {
            match self.page_of(frame, mark.generation)? {
                Some(page) => each(frame, page),
                None => break,
            }
        }
        Ok(())
    }
}

fn place_of(frame: u64) -> u64 {
    HEADER_BYTES + (frame - 1) * FRAME_BYTES
}

/// A set of pages.
#[derive(Clone, Default)]
pub(super) struct Pages(Vec<u64>);

impl Pages {
    pub(super) fn insert(&mut self, page: u32) {
        let word = (page / 64) as usize;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (page % 64);
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// In ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let words = self.0.iter().zip(0_u32..).filter(|(word, _)| **word != 0);
        words.flat_map(|(word, index)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
    }
}

/// What the log has come to between two commits.
#[derive(Default)]
pub(in crate::store) struct Mark {
    generation: Generation,
    /// Frames that are committed.
    pub(super) frames: u64,
    /// The pages that were committed since the mark before.
    pub(super) changed: Pages,
    /// Whether the store's file has been left as it is since that was asked for.
    pub(in crate::store) is_still: bool,
}

impl Mark {
    /// Tells only whether the file was left as it is.
    pub(super) fn of_stillness(is_still: bool) -> Self {
        Self { is_still, ..Self::default() }
    }
}

/// The writer's notes of what it commits while a backup is made. Each frame is noted right after
/// its commit, so none can be missed by the log beginning anew.
pub(super) struct Changed {
    log: Arc<Log>,
    mark: Mark,
    /// What was told last.
    told: Pages,
    /// Why the notes are not complete.
    failure: Option<String>,
}

impl Changed {
    /// Begins between two commits, with so many frames in the log as far as is known. What was written
    /// for a commit that was undone, or is not made yet, may have begun the log anew since: then
    /// there are none.
    pub(super) fn begin(log: Arc<Log>, frames: u64) -> io::Result<Self> {
        let generation = log.generation()?;
        let are_there = frames > 0 && log.ends_commit(frames, generation)?;
        let frames = if are_there { frames } else { 0 };
        let mark = Mark { generation, frames, ..Mark::default() };
        Ok(Self { log, mark, told: Pages::default(), failure: None })
    }

    /// Notes a commit, after which the log has so many frames.
    pub(super) fn note(&mut self, frames: u64) {
        if self.failure.is_none()
            && let Err(error) = self.try_note(frames)
        {
            self.failure = Some(error.to_string());
        }
    }

    fn try_note(&mut self, frames: u64) -> io::Result<()> {
        let generation = self.log.generation()?;
        if generation != self.mark.generation {
            if !follows(generation, self.mark.generation) {
                return Err(io::Error::other("another program writes to the store's file"));
            }
            self.mark.generation = generation;
            self.mark.frames = 0;
        }
        for frame in self.mark.frames + 1..=frames {
            let page = self.log.page_of(frame, generation)?;
            let lost = || io::Error::other("the log is not as it was written");
            self.mark.changed.insert(page.ok_or_else(lost)?);
            self.mark.frames = frame;
        }
        Ok(())
    }

    /// What was noted since this was last asked; an error says why that is not complete.
    pub(super) fn take(&mut self) -> Result<Mark, String> {
        match &self.failure {
            Some(reason) => Err(reason.clone()),
            None => {
                self.told = std::mem::take(&mut self.mark.changed);
                Ok(Mark { changed: self.told.clone(), ..self.mark })
            }
        }
    }

    /// Tells again what was told last: the batch in which it was asked may be applied once more.
    pub(super) fn tell_again(&mut self) {
        self.mark.changed.add(&self.told);
    }
}

/// Whether the log has begun anew once, and not more often, between the two.
fn follows(later: Generation, earlier: Generation) -> bool {
    let first = |salts: Generation| u32::from_be_bytes([salts[0], salts[1], salts[2], salts[3]]);
    earlier == Generation::default() || first(later) == first(earlier).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn pages_are_told_in_order_and_once() {
        let mut pages = Pages::default();
        [700, 1, 64, 63, 1].into_iter().for_each(|page| pages.insert(page));
        let mut more = Pages::default();
        [2, 100_000].into_iter().for_each(|page| more.insert(page));
        pages.add(&more);
        assert_eq!(pages.iter().collect::<Vec<_>>(), [1, 2, 63, 64, 700, 100_000]);
        assert_eq!(pages.count(), 6);
    }

    /// A database with a log of its own, and the number of frames in it.
    fn logged(directory: &Path) -> (Connection, Arc<Log>) {
        let file = directory.join("t.db");
        let connection = Connection::open(&file).expect("opens");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a)",
            )
            .expect("a table");
        (connection, Arc::new(Log::open(&file).expect("a log")))
    }

    fn frames(connection: &Connection, mode: &str) -> u64 {
        let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
        let frames = connection.query_row(&checkpoint, [], |row| row.get::<_, i64>(1));
        frames.expect("it tells").unsigned_abs()
    }

    #[test]
    fn what_is_committed_is_noted_also_when_the_log_begins_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (connection, log) = logged(directory.path());
        let insert = || connection.execute("INSERT INTO t VALUES (zeroblob(9000))", []).map(drop);
        let before = frames(&connection, "PASSIVE");
        let mut changed = Changed::begin(log.clone(), before).expect("begins");
        insert().expect("inserts"); // the log begins anew: all of it was copied
        let logged = frames(&connection, "PASSIVE");
        changed.note(logged);
        let mark = changed.take().expect("complete");
        assert_eq!((mark.frames, mark.changed.count() as u64), (logged, logged));
        insert().expect("inserts");
        changed.note(frames(&connection, "NOOP"));
        let mark = changed.take().expect("complete");
        assert!(mark.changed.count() >= 4, "three pages of overflow and the table's");
        let mut page = [0; PAGE_BYTES];
        assert!(log.read(1, &mark, &mut page).expect("reads"));
    }

    #[test]
    fn a_log_that_an_undone_commit_began_anew_has_no_frames() {
        let directory = tempfile::tempdir().expect("a directory");
        let (connection, log) = logged(directory.path());
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) \
                    INSERT INTO t SELECT zeroblob(9000) FROM n";
        connection.execute(fill, []).expect("inserts");
        let before = frames(&connection, "PASSIVE"); // all of it is copied
        let salts = log.generation().expect("reads");
        // What is written before the commit, for want of room in the cache, begins the log anew.
        connection.execute_batch("PRAGMA cache_size = 10; BEGIN").expect("begins");
        connection.execute(fill, []).expect("inserts");
        connection.execute_batch("ROLLBACK").expect("undone");
        assert_ne!(log.generation().expect("reads"), salts, "it has begun anew");
        let mut changed = Changed::begin(log, before).expect("begins");
        connection.execute("INSERT INTO t VALUES (1)", []).expect("inserts");
        changed.note(frames(&connection, "NOOP"));
        assert!(changed.take().expect("complete").changed.count() > 0, "the insert is noted");
    }

    #[test]
    fn a_log_that_began_anew_unseen_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (connection, log) = logged(directory.path());
        let mut changed =
            Changed::begin(log.clone(), frames(&connection, "PASSIVE")).expect("begins");
        let mark = changed.take().expect("complete");
        for _ in 0..2 {
            connection.execute("INSERT INTO t VALUES (1)", []).expect("inserts");
            frames(&connection, "PASSIVE");
        }
        assert!(!log.read(1, &mark, &mut [0; PAGE_BYTES]).expect("reads"), "it is another page");
        changed.note(1);
        let error = changed.take().err().expect("incomplete");
        assert!(error.contains("another program"), "{error}");
    }
}

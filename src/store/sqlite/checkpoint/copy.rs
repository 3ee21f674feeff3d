//! One checkpoint: what it copied, what is left, and whether the log begins anew after it.

use std::time::Duration;

use rusqlite::Connection;

use crate::store::sqlite::open::BUSY;

/// What a checkpoint came to.
pub(super) struct Copied {
    /// Pages of the log that are in the file now; less than 0 if another one was under way.
    pub(super) pages: i64,
    /// Pages that are not; more than none if another one was under way.
    pub(super) rest: i64,
}

/// Why it did not work.
pub(super) enum CopyError {
    Engine(rusqlite::Error),
    Sync(std::io::Error),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

/// One PASSIVE checkpoint.
pub(super) fn copy(connection: &Connection) -> Result<Copied, CopyError> {
    let mut checkpoint = connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
    let (is_busy, logged, copied): (bool, i64, i64) =
        checkpoint.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Copied { pages: copied, rest: logged - copied + i64::from(is_busy) })
}

/// Whether the next commit begins the log anew, of which everything was copied: not while somebody
/// reads from it, who may have come just then. Does not wait for them.
pub(super) fn begins_anew(connection: &Connection) -> bool {
    let wait = |most| connection.busy_timeout(most).is_ok();
    let is_busy = |connection: &Connection| -> rusqlite::Result<bool> {
        let mut checkpoint = connection.prepare_cached("PRAGMA wal_checkpoint(RESTART)")?;
        checkpoint.query_row([], |row| row.get(0))
    };
    let begins_anew = wait(Duration::ZERO) && is_busy(connection).is_ok_and(|is_busy| !is_busy);
    wait(BUSY) && begins_anew
}

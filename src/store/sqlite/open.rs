//! Opening the store: lock, file, pragmas, schema, recovery; in this order.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;
use tracing::warn;

use super::checkpoint::Checkpointer;
use super::disk::{self, Lock, Reserve};
use super::log::{self, Log};
use super::read::Readers;
use super::state::State;
use super::unwritten::Unwritten;
use super::{Engine, index, schema};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::OpenError;
use crate::store::operation::Failure;

/// The oldest SQLite without the bug that can corrupt the log when it is restarted.
const LEAST_SQLITE: i32 = 3_051_003;

/// How many prepared statements a connection keeps: more than the engine has.
const STATEMENTS: usize = 96;

/// The writer's page cache. Claims among a million jobs of mixed priorities are 1.13 times as fast
/// as with 2 MiB; 64 MiB gain nothing more.
const CACHE_KIB: i64 = 16 << 10;

/// What is left of the log's file when it begins at its start again after it grew further.
const LOG_BYTES_KEPT: i64 = 64 << 20;

/// How long to wait for another program that writes to the file.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// Opens both sides of the store that the configuration names. On a full disk it makes room by
/// giving up the reserve of the last process.
pub(in crate::store) fn open(
    config: Arc<Config>,
    clock: Clock,
    metrics: Arc<Metrics>,
    due: watch::Sender<Option<Timestamp>>,
) -> Result<(Engine, Readers), OpenError> {
    if rusqlite::version_number() < LEAST_SQLITE {
        return Err(OpenError::OldSqlite(rusqlite::version()));
    }
    let named = &config.data;
    let io = |source| OpenError::Io { doing: "open", file: named.clone(), source };
    disk::check_directory_of(named)?;
    disk::create_private(named).map_err(io)?;
    disk::sync_directory_of(named).map_err(io)?;
    // By any other name it is the same store, with the same lock.
    let file = named.canonicalize().map_err(io)?;
    let lock = Lock::take(&file)?;
    let opened = open_locked(&file, &config, &clock, &metrics, &due);
    let (mut engine, readers) = match opened {
        Err(OpenError::DiskFull { .. }) if Reserve::give_up_last(&file) => {
            warn!(event = "disk_full", "the disk is full; starting with the room of the reserve");
            open_locked(&file, &config, &clock, &metrics, &due)?
        }
        opened => {
            let (mut engine, readers) = opened?;
            engine.reserve.take();
            (engine, readers)
        }
    };
    engine.mark = format!("{}@{}", engine.identity(), lock.place().map_err(io)?).into();
    engine.lock = Some(lock);
    Ok((engine, readers))
}

fn open_locked(
    file: &Path,
    config: &Arc<Config>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
    due: &watch::Sender<Option<Timestamp>>,
) -> Result<(Engine, Readers), OpenError> {
    let failed = |error| OpenError::engine(file, error);
    let io = |source| OpenError::Io { doing: "open", file: file.to_owned(), source };
    if log::is_of_another_file(file).map_err(io)? {
        return Err(OpenError::ForeignLog {
            file: file.to_owned(),
            log: disk::beside(file, "-wal"),
        });
    }
    index::forget_copied(file).map_err(io)?;
    let mut connection = Connection::open_with_flags(file, flags(true)).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    schema::prepare(&mut connection, file)?;
    enter_wal(&connection).map_err(failed)?;
    let pages = copy_log(&connection).map_err(failed)?;
    if pages > 0 {
        warn!(event = "log_not_copied", "another program holds the file; its log stays as it is");
        write_log_again(&connection, file)?;
    }
    let log = Log::open(file).map(Arc::new).map_err(io)?;
    let index = disk::reserve_index(file).map_err(|error| no_index(error, file))?;
    let reserve = Reserve::of(file).map_err(io)?;
    let checkpointer = Checkpointer::start(file, &mut connection, pages)?;
    let state = State::load(&connection, config).map_err(failed)?;
    let newest = "SELECT coalesce(max(id), 0) FROM jobs";
    let newest: i64 = connection.query_row(newest, [], |row| row.get(0)).map_err(failed)?;
    let readers = Readers::open(file, config.clone(), checkpointer.reading())?;
    let mut engine = Engine {
        connection,
        last_key: newest.max(state.greatest_removed),
        state,
        file: file.to_owned(),
        config: config.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        checkpointer,
        log,
        index,
        reserve,
        unwritten: Unwritten::default(),
        is_short_of_room: false,
        measured_at: 0,
        changes: 0,
        files_are_due: false,
        reported: RefCell::default(),
        due: due.clone(),
        mark: Arc::from(""),
        lock: None,
    };
    engine.recover().map_err(|failure| recovery_failed(failure, file))?;
    engine.metrics.restore(&engine.state.as_delta());
    Ok((engine, readers))
}

/// How to open the file; the engine's threads never share a connection.
pub(super) fn flags(writing: bool) -> OpenFlags {
    let access =
        if writing { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// What a writing connection needs before the schema is looked at; changes nothing in the file.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    keep_plans(connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "foreign_keys", false)
}

/// Has each statement compiled once. Otherwise one whose plan a bound value might improve is compiled
/// anew for each value: claims took three times as long.
pub(super) fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

pub(super) fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mode = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", mode)?;
    if mode != "wal" {
        let text = format!("the file system allows no log beside the file (mode {mode:?})");
        return Err(rusqlite::Error::ToSqlConversionFailure(text.into()));
    }
    let limit = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, limit)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)
}

/// Copies what the last process left in the log into the file, and syncs it; answers how many pages are
/// in the log then, which are none unless somebody else holds the file. If a sync of the log had failed,
/// the log may be whole in memory only: what is committed behind it would be lost with it in a power cut.
pub(super) fn copy_log(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        let is_held: bool = row.get(0)?;
        let pages: i64 = row.get(1)?; // less than 0 if another checkpoint is under way
        Ok(if is_held { pages.max(1) } else { 0 })
    })
}

/// The other way to have the log on disk: the system does not write again by itself what it could not
/// write, and a sync does not tell a second time.
fn write_log_again(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::engine(file, error);
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?; // nobody else writes meanwhile
    let written = log::write_again(file);
    connection.execute_batch("ROLLBACK").map_err(failed)?;
    let io = |source| OpenError::Io { doing: "sync the log of", file: file.to_owned(), source };
    written.map_err(io)
}

fn no_index(error: std::io::Error, file: &Path) -> OpenError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => OpenError::DiskFull { file: file.to_owned() },
        _ => OpenError::Io {
            doing: "make room for the log of",
            file: file.to_owned(),
            source: error,
        },
    }
}

fn recovery_failed(failure: Failure, file: &Path) -> OpenError {
    let text = match failure {
        Failure::Full => return OpenError::DiskFull { file: file.to_owned() },
        Failure::Busy => "another program writes to it".to_owned(),
        Failure::Fatal(reason) => reason,
        Failure::Refused(error) => error.to_string(),
    };
    OpenError::Engine { file: file.to_owned(), source: text.into() }
}

//! Opening the store: lock, file, pragmas, schema, recovery; in this order.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Row};
use tokio::sync::watch;

use super::checkpoint::Checkpointer;
use super::disk::{self, Lock, Reserve};
use super::read::Readers;
use super::state::State;
use super::{Engine, schema};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::OpenError;
use crate::store::writer::Failure;

/// The oldest SQLite without the bug that can corrupt the log when it is restarted.
const LEAST_SQLITE: i32 = 3_051_003;

/// How many prepared statements a connection keeps: more than the engine has.
const STATEMENTS: usize = 96;

/// The writer's page cache. Claims among a million jobs of mixed priorities are 1.13 times as fast
/// as with 2 MiB; 64 MiB gain nothing more.
const CACHE_KIB: i64 = 16 << 10;

/// How long to wait for another program that writes to the file.
const BUSY_MS: u32 = 5_000;

/// Opens both sides of the store that the configuration names.
pub(in crate::store) fn open(
    config: Arc<Config>,
    clock: Clock,
    metrics: Arc<Metrics>,
    due: watch::Sender<Option<Timestamp>>,
) -> Result<(Engine, Readers), OpenError> {
    if rusqlite::version_number() < LEAST_SQLITE {
        return Err(OpenError::OldSqlite(rusqlite::version()));
    }
    let file = config.data.clone();
    let failed = |error| OpenError::engine(&file, error);
    let io = |source| OpenError::Io { doing: "open", file: file.clone(), source };
    let lock = Lock::take(&file)?;
    disk::create_private(&file).map_err(io)?;
    disk::sync_directory_of(&file).map_err(io)?;
    let mut connection = Connection::open_with_flags(&file, flags(true)).map_err(failed)?;
    configure(&connection).map_err(|error| open_failed(error, &config))?;
    schema::prepare(&mut connection, &file)?;
    enter_wal(&connection, &file)?;
    let reserve = Reserve::take(&file).map_err(io)?;
    let checkpointer = Checkpointer::start(&file, &mut connection)?;
    let state = State::load(&connection).map_err(failed)?;
    let newest = "SELECT coalesce(max(id), 0) FROM jobs";
    let last_key = connection.query_row(newest, [], |row| row.get(0)).map_err(failed)?;
    let readers = Readers::open(config.clone())?;
    let mut engine = Engine {
        connection,
        state,
        config,
        clock,
        metrics,
        checkpointer,
        reserve,
        last_key,
        changes: 0,
        due,
        _lock: lock,
    };
    let recovered = match engine.recover() {
        Err(Failure::Full) => {
            engine.roll_back().map_err(|why| recovery_failed(Failure::Fatal(why), &file))?;
            engine.give_up_reserve();
            engine.recover()
        }
        recovered => recovered,
    };
    recovered.map_err(|failure| recovery_failed(failure, &file))?;
    engine.metrics.restore(&engine.state.as_delta());
    Ok((engine, readers))
}

/// How to open the file; the engine's threads never share a connection.
pub(super) fn flags(writing: bool) -> OpenFlags {
    let access =
        if writing { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// What a writing connection needs before the schema is looked at. `auto_vacuum` only takes effect
/// in a file without tables.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_MS.into()))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "foreign_keys", false)
}

fn enter_wal(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::engine(file, error);
    let read = |row: &Row<'_>| row.get::<_, String>(0);
    let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", read);
    if mode.map_err(failed)? != "wal" {
        let why = "its file system cannot hold the index of a write-ahead log";
        return Err(OpenError::engine(file, std::io::Error::other(why)));
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)
}

fn open_failed(error: rusqlite::Error, config: &Config) -> OpenError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            OpenError::NotAStore { file: config.data.clone(), found: "not a database".into() }
        }
        _ => OpenError::engine(&config.data, error),
    }
}

fn recovery_failed(failure: Failure, file: &Path) -> OpenError {
    let text = match failure {
        Failure::Full => "the disk is full".to_owned(),
        Failure::Fatal(reason) => reason,
        Failure::Refused(error) => error.to_string(),
    };
    OpenError::engine(file, std::io::Error::other(text))
}

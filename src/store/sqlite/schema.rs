//! The schema's versions: what a new file gets, and how an older one is brought up to date.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tracing::info;

use super::disk;
use crate::store::OpenError;

/// "tald": tells the file from other SQLite databases.
const APPLICATION_ID: i64 = 0x7461_6c64;

/// What leads from version N + 1 to N + 2; the first version is `schema.sql`.
const MIGRATIONS: &[&str] = &[];

/// Makes the schema in a new file, migrates an older one, and refuses what it does not know.
pub(super) fn prepare(connection: &mut Connection, file: &Path) -> Result<(), OpenError> {
    prepare_with(connection, file, MIGRATIONS)
}

fn prepare_with(
    connection: &mut Connection,
    file: &Path,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let failed = |source| OpenError::engine(file, source);
    let known = 1 + migrations.len() as i64;
    let found = version(connection).map_err(|error| not_a_store_or(error, file))?;
    if found < 0 {
        let found = format!("its schema version is {found}");
        return Err(OpenError::NotAStore { file: file.to_owned(), found });
    }
    if found == 0 {
        return create(connection, migrations).map_err(failed);
    }
    if found > known {
        return Err(OpenError::TooNew { file: file.to_owned(), found, known });
    }
    if found < known {
        let backup = back_up(connection, file, found)?;
        let pending = &migrations[found as usize - 1..];
        migrate(connection, pending, known).map_err(failed)?;
        info!(event = "migrated", from = found, to = known, backup = %backup.display());
    }
    Ok(())
}

/// The version of the file, 0 if it is new.
fn version(connection: &Connection) -> Result<i64, Unreadable> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let version = number("user_version")?;
    let application_id = number("application_id")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match application_id {
        APPLICATION_ID => Ok(version),
        0 if version == 0 && tables == 0 => Ok(0),
        other => Err(Unreadable::Foreign(format!(
            "an SQLite database with application id {other:#x} and {tables} tables and indexes"
        ))),
    }
}

enum Unreadable {
    Foreign(String),
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for Unreadable {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::Foreign("not a database".into()),
            _ => Self::Engine(error),
        }
    }
}

fn not_a_store_or(error: Unreadable, file: &Path) -> OpenError {
    match error {
        Unreadable::Foreign(found) => OpenError::NotAStore { file: file.to_owned(), found },
        Unreadable::Engine(error) => OpenError::engine(file, error),
    }
}

/// All in one transaction, so that a crash leaves an empty file, which is as good as none.
fn create(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let transaction = begin(connection)?;
    transaction.execute_batch(include_str!("schema.sql"))?;
    let identity = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    transaction.execute("INSERT INTO totals (id, store) VALUES (1, ?)", [identity])?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    apply(&transaction, migrations, 1 + migrations.len() as i64)?;
    transaction.commit()
}

fn migrate(connection: &mut Connection, pending: &[&str], to: i64) -> rusqlite::Result<()> {
    let transaction = begin(connection)?;
    apply(&transaction, pending, to)?;
    transaction.commit()
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn apply(transaction: &Transaction<'_>, steps: &[&str], to: i64) -> rusqlite::Result<()> {
    steps.iter().try_for_each(|step| transaction.execute_batch(step))?;
    transaction.pragma_update(None, "user_version", to)
}

/// Keeps the file as it is before a migration, complete and synced before it gets its name.
fn back_up(connection: &Connection, file: &Path, version: i64) -> Result<PathBuf, OpenError> {
    let name = |suffix: &str| disk::beside(file, &format!(".v{version}.bak{suffix}"));
    let (partial, backup) = (name(".partial"), name(""));
    let io = |source| OpenError::Io { doing: "keep a copy as", file: backup.clone(), source };
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    disk::create_private(&partial).map_err(io)?;
    connection
        .execute("VACUUM INTO ?", [partial.to_string_lossy()])
        .map_err(|error| OpenError::engine(&backup, error))?;
    fs::File::open(&partial).and_then(|copy| copy.sync_all()).map_err(io)?;
    fs::rename(&partial, &backup).map_err(io)?;
    disk::sync_directory_of(&backup).map_err(io)?;
    Ok(backup)
}

#[cfg(test)]
mod kills;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ADD: &str = "ALTER TABLE totals ADD COLUMN extra INTEGER NOT NULL DEFAULT 7;";

    fn at_version_1(directory: &Path) -> (PathBuf, Connection) {
        let file = directory.join("t.db");
        let mut connection = Connection::open(&file).expect("opens");
        prepare(&mut connection, &file).expect("a new file");
        (file, connection)
    }

    #[test]
    fn an_older_file_is_migrated_after_a_copy_was_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, mut connection) = at_version_1(directory.path());
        prepare_with(&mut connection, &file, &[ADD]).expect("migrates");
        let extra: i64 =
            connection.query_row("SELECT extra FROM totals", [], |row| row.get(0)).expect("there");
        assert_eq!(extra, 7);
        assert_eq!(version(&connection).ok(), Some(2));
        let copy = directory.path().join("t.db.v1.bak");
        let mode = fs::metadata(&copy).expect("kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "its owner's only");
        let copy = Connection::open(copy).expect("kept");
        assert_eq!(version(&copy).ok(), Some(1));
        prepare_with(&mut connection, &file, &[ADD]).expect("nothing is left to do");
    }

    /// F23: all of it is one transaction.
    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, mut connection) = at_version_1(directory.path());
        let broken = [ADD, "INSERT INTO nowhere VALUES (1);"];
        prepare_with(&mut connection, &file, &broken).expect_err("the second step fails");
        assert_eq!(version(&connection).ok(), Some(1));
        assert!(connection.query_row("SELECT extra FROM totals", [], |_| Ok(())).is_err());
    }

    /// F23: what is on disk before the commit is the older version, and is migrated by the next start.
    #[test]
    fn a_crash_in_the_middle_of_a_migration_leaves_the_older_version_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, mut connection) = at_version_1(directory.path());
        let store = |connection: &Connection| -> String {
            connection.query_row("SELECT store FROM totals", [], |row| row.get(0)).expect("there")
        };
        let identity = store(&connection);
        let crashed = directory.path().join("crashed.db");
        let (from, to) = (file.clone(), crashed.clone());
        let crash = move || {
            for suffix in ["", "-journal", "-wal"] {
                // Of the other two there is one at most.
                drop(fs::copy(disk::beside(&from, suffix), disk::beside(&to, suffix)));
            }
            false
        };
        connection.commit_hook(Some(crash)).expect("it can be watched");
        prepare_with(&mut connection, &file, &[ADD]).expect("migrates");
        let mut connection = Connection::open(&crashed).expect("opens");
        assert_eq!(version(&connection).ok(), Some(1));
        assert!(connection.query_row("SELECT extra FROM totals", [], |_| Ok(())).is_err());
        prepare_with(&mut connection, &crashed, &[ADD]).expect("migrates");
        assert_eq!((version(&connection).ok(), store(&connection)), (Some(2), identity));
    }

    /// F23: by name, and left as it is.
    #[test]
    fn a_newer_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, mut connection) = at_version_1(directory.path());
        prepare_with(&mut connection, &file, &[ADD]).expect("migrates");
        let error = prepare(&mut connection, &file).expect_err("it is version 2");
        assert!(error.to_string().contains("schema version 2"), "{error}");
    }

    #[test]
    fn files_of_others_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("other.db");
        let mut connection = Connection::open(&file).expect("opens");
        connection.execute_batch("CREATE TABLE mine (a)").expect("a table");
        let error = prepare(&mut connection, &file).expect_err("not ours");
        assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
        fs::write(directory.path().join("text"), "x".repeat(5_000)).expect("written");
        let file = directory.path().join("text");
        let mut connection = Connection::open(&file).expect("opens lazily");
        let error = prepare(&mut connection, &file).expect_err("not a database");
        assert!(error.to_string().contains("not a database"), "{error}");
    }
}

//! The files of a store: which there are, who may read them, and which are refused.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use tallyd::clock::Clock;
use tallyd::store::{Filter, OpenError, StoreError};

use crate::bed::{self, BEGIN, Bed, beside, job};

/// Why the store in `file` cannot be opened, with all causes.
fn refusal(directory: &Path, file: &str) -> (OpenError, String) {
    let config = bed::config(directory, |config| config.data = directory.join(file));
    let error = bed::open(&config, &Clock::manual(BEGIN)).err().expect("it is refused");
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    (error, text)
}

#[test]
fn what_is_not_a_store_is_refused_and_left_as_it_was() {
    let directory = bed::directory();
    let texts = [("short", "hello".to_owned()), ("long", "hello\n".repeat(4_000))];
    for (name, text) in &texts {
        let file = directory.path().join(name);
        fs::write(&file, text).expect("written");
        let (error, message) = refusal(directory.path(), name);
        assert!(matches!(error, OpenError::NotAStore { .. }), "{message}");
        let wanted = format!("{} is not a tallyd store: not a database", file.display());
        assert_eq!(message, wanted);
        assert_eq!(&fs::read_to_string(&file).expect("still there"), text);
    }
}

#[test]
fn a_database_of_somebody_else_is_refused() {
    let directory = bed::directory();
    let file = directory.path().join("other.db");
    let other = Connection::open(&file).expect("a database");
    other.execute_batch("CREATE TABLE mine (a)").expect("a table");
    let (error, message) = refusal(directory.path(), "other.db");
    assert!(matches!(error, OpenError::NotAStore { .. }), "{message}");
    assert!(message.contains("an SQLite database with application id 0x0"), "{message}");
}

#[test]
fn nothing_is_changed_in_a_database_of_somebody_else() {
    let directory = bed::directory();
    let file = directory.path().join("other.db");
    let other = Connection::open(&file).expect("a database");
    other.pragma_update(None, "auto_vacuum", "FULL").expect("before there is a table");
    other.execute_batch("CREATE TABLE mine (a)").expect("a table");
    drop(other);
    let before = fs::read(&file).expect("it is there");
    refusal(directory.path(), "other.db");
    assert!(fs::read(&file).expect("it is there") == before, "the file was changed");
}

#[tokio::test]
async fn what_a_crash_left_in_the_log_is_in_the_file_after_the_start() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    let bed = bed.crash().await;
    let file = Connection::open(bed.path().join("file alone.db")).expect("an empty file");
    fs::copy(bed.file(), bed.path().join("file alone.db")).expect("without its log");
    let stored =
        file.query_row("SELECT count(*) FROM jobs WHERE id = ?", [id.key()], |row| row.get(0));
    assert_eq!(stored, Ok(1));
}

#[test]
fn the_index_of_the_log_has_its_room_from_the_start() {
    use std::os::unix::fs::MetadataExt;
    let bed = Bed::new();
    let index = fs::metadata(beside(&bed.file(), "-shm")).expect("it is open");
    assert!(index.blocks() * 512 >= 256 << 10, "{} blocks", index.blocks());
}

#[tokio::test]
async fn a_store_of_a_newer_tallyd_is_refused() {
    let bed = Bed::new();
    bed.store.close().await.expect("it closes");
    let file = Connection::open(bed.file()).expect("it opens");
    file.pragma_update(None, "user_version", 99).expect("written");
    drop(file);
    let (error, message) = refusal(bed.path(), "t.db");
    assert!(matches!(error, OpenError::TooNew { found: 99, .. }), "{message}");
    assert!(message.ends_with("use a newer tallyd"), "{message}");
}

#[test]
fn a_place_that_cannot_be_written_is_named_with_the_reason() {
    let directory = bed::directory();
    let (_, message) = refusal(directory.path(), "missing/t.db");
    assert!(message.starts_with("cannot open "), "{message}");
    assert!(message.contains("missing/t.db: No such file or directory"), "{message}");
    fs::write(directory.path().join("file"), "").expect("written");
    let (_, message) = refusal(directory.path(), "file/t.db");
    assert!(message.contains("Not a directory"), "{message}");
    fs::create_dir(directory.path().join("t.db")).expect("made");
    let (_, message) = refusal(directory.path(), "t.db");
    assert!(message.starts_with("cannot open "), "{message}");
    assert!(message.contains("Is a directory"), "{message}");
}

#[tokio::test]
async fn a_second_server_on_the_same_file_is_refused() {
    let bed = Bed::new();
    let (error, message) = refusal(bed.path(), "t.db");
    assert!(matches!(error, OpenError::Locked { .. }), "{message}");
    assert!(message.contains("is in use by another tallyd (it holds "), "{message}");
    assert!(message.ends_with("t.db.lock)"), "{message}");
    bed.create(job("a", "k")).await;
    let bed = bed.restart().await;
    assert_eq!(bed.list().await.len(), 1, "free again once it is closed");
}

#[tokio::test]
async fn only_its_owner_may_read_a_store() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    let entries = fs::read_dir(bed.path()).expect("the directory");
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("its mode").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().expect("UTF-8"));
    }
    names.sort();
    assert_eq!(names, ["t.db", "t.db-shm", "t.db-wal", "t.db.lock", "t.db.reserve"]);
}

/// Whoever copies the file of a server that was stopped has all of it.
#[tokio::test]
async fn after_the_close_everything_is_in_the_one_file() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    bed.job(id).await; // a reading connection was used
    bed.store.close().await.expect("it closes");
    for suffix in ["-wal", "-shm"] {
        assert!(!beside(&bed.file(), suffix).exists(), "{suffix} is left behind");
    }
    let stopped = |result| matches!(result, Err(StoreError::Stopped(_)));
    assert!(stopped(bed.store.job(id).await.map(drop)));
    assert!(stopped(bed.store.list(Filter::default()).await.map(drop)));
    assert!(stopped(bed.store.create(job("a", "k")).await.map(drop)));
    assert!(stopped(bed.store.close().await));
    assert_eq!(bed.store.failure(), None, "an orderly close is no failure");
}

#[tokio::test]
async fn the_file_is_sound_and_set_up_as_the_design_says() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    let file = Connection::open(bed.file()).expect("it opens");
    let pragma = |name: &str| -> String {
        let read =
            file.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        match read.expect("a pragma") {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pragma("integrity_check"), "ok");
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("auto_vacuum"), "2", "incremental");
    assert_eq!(pragma("application_id"), 0x7461_6c64.to_string());
    assert_eq!(pragma("user_version"), "1");
}

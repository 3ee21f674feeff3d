//! Controls of the images: plain databases in modes that are known to survive a power cut, or not.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rusqlite::Connection;
use tempfile::TempDir;

use super::disk::{self, Disk, Loss};
use super::recording::{Event, History, Recording};
use crate::bed;

/// Rows, each on a page of its own, that a transaction changes together.
const ROWS: i64 = 8;

/// How many transactions.
const TRANSACTIONS: i64 = 4;

/// Images of each moment.
const IMAGES: usize = 8;

fn open(directory: &TempDir) -> Connection {
    Connection::open(directory.path().join("t.db")).unwrap()
}

/// A database whose rows all say by which transaction they were changed last, and its history.
struct Control {
    directory: TempDir,
    history: History,
    /// How many events had happened when each transaction was over.
    over: Vec<usize>,
}

impl Control {
    fn record(journal_mode: &str, synchronous: &str) -> Self {
        let directory = bed::directory();
        let setup = format!(
            "PRAGMA journal_mode = {journal_mode}; \
             CREATE TABLE t (id INTEGER PRIMARY KEY, number, filled)"
        );
        let database = open(&directory);
        database.execute_batch(&setup).unwrap();
        for id in 0..ROWS {
            database.execute("INSERT INTO t VALUES (?, 0, zeroblob(3000))", [id]).unwrap();
        }
        drop(database);
        let recording = Recording::begin(directory.path());
        let database = open(&directory);
        let modes =
            format!("PRAGMA journal_mode = {journal_mode}; PRAGMA synchronous = {synchronous}");
        database.execute_batch(&modes).unwrap();
        let mut over = Vec::new();
        for number in 1..=TRANSACTIONS {
            database.execute("UPDATE t SET number = ?", [number]).unwrap();
            over.push(recording.so_far(|history| history.events.len()));
        }
        database.close().map_err(|(_, error)| error).unwrap();
        Self { directory, history: recording.end(), over }
    }

    /// What images with this loss have wrong.
    fn wrong(&self, loss: impl Fn(&mut StdRng) -> Loss) -> BTreeSet<&'static str> {
        let mut random = StdRng::seed_from_u64(1);
        let mut disk = Disk::new(&self.history.files, |_| true);
        let mut wrong = BTreeSet::new();
        for (moment, event) in self.history.events.iter().enumerate() {
            let over = self.over.partition_point(|over| *over <= moment);
            if matches!(event, Event::Synced { .. } | Event::Deleted { .. }) {
                for _ in 0..IMAGES {
                    let loss = loss(&mut random);
                    disk::write(&disk.image(loss, &mut random), self.directory.path());
                    wrong.extend(self.look(over as i64));
                }
            }
            disk.take_in(event);
        }
        wrong
    }

    /// What is wrong with the image that lies in the directory, after so many transactions.
    fn look(&self, over: i64) -> Option<&'static str> {
        let database = open(&self.directory);
        let select = "SELECT count(*), min(number), max(number) FROM t";
        let found = database.query_row(select, [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        match found {
            Ok((ROWS, least, most)) if least == most && least < over => Some("lost"),
            Ok((ROWS, least, most)) if least == most && least <= over + 1 => None,
            _ => Some("broken"),
        }
    }
}

#[test]
fn a_database_that_promises_to_survive_does() {
    for mode in ["DELETE", "PERSIST", "TRUNCATE"] {
        let control = Control::record(mode, "EXTRA");
        assert_eq!(control.wrong(Loss::draw), BTreeSet::new(), "{mode}");
    }
    assert_eq!(Control::record("WAL", "FULL").wrong(Loss::draw), BTreeSet::new());
}

#[test]
fn a_database_without_a_journal_breaks_by_each_sort_of_loss() {
    let control = Control::record("OFF", "FULL");
    for loss in [Loss::All, Loss::None] {
        assert_eq!(control.wrong(|_| loss), BTreeSet::new(), "{loss:?}, at a sync");
    }
    for loss in [Loss::Tail, Loss::Some(0.5), Loss::Torn(0.99)] {
        assert_eq!(control.wrong(|_| loss), ["broken"].into(), "{loss:?}");
    }
}

#[test]
fn a_log_or_journal_that_is_not_synced_loses_or_breaks_transactions() {
    // NORMAL syncs the log only before it is copied.
    assert_eq!(Control::record("WAL", "NORMAL").wrong(Loss::draw), ["lost"].into());
    // FULL does not sync the directory after the journal was deleted: the last transaction may be
    // undone, which is why the store's first answers wait for the sync of a new log.
    assert_eq!(Control::record("DELETE", "FULL").wrong(Loss::draw), ["lost"].into());
    // OFF makes no sync at all; what is deleted marks the ends of its transactions.
    assert_eq!(Control::record("DELETE", "OFF").wrong(Loss::draw), ["broken", "lost"].into());
}

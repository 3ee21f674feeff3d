//! A job store under test: a layout, and a job's life written as the daemon writes it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, Transaction, params};

pub(crate) type Fallible<T = ()> = Result<T, Box<dyn Error>>;

/// What SQLite adds to a page in the WAL.
const FRAME_HEADER: u64 = 24;
/// A checkpoint follows once this much was appended, where an experiment does not say otherwise.
const CHECKPOINT_BYTES: u64 = 4 << 20;
pub(crate) const MIB: i64 = 1 << 20;
/// An id as the daemon makes them: 60 bits, of which the time fills the upper ones.
const FIRST_ID: i64 = 0x0199_0000_0000_0000;

/// Where the payload is kept.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Payload {
    InRow,
    Apart,
    /// In the row up to this many bytes, apart beyond.
    Split(usize),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Indexes {
    /// Each index holds only the states that ask for it.
    Partial,
    /// Claims go by an index of every job that starts with queue and state.
    Full,
}

/// `auto_vacuum`, and when pruning gives free pages back.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Vacuum {
    None,
    /// INCREMENTAL, but nothing is given back.
    Never,
    /// INCREMENTAL, and every prune gives back up to 256 pages while more than 1/n of the file is
    /// free; 0 asks for no such share.
    Above(i64),
}

/// One way to lay out the store.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) payload: Payload,
    pub(crate) numbered_states: bool,
    pub(crate) indexes: Indexes,
    /// Claims with one UPDATE … RETURNING rather than one UPDATE a row.
    pub(crate) claim_at_once: bool,
    pub(crate) vacuum: Vacuum,
    pub(crate) page_bytes: i64,
    pub(crate) cache_kib: i64,
    /// Another index finds the scheduled and retrying jobs of one queue.
    pub(crate) waiting_by_queue: bool,
    /// Jobs get a random one of so many priorities, so that claims jump about the table.
    pub(crate) priorities: i64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            payload: Payload::InRow,
            numbered_states: false,
            indexes: Indexes::Partial,
            claim_at_once: false,
            vacuum: Vacuum::None,
            page_bytes: 4096,
            cache_kib: 2048,
            waiting_by_queue: false,
            priorities: 1,
        }
    }
}

impl Layout {
    /// Puts the states into `sql`, which names them `$ready` and so on.
    fn spell(&self, sql: &str) -> String {
        let states =
            ["scheduled", "ready", "retrying", "running", "completed", "cancelled", "dead"];
        states.iter().enumerate().fold(sql.to_owned(), |sql, (code, state)| {
            let literal =
                if self.numbered_states { code.to_string() } else { format!("'{state}'") };
            sql.replace(&format!("${state}"), &literal)
        })
    }

    fn schema(&self) -> String {
        let ready = match self.indexes {
            Indexes::Partial => "(queue, priority, run_at) WHERE state = $ready",
            Indexes::Full => "(queue, state, priority, run_at)",
        };
        let state = if self.numbered_states { "INTEGER" } else { "TEXT" };
        let waiting = match self.waiting_by_queue {
            true => {
                "CREATE INDEX jobs_waiting ON jobs(queue, run_at)
                   WHERE state IN ($scheduled, $retrying);"
            }
            false => "",
        };
        self.spell(&format!(
            "CREATE TABLE jobs(
               id INTEGER PRIMARY KEY, tail INTEGER NOT NULL, queue INTEGER NOT NULL,
               ledger INTEGER NOT NULL, kind TEXT NOT NULL,
               state {state} NOT NULL CHECK(state IN ($scheduled, $ready, $retrying, $running,
                 $completed, $cancelled, $dead)),
               priority INTEGER NOT NULL, run_at INTEGER NOT NULL, created_at INTEGER NOT NULL,
               max_attempts INTEGER NOT NULL, timeout_ms INTEGER NOT NULL, unique_key TEXT,
               key_held INTEGER NOT NULL DEFAULT 0, unique_done INTEGER, traceparent TEXT,
               attempt INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
               lease BLOB, lease_ms INTEGER, lease_ends INTEGER, expires_at INTEGER,
               claimed_at INTEGER, ended_at INTEGER, worker TEXT, result BLOB, payload BLOB,
               CHECK((state = $running) = (lease IS NOT NULL)));
             CREATE INDEX jobs_ready ON jobs{ready};
             CREATE INDEX jobs_due ON jobs(run_at) WHERE state IN ($scheduled, $retrying);
             {waiting}
             CREATE INDEX jobs_leases ON jobs(lease_ends) WHERE state = $running;
             CREATE INDEX jobs_ended ON jobs(queue, ended_at)
               WHERE state IN ($completed, $cancelled);
             CREATE INDEX jobs_dead ON jobs(queue, ended_at) WHERE state = $dead;
             CREATE UNIQUE INDEX jobs_key ON jobs(queue, unique_key) WHERE key_held = 1;
             CREATE TABLE payloads(id INTEGER PRIMARY KEY, body BLOB NOT NULL);
             CREATE TABLE ledger(id INTEGER PRIMARY KEY, changes INTEGER NOT NULL);
             INSERT INTO ledger VALUES(1, 0);"
        ))
    }
}

/// The statements of a job's life, spelled for one layout.
struct Statements {
    insert: String,
    schedule: String,
    find_due: String,
    promote: String,
    find_ready: String,
    claim: String,
    claim_at_once: String,
    finish: String,
    find_ended: String,
}

impl Statements {
    fn new(layout: &Layout) -> Self {
        let find_ready = "FROM jobs WHERE state = $ready AND queue = ?1
            ORDER BY priority, run_at, id LIMIT ?2";
        let taken = "state = $running, attempt = attempt + 1, lease_ms = 30000, lease_ends = 30000,
            expires_at = 3600000, claimed_at = 1760000000000, worker = 'host-1'";
        let insert = |state| {
            layout.spell(&format!(
                "INSERT INTO jobs(id, tail, queue, ledger, kind, state, priority, run_at,
                   created_at, max_attempts, timeout_ms, payload)
                 VALUES(?1, ?2, ?3, 1, 'send-mail', {state}, ?4, 1760000000000 + ?5,
                   1760000000000 + ?5, 20, 60000, ?6)"
            ))
        };
        Self {
            insert: insert("$ready"),
            schedule: insert("$scheduled"),
            find_due: layout.spell(
                "SELECT id FROM jobs WHERE state IN ($scheduled, $retrying)
                 ORDER BY run_at, id LIMIT ?1",
            ),
            promote: layout
                .spell("UPDATE jobs SET state = $ready WHERE id = ?1 AND state = $scheduled"),
            find_ready: layout.spell(&format!("SELECT id, payload {find_ready}")),
            claim: layout.spell(&format!(
                "UPDATE jobs SET {taken}, lease = ?2 WHERE id = ?1 AND state = $ready"
            )),
            claim_at_once: layout.spell(&format!(
                "UPDATE jobs SET {taken}, lease = randomblob(16)
                 WHERE id IN (SELECT id {find_ready}) RETURNING id, payload, lease"
            )),
            finish: layout.spell(
                "UPDATE jobs SET state = $completed, lease = NULL, lease_ends = NULL,
                   ended_at = 1760000000000 + ?3
                 WHERE id = ?1 AND state = $running AND lease = ?2",
            ),
            find_ended: layout.spell(
                "SELECT id, payload IS NULL FROM jobs
                 WHERE state IN ($completed, $cancelled) AND queue = ?1 ORDER BY ended_at LIMIT ?2",
            ),
        }
    }
}

pub(crate) type Claimed = Vec<(i64, Vec<u8>)>;

/// A store of one layout in a file of its own, written as the daemon does.
pub(crate) struct Store {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    layout: Layout,
    sql: Statements,
    body: Vec<u8>,
    made: i64,
    seed: u64,
    /// Frames in the WAL after the last commit, as SQLite's hook tells.
    pub(crate) frames: Arc<AtomicU64>,
    frames_before: u64,
    pub(crate) wal_bytes: u64,
    /// Whether this thread checkpoints once enough was appended.
    pub(crate) checkpoint_frames: u64,
}

impl Store {
    pub(crate) fn create(path: &Path, layout: &Layout, payload_bytes: usize) -> Fallible<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "page_size", layout.page_bytes)?;
        let vacuum = if layout.vacuum == Vacuum::None { "NONE" } else { "INCREMENTAL" };
        connection.pragma_update(None, "auto_vacuum", vacuum)?;
        connection.execute_batch(&layout.schema())?;
        drop(connection);
        let mut store = Self {
            connection: open(path, layout)?,
            path: path.to_owned(),
            sql: Statements::new(layout),
            layout: layout.clone(),
            body: vec![b'x'; payload_bytes],
            made: 0,
            seed: 0x9e37_79b9_7f4a_7c15,
            frames: Arc::default(),
            frames_before: 0,
            wal_bytes: 0,
            checkpoint_frames: CHECKPOINT_BYTES / layout.page_bytes as u64,
        };
        store.watch()?;
        Ok(store)
    }

    /// Starts with an empty page cache, as after a restart.
    pub(crate) fn reopen(&mut self) -> Fallible {
        self.connection = open(&self.path, &self.layout)?;
        self.watch()
    }

    fn watch(&mut self) -> Fallible {
        let frames = self.frames.clone();
        self.connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            frames.store(u64::from(pages.unsigned_abs()), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(())
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    /// Commits what `work` does as one transaction with the ledger, then checkpoints if it is time.
    fn commit<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &Statements) -> rusqlite::Result<T>,
    ) -> Fallible<T> {
        let transaction = self.connection.unchecked_transaction()?;
        let result = work(&transaction, &self.sql)?;
        transaction
            .prepare_cached("UPDATE ledger SET changes = changes + 1 WHERE id = 1")?
            .execute([])?;
        transaction.commit()?;
        let frames = self.frames.load(Ordering::Relaxed);
        let appended = frames.checked_sub(self.frames_before).unwrap_or(frames);
        self.frames_before = frames;
        self.wal_bytes += appended * (self.layout.page_bytes as u64 + FRAME_HEADER);
        if frames >= self.checkpoint_frames {
            checkpoint(&self.connection)?;
        }
        Ok(result)
    }

    pub(crate) fn insert(&mut self, count: usize) -> Fallible {
        self.insert_as(count, |sql| &sql.insert)
    }

    /// Creates jobs that wait for their time, and makes as many ready whose time has come.
    pub(crate) fn schedule(&mut self, count: usize) -> Fallible {
        self.insert_as(count, |sql| &sql.schedule)?;
        self.commit(|transaction, sql| {
            let mut find = transaction.prepare_cached(&sql.find_due)?;
            let mut promote = transaction.prepare_cached(&sql.promote)?;
            let due = find.query_map([count as i64], |row| row.get::<_, i64>(0))?;
            for id in due.collect::<rusqlite::Result<Vec<_>>>()? {
                promote.execute([id])?;
            }
            Ok(())
        })
    }

    fn insert_as(&mut self, count: usize, statement: fn(&Statements) -> &str) -> Fallible {
        let priorities = self.layout.priorities as u64;
        let body = std::mem::take(&mut self.body);
        let (apart, in_row) = match self.layout.payload {
            Payload::Apart => (true, None),
            Payload::Split(most) if body.len() > most => (true, None),
            Payload::InRow | Payload::Split(_) => (false, Some(&body)),
        };
        let rows: Vec<_> = (0..count)
            .map(|_| {
                let chance = self.random();
                self.made += 1;
                (self.made, (chance >> 2) as i64, ((chance >> 8) % priorities) as i64)
            })
            .collect();
        self.commit(|transaction, sql| {
            let mut job = transaction.prepare_cached(statement(sql))?;
            let mut payload = transaction.prepare_cached("INSERT INTO payloads VALUES(?1, ?2)")?;
            for (number, tail, priority) in rows {
                let id = FIRST_ID + number;
                job.execute(params![id, tail, 0, priority, number / 100, in_row])?;
                if apart {
                    payload.execute(params![id, body])?;
                }
            }
            Ok(())
        })?;
        self.body = body;
        Ok(())
    }

    /// Claims the first `count` ready jobs of queue 0, with their payloads.
    pub(crate) fn claim(&mut self, count: usize) -> Fallible<Claimed> {
        let leases: Vec<Vec<u8>> = (0..count)
            .map(|_| [self.random(), self.random()].map(u64::to_le_bytes).concat())
            .collect();
        let at_once = self.layout.claim_at_once;
        self.commit(|transaction, sql| {
            if at_once {
                let mut claim = transaction.prepare_cached(&sql.claim_at_once)?;
                let rows = claim.query_map(params![0, count as i64], |row| {
                    let body: Option<Vec<u8>> = row.get(1)?;
                    Ok((row.get(0)?, row.get(2)?, body))
                })?;
                return rows.map(|row| row.map(|(id, lease, _)| (id, lease))).collect();
            }
            let mut find = transaction.prepare_cached(&sql.find_ready)?;
            let mut claim = transaction.prepare_cached(&sql.claim)?;
            let mut payload =
                transaction.prepare_cached("SELECT body FROM payloads WHERE id = ?1")?;
            let found: Vec<(i64, Option<Vec<u8>>)> = find
                .query_map(params![0, count as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let mut claimed = Vec::with_capacity(found.len());
            for ((id, body), lease) in found.into_iter().zip(leases) {
                if body.is_none() {
                    payload.query_row([id], |row| row.get::<_, Vec<u8>>(0))?;
                }
                claim.execute(params![id, lease])?;
                claimed.push((id, lease));
            }
            Ok(claimed)
        })
    }

    pub(crate) fn finish(&mut self, claimed: &Claimed) -> Fallible {
        self.commit(|transaction, sql| {
            let mut finish = transaction.prepare_cached(&sql.finish)?;
            for (id, lease) in claimed {
                assert_eq!(finish.execute(params![id, lease, id - FIRST_ID])?, 1, "lease lost");
            }
            Ok(())
        })
    }

    /// Deletes the `count` jobs of queue 0 that ended first.
    pub(crate) fn prune(&mut self, count: usize) -> Fallible {
        let vacuum = self.layout.vacuum;
        self.commit(|transaction, sql| {
            let mut find = transaction.prepare_cached(&sql.find_ended)?;
            let mut job = transaction.prepare_cached("DELETE FROM jobs WHERE id = ?1")?;
            let mut payload = transaction.prepare_cached("DELETE FROM payloads WHERE id = ?1")?;
            let ended: Vec<(i64, bool)> = find
                .query_map(params![0, count as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (id, is_apart) in ended {
                job.execute([id])?;
                if is_apart {
                    payload.execute([id])?;
                }
            }
            if let Vacuum::Above(share) = vacuum {
                give_back(transaction, share)?;
            }
            Ok(())
        })
    }

    pub(crate) fn number(&self, pragma: &str) -> Fallible<i64> {
        Ok(self.connection.pragma_query_value(None, pragma, |row| row.get(0))?)
    }

    /// Takes `jobs` jobs through their lives, `batch` of them per transaction.
    pub(crate) fn live(&mut self, jobs: usize, batch: usize) -> Fallible {
        for _ in 0..jobs / batch {
            self.insert(batch)?;
            let claimed = self.claim(batch)?;
            self.finish(&claimed)?;
            self.prune(batch)?;
        }
        Ok(())
    }
}

pub(crate) fn open(path: &Path, layout: &Layout) -> Fallible<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -layout.cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Shortens the file by up to 256 pages if more than 1/`share` of it is free.
fn give_back(transaction: &Transaction<'_>, share: i64) -> rusqlite::Result<()> {
    let free: i64 = transaction.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let pages: i64 = transaction.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if free * share > pages || share == 0 {
        let mut step = transaction.prepare_cached("PRAGMA incremental_vacuum(256)")?;
        let mut rows = step.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

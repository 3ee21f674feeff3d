//! Reading beside the writer: single jobs and pages of the list.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tokio::sync::Semaphore;

use super::open::{flags, keep_plans};
use super::reading::{READ_LIMIT, Reading};
use super::rows::{SELECT_JOB, SELECT_LISTED_JOB, read_job};
use crate::clock::Stopwatch;
use crate::config::Config;
use crate::store::{Filter, Job, JobId, OpenError, Page, StoreError};

/// How many reads may go on at once: on a machine with few cores more would not be faster.
const CONNECTIONS: usize = 3;

/// After how many steps of SQLite's machine a read looks at the time: about a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 20_000;

/// The most jobs that a page looks at before it is given out short.
const EXAMINED: usize = 20_000;

/// About how many bytes a page has when it is given out short: error texts may be long.
const PAGE_BYTES: usize = 2 << 20;

/// A few read-only connections; clones share them.
#[derive(Clone)]
pub(in crate::store) struct Readers {
    pool: Arc<Pool>,
}

struct Pool {
    connections: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    reading: Arc<Reading>,
    config: Arc<Config>,
}

impl Readers {
    /// Opens them.
    pub(super) fn open(
        file: &Path,
        config: Arc<Config>,
        reading: Arc<Reading>,
    ) -> Result<Self, OpenError> {
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(file, flags(false))?;
            connection.busy_timeout(READ_LIMIT)?;
            keep_plans(&connection)?;
            Ok(connection)
        };
        let connections: Result<Vec<_>, _> = (0..CONNECTIONS).map(|_| open()).collect();
        let connections = connections.map_err(|error| OpenError::engine(file, error))?;
        let permits = Arc::new(Semaphore::new(connections.len()));
        let pool = Pool { connections: Mutex::new(connections), permits, reading, config };
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Changes the connections that nobody reads by.
    #[cfg(test)]
    pub(super) fn for_each_connection(&self, change: impl FnMut(&mut Connection)) {
        self.pool.lock().iter_mut().for_each(change);
    }

    /// One job with payload and result.
    pub(in crate::store) async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.read(move |connection, config| {
            let found = whole(connection, config, id.key(), SELECT_JOB)?;
            Ok(found.filter(|job| job.id == id))
        })
        .await
    }

    /// One page, newest first.
    pub(in crate::store) async fn list(&self, filter: Filter) -> Result<Page, StoreError> {
        self.read(move |connection, config| page(connection, config, &filter)).await
    }

    /// Waits for the reads that go on, and closes the connections; later reads are refused.
    pub(in crate::store) async fn close(&self) {
        let all = self.pool.permits.acquire_many(CONNECTIONS as u32).await;
        if all.is_ok() {
            self.pool.permits.close();
            self.pool.lock().clear();
        }
    }

    /// Runs `read` on a connection and a thread of its own, and ends it at the limit.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Config) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        let pool = self.pool.clone();
        let closed = |_| StoreError::Stopped("it is closed".into());
        let permit = self.pool.permits.clone().acquire_owned().await.map_err(closed)?;
        let under_way = pool.reading.begin().await;
        let reading = tokio::task::spawn_blocking(move || {
            let mut connection = pool.lock().pop()?; // none is left once the store is closed
            let started = Stopwatch::start();
            let is_late = move || started.seconds() > READ_LIMIT.as_secs_f64();
            let outcome = connection
                .progress_handler(STEPS_BETWEEN_LOOKS, Some(is_late))
                .and_then(|()| read(&connection, &pool.config));
            drop(under_way);
            if !pool.permits.is_closed() {
                pool.lock().push(connection);
            }
            drop(permit); // not before: a caller who goes away must not free the place
            Some(outcome)
        });
        let outcome = reading.await.map_err(|panic| StoreError::Stopped(panic.to_string()))?;
        let closed = || StoreError::Stopped("it is closed".into());
        outcome.ok_or_else(closed)?.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => StoreError::TooSlow(READ_LIMIT),
            _ => super::rows::damaged(0, &error)
                .unwrap_or_else(|| StoreError::Unreadable(error.to_string())),
        })
    }
}

impl Pool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().expect("nothing panics while it holds the list")
    }
}

fn whole(
    connection: &Connection,
    config: &Config,
    key: i64,
    select: &str,
) -> rusqlite::Result<Option<Job>> {
    let with_bodies = select == SELECT_JOB;
    let mut select = connection.prepare_cached(select)?;
    let read = select
        .query_row([key], |row| read_job(row, with_bodies, |queue| config.policy(queue)))
        .optional()?;
    Ok(read.map(|(_, job)| job))
}

/// Walks the jobs from the newest, and gives out what it has when it has seen enough.
fn page(connection: &Connection, config: &Config, filter: &Filter) -> rusqlite::Result<Page> {
    // One view of the file, so that a job is not gone between being found and being read.
    let view = connection.unchecked_transaction()?;
    let queue = match &filter.queue {
        None => None,
        Some(name) => {
            let id: Option<i64> = view
                .query_row("SELECT id FROM queues WHERE name = ?", [name], |row| row.get(0))
                .optional()?;
            match id {
                None => return Ok(Page::default()),
                found => found,
            }
        }
    };
    let mut select = view.prepare_cached(
        "SELECT id, queue, state, kind FROM jobs WHERE id < ? ORDER BY id DESC LIMIT ?",
    )?;
    let below = filter.cursor.unwrap_or(i64::MAX);
    let mut rows = select.query((below, EXAMINED as i64))?;
    let mut page = Page::default();
    let (mut seen, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let key: i64 = row.get(0)?;
        seen += 1;
        let is_wanted = queue.is_none_or(|queue| row.get(1) == Ok(queue))
            && filter.state.is_none_or(|state| row.get_ref(2).is_ok_and(|v| is(v, state.name())))
            && filter.kind.as_ref().is_none_or(|kind| row.get_ref(3).is_ok_and(|v| is(v, kind)));
        if is_wanted && let Some(job) = whole(&view, config, key, SELECT_LISTED_JOB)? {
            bytes += job.bytes();
            page.jobs.push(job);
        }
        page.next_cursor = Some(key);
        if page.jobs.len() == filter.limit || bytes >= PAGE_BYTES {
            return Ok(page);
        }
    }
    if seen < EXAMINED {
        page.next_cursor = None;
    }
    Ok(page)
}

fn is(value: rusqlite::types::ValueRef<'_>, text: &str) -> bool {
    value.as_str() == Ok(text)
}

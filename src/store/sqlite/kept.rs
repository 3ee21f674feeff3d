//! The rows of the ledger, the queues and the totals: how the writer's knowledge is read and written.

use std::sync::Arc;

use rusqlite::{Connection, params_from_iter};

use super::state::{PRIORITIES, QueueId, QueueState};
use super::sweep::PassedOver;
use crate::clock::Timestamp;
use crate::job::State as JobState;
use crate::tally::{Count, Counts, Ledger, QueueCounts, Row, RowId, Totals};

pub(super) fn first_ready(
    connection: &Connection,
    queue: QueueId,
    priority: u8,
) -> rusqlite::Result<Option<i64>> {
    let mut select = connection.prepare_cached(
        "SELECT min(run_at) FROM jobs WHERE queue = ? AND state = 'ready' AND priority = ?",
    )?;
    select.query_row((queue.0, priority), |row| row.get(0))
}

/// A count, which is never less than 0 unless somebody else has changed the file.
fn count(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<i64> {
    match row.get(column)? {
        count if count < 0 => Err(rusqlite::Error::IntegralValueOutOfRange(column, count)),
        count => Ok(count),
    }
}

/// The store's UUID, its totals, and the greatest key that was removed.
pub(super) fn load_totals(connection: &Connection) -> rusqlite::Result<(Arc<str>, Totals, i64)> {
    let select = "SELECT store, promoted, expired, pruned, overflow_jobs, leases_lost_elsewhere, \
                  duplicates_elsewhere, greatest_removed FROM totals";
    connection.query_row(select, [], |row| {
        let totals = Totals {
            promoted: count(row, 1)?,
            expired: count(row, 2)?,
            pruned: count(row, 3)?,
            overflow_jobs: count(row, 4)?,
            leases_lost_elsewhere: count(row, 5)?,
            duplicates_elsewhere: count(row, 6)?,
        };
        Ok((row.get::<_, String>(0)?.into(), totals, row.get(7)?))
    })
}

pub(super) fn write_totals(
    connection: &Connection,
    totals: &Totals,
    greatest_removed: i64,
) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE totals SET promoted = ?, expired = ?, pruned = ?, overflow_jobs = ?, \
         leases_lost_elsewhere = ?, duplicates_elsewhere = ?, greatest_removed = ?",
    )?;
    update.execute((
        totals.promoted,
        totals.expired,
        totals.pruned,
        totals.overflow_jobs,
        totals.leases_lost_elsewhere,
        totals.duplicates_elsewhere,
        greatest_removed,
    ))?;
    Ok(())
}

pub(super) fn load_ledger(connection: &Connection) -> rusqlite::Result<Ledger> {
    let columns = Count::ALL.map(|(_, column)| column).join(", ");
    let mut ledger = Ledger::default();
    let mut select =
        connection.prepare(&format!("SELECT id, queue, kind, {columns} FROM ledger"))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let mut counts = [0; Count::ALL.len()];
        for (index, kept) in counts.iter_mut().enumerate() {
            *kept = count(row, 3 + index)?;
        }
        let counts = Counts::from_array(counts);
        let (queue, kind): (String, String) = (row.get(1)?, row.get(2)?);
        let row_id = RowId(row.get(0)?);
        ledger.insert(row_id, Row { queue: queue.into(), kind: kind.into(), counts });
    }
    Ok(ledger)
}

pub(super) fn write_row(connection: &Connection, id: RowId, row: &Row) -> rusqlite::Result<()> {
    use std::sync::LazyLock;
    static UPSERT: LazyLock<String> = LazyLock::new(|| {
        let columns = Count::ALL.map(|(_, column)| column);
        let sets = columns.map(|column| format!("{column} = excluded.{column}"));
        format!(
            "INSERT INTO ledger (id, queue, kind, {}) VALUES (?, ?, ?{}) \
             ON CONFLICT (id) DO UPDATE SET {}",
            columns.join(", "),
            ", ?".repeat(columns.len()),
            sets.join(", ")
        )
    });
    let mut upsert = connection.prepare_cached(&UPSERT)?;
    upsert.raw_bind_parameter(1, id.0)?;
    upsert.raw_bind_parameter(2, &*row.queue)?;
    upsert.raw_bind_parameter(3, &*row.kind)?;
    for (index, count) in row.counts.as_array().iter().enumerate() {
        upsert.raw_bind_parameter(4 + index, count)?;
    }
    upsert.raw_execute()?;
    Ok(())
}

pub(super) fn load_queues(connection: &Connection) -> rusqlite::Result<Vec<(QueueId, QueueState)>> {
    let states = JobState::ALL.map(JobState::name).join(", ");
    let mut select = connection.prepare(&format!(
        "SELECT id, name, paused, leases_lost, duplicates, has_series, {states} FROM queues"
    ))?;
    let queues = select.query_map([], |row| {
        let mut counts = QueueCounts {
            leases_lost: count(row, 3)?,
            duplicates: count(row, 4)?,
            ..Default::default()
        };
        for (index, stored) in counts.stored.iter_mut().enumerate() {
            *stored = count(row, 6 + index)?;
        }
        let queue = QueueState {
            name: row.get::<_, String>(1)?.into(),
            has_series: row.get(5)?,
            paused: row.get(2)?,
            counts,
            heads: [None; PRIORITIES],
            prune_at: Timestamp(0),
            passed_over: PassedOver::default(),
        };
        Ok((QueueId(row.get(0)?), queue))
    })?;
    queues.collect()
}

pub(super) fn write_queue(
    connection: &Connection,
    id: QueueId,
    queue: &QueueState,
) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE queues SET has_series = ?, paused = ?, leases_lost = ?, duplicates = ?, scheduled = ?, ready = ?, \
         retrying = ?, running = ?, completed = ?, cancelled = ?, dead = ? WHERE id = ?",
    )?;
    let counts = &queue.counts;
    let flags = [i64::from(queue.has_series), i64::from(queue.paused)];
    let numbers = [counts.leases_lost, counts.duplicates];
    update.execute(params_from_iter(
        flags.into_iter().chain(numbers).chain(counts.stored).chain([id.0]),
    ))?;
    Ok(())
}

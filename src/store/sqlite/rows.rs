//! Rows as values: the part that decisions need, and the whole job.

use bytes::Bytes;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::state::QueueId;
use crate::clock::Timestamp;
use crate::config::Policy;
use crate::job::{AttemptResult, Facts, State};
use crate::store::{Job, JobId, LastError, StoreError, UniqueUntil};
use crate::tally::{Observation, RowId};

/// The columns of [`Core`], in its order.
macro_rules! core_columns {
    () => {
        "jobs.id, jobs.tail, jobs.queue, jobs.ledger, jobs.state, jobs.priority, jobs.run_at, \
         jobs.attempt, jobs.failures, jobs.max_attempts, jobs.timeout_ms, jobs.lease, jobs.own, \
         jobs.lease_ms, jobs.lease_tick, jobs.timeout_tick, jobs.claimed_tick, jobs.outcome, \
         jobs.key_until, jobs.key_held, jobs.traceparent"
    };
}

/// How many columns [`Core`] has; those of the whole job follow.
const CORE: usize = 21;

/// Where the trace stands.
const TRACEPARENT: usize = 20;

/// The columns of a whole job behind those of its core, and where they come from.
macro_rules! job_columns {
    ($bodies:literal, $joins:literal) => {
        concat!(
            "SELECT ",
            core_columns!(),
            ", queues.name, jobs.kind, jobs.created_at, jobs.expires_at, jobs.claimed_at, \
             jobs.ended_at, jobs.unique_key, jobs.worker, errors.attempt, errors.at, \
             errors.outcome, errors.message",
            $bodies,
            " FROM jobs JOIN queues ON queues.id = jobs.queue \
             LEFT JOIN errors ON errors.id = jobs.id ",
            $joins,
            " WHERE jobs.id = ?"
        )
    };
}

/// One whole job by its key.
pub(super) const SELECT_JOB: &str = job_columns!(
    ", payloads.body, results.body",
    "LEFT JOIN payloads ON payloads.id = jobs.id LEFT JOIN results ON results.id = jobs.id"
);

/// One job by its key, without payload and result.
pub(super) const SELECT_LISTED_JOB: &str = job_columns!("", "");

/// What decisions about a job need.
#[derive(Debug, Clone)]
pub(super) struct Core {
    pub(super) id: JobId,
    pub(super) queue: QueueId,
    pub(super) ledger: RowId,
    pub(super) state: State,
    pub(super) priority: u8,
    pub(super) run_at: Timestamp,
    pub(super) attempt: u32,
    pub(super) failures: u32,
    pub(super) max_attempts: Option<u32>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) lease: Option<[u8; 16]>,
    pub(super) own: bool,
    pub(super) lease_ms: Option<i64>,
    pub(super) lease_tick: Option<i64>,
    pub(super) timeout_tick: Option<i64>,
    pub(super) claimed_tick: Option<i64>,
    pub(super) outcome: Option<AttemptResult>,
    pub(super) key_until: Option<UniqueUntil>,
    pub(super) key_held: bool,
    /// The trace that the job belongs to.
    pub(super) trace: Option<u128>,
}

impl Core {
    /// Reads one by its key.
    pub(super) fn load(connection: &Connection, key: i64) -> rusqlite::Result<Option<Self>> {
        const SELECT: &str = concat!("SELECT ", core_columns!(), " FROM jobs WHERE id = ?");
        connection.prepare_cached(SELECT)?.query_row([key], Self::read).optional()
    }

    /// Reads one by its id; none if only the key is right.
    pub(super) fn find(connection: &Connection, id: JobId) -> rusqlite::Result<Option<Self>> {
        Ok(Self::load(connection, id.key())?.filter(|core| core.id == id))
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: JobId::new(row.get(0)?, row.get::<_, i64>(1)? as u64),
            queue: QueueId(row.get(2)?),
            ledger: RowId(row.get(3)?),
            state: named(row, 4, State::named)?.ok_or_else(|| unknown(4, Type::Null))?,
            priority: row.get(5)?,
            run_at: Timestamp(row.get(6)?),
            attempt: row.get(7)?,
            failures: row.get(8)?,
            max_attempts: row.get(9)?,
            timeout_ms: row.get::<_, Option<i64>>(10)?.map(|ms| ms.unsigned_abs()),
            lease: row.get(11)?,
            own: row.get(12)?,
            lease_ms: row.get(13)?,
            lease_tick: row.get(14)?,
            timeout_tick: row.get(15)?,
            claimed_tick: row.get(16)?,
            outcome: named(row, 17, AttemptResult::named)?,
            key_until: named(row, 18, key_until_named)?,
            key_held: row.get(19)?,
            // Only an exemplar needs it, so damage there refuses nothing.
            trace: row.get_ref(TRACEPARENT)?.as_str().ok().and_then(trace_of),
        })
    }

    /// What the rules of its life need.
    pub(super) fn facts(&self, policy: &Policy) -> Facts {
        Facts {
            state: self.state,
            run_at: self.run_at,
            failures: self.failures,
            max_attempts: self.max_attempts.unwrap_or(policy.max_attempts),
        }
    }

    /// How long something took that has ended now.
    pub(super) fn observation(&self, seconds: f64, now: Timestamp) -> Observation {
        Observation { seconds, at: now, job: self.id.uuid(), trace: self.trace }
    }

    /// How long an attempt may take; none = as long as it likes.
    pub(super) fn timeout(&self, policy: &Policy) -> Option<std::time::Duration> {
        match self.timeout_ms {
            Some(0) => None,
            Some(ms) => Some(std::time::Duration::from_millis(ms)),
            None => policy.timeout,
        }
    }
}

/// A whole job, with its core.
pub(super) fn read_job<'p>(
    row: &Row<'_>,
    with_bodies: bool,
    policy: impl Fn(&str) -> &'p Policy,
) -> rusqlite::Result<(Core, Job)> {
    let core = Core::read(row)?;
    let queue: String = row.get(CORE)?;
    let policy = policy(&queue);
    let body = |column: usize| -> rusqlite::Result<Option<Bytes>> {
        let body = if with_bodies { row.get::<_, Option<Vec<u8>>>(column)? } else { None };
        Ok(body.map(Bytes::from))
    };
    let job = Job {
        id: core.id,
        queue,
        kind: row.get(CORE + 1)?,
        state: core.state,
        priority: core.priority,
        payload: body(CORE + 12)?,
        attempt: core.attempt,
        failures: core.failures,
        max_attempts: core.max_attempts.unwrap_or(policy.max_attempts),
        timeout: core.timeout(policy),
        unique_key: row.get(CORE + 6)?,
        traceparent: row.get(TRACEPARENT)?,
        created_at: Timestamp(row.get(CORE + 2)?),
        run_at: core.run_at,
        claimed_at: row.get::<_, Option<i64>>(CORE + 4)?.map(Timestamp),
        ended_at: row.get::<_, Option<i64>>(CORE + 5)?.map(Timestamp),
        expires_at: row.get::<_, Option<i64>>(CORE + 3)?.map(Timestamp),
        worker: row.get(CORE + 7)?,
        last_error: read_error(row)?,
        result: body(CORE + 13)?,
    };
    Ok((core, job))
}

fn read_error(row: &Row<'_>) -> rusqlite::Result<Option<LastError>> {
    let Some(attempt) = row.get(CORE + 8)? else { return Ok(None) };
    Ok(Some(LastError {
        attempt,
        at: Timestamp(row.get(CORE + 9)?),
        outcome: named(row, CORE + 10, AttemptResult::named)?
            .ok_or_else(|| unknown(CORE + 10, Type::Null))?,
        message: row.get(CORE + 11)?,
    }))
}

/// The second part of a `traceparent`.
pub(super) fn trace_of(traceparent: &str) -> Option<u128> {
    u128::from_str_radix(traceparent.split('-').nth(1)?, 16).ok()
}

/// A column that holds one of a set of names, or nothing.
fn named<T>(
    row: &Row<'_>,
    column: usize,
    read: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    let value = row.get_ref(column)?;
    let Some(name) = value.as_str_or_null()? else { return Ok(None) };
    read(name).map(Some).ok_or_else(|| unknown(column, Type::Text))
}

fn unknown(column: usize, found: Type) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, found, "not one of the known names".into())
}

pub(super) fn key_until_name(until: UniqueUntil) -> &'static str {
    match until {
        UniqueUntil::Gone => "gone",
        UniqueUntil::Done => "done",
    }
}

fn key_until_named(name: &str) -> Option<UniqueUntil> {
    [UniqueUntil::Gone, UniqueUntil::Done].into_iter().find(|until| key_until_name(*until) == name)
}

/// A row that cannot be read, as far as it is not the engine that has failed.
pub(super) fn damaged(key: i64, error: &rusqlite::Error) -> Option<StoreError> {
    use rusqlite::Error as E;
    let is_damage = matches!(
        error,
        E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..)
            | E::QueryReturnedNoRows // its queue is gone
    );
    is_damage.then(|| StoreError::Damaged { key, why: error.to_string() })
}

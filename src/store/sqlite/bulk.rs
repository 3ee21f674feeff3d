//! The same for many jobs of a queue, in steps that leave room for others in between.

use rusqlite::params_from_iter;

use super::Engine;
use super::state::QueueId;
use crate::job::State;
use crate::store::operation::Failure;
use crate::store::{Action, Bulk, BulkCursor, BulkStep, StoreError};

/// The most rows that one step looks at, a few milliseconds of the writer's time.
const EXAMINED: usize = 1_000;

/// Where to find jobs that an action applies to. The index of running jobs does not know the queue;
/// they are filtered after they were read, and are as many as all workers run.
struct Part {
    states: &'static [State],
    /// Each answers with key, two numbers that order the walk, and queue, behind the last row seen;
    /// one after the other. A comparison of pairs would be one query, but SQLite seeks to its first
    /// number only and then walks all rows that share it.
    seeks: &'static [Seek],
}

/// A query, and which of queue, first number, second number, key and limit it takes.
struct Seek(&'static str, &'static [usize]);

const BEGIN: [i64; 3] = [i64::MIN; 3];

const CANCELLABLE: &[Part] = &[
    Part {
        states: &[State::Ready],
        seeks: &[
            Seek(
                "SELECT id, priority, run_at, queue FROM jobs WHERE state = 'ready' AND queue = ? \
                 AND priority = ? AND run_at = ? AND id > ? ORDER BY id LIMIT ?",
                &[0, 1, 2, 3, 4],
            ),
            Seek(
                "SELECT id, priority, run_at, queue FROM jobs WHERE state = 'ready' AND queue = ? \
                 AND priority = ? AND run_at > ? ORDER BY run_at, id LIMIT ?",
                &[0, 1, 2, 4],
            ),
            Seek(
                "SELECT id, priority, run_at, queue FROM jobs WHERE state = 'ready' AND queue = ? \
                 AND priority > ? ORDER BY priority, run_at, id LIMIT ?",
                &[0, 1, 4],
            ),
        ],
    },
    Part {
        states: &[State::Scheduled, State::Retrying],
        seeks: &[
            Seek(
                "SELECT id, 0, run_at, queue FROM jobs WHERE state IN ('scheduled', 'retrying') \
                 AND queue = ? AND run_at = ? AND id > ? ORDER BY id LIMIT ?",
                &[0, 2, 3, 4],
            ),
            Seek(
                "SELECT id, 0, run_at, queue FROM jobs WHERE state IN ('scheduled', 'retrying') \
                 AND queue = ? AND run_at > ? ORDER BY run_at, id LIMIT ?",
                &[0, 2, 4],
            ),
        ],
    },
    Part {
        states: &[State::Running],
        seeks: &[
            Seek(
                "SELECT id, 0, lease_tick, queue FROM jobs WHERE state = 'running' \
                 AND lease_tick = ? AND id > ? ORDER BY id LIMIT ?",
                &[2, 3, 4],
            ),
            Seek(
                "SELECT id, 0, lease_tick, queue FROM jobs WHERE state = 'running' \
                 AND lease_tick > ? ORDER BY lease_tick, id LIMIT ?",
                &[2, 4],
            ),
        ],
    },
];

const DEAD: &[Part] = &[Part {
    states: &[State::Dead],
    seeks: &[
        Seek(
            "SELECT id, 0, ended_at, queue FROM jobs WHERE state = 'dead' AND queue = ? \
             AND ended_at = ? AND id > ? ORDER BY id LIMIT ?",
            &[0, 2, 3, 4],
        ),
        Seek(
            "SELECT id, 0, ended_at, queue FROM jobs WHERE state = 'dead' AND queue = ? \
             AND ended_at > ? ORDER BY ended_at, id LIMIT ?",
            &[0, 2, 4],
        ),
    ],
}];

impl Engine {
    /// Acts on jobs of a queue until the limit, or until this step has seen enough rows.
    pub(in crate::store) fn act_on_many(&mut self, bulk: &Bulk) -> Result<BulkStep, Failure> {
        let most = EXAMINED.min(bulk.limit);
        self.checkpointer.quota().take(most, 0)?;
        let step = self.bulk_step(bulk)?;
        self.checkpointer.quota().give_back(most - step.count);
        Ok(step)
    }

    fn bulk_step(&mut self, bulk: &Bulk) -> Result<BulkStep, Failure> {
        let queue = self.state.queue_named(&bulk.queue);
        let queue = queue.ok_or_else(|| StoreError::NoSuchQueue(bulk.queue.clone()))?;
        let parts = match bulk.action {
            Action::Cancel => CANCELLABLE,
            Action::Requeue | Action::Discard => DEAD,
        };
        let mut step = BulkStep::default();
        let mut cursor = bulk.from.unwrap_or(BulkCursor { part: 0, at: BEGIN });
        let rows = self.rows_of_part(&parts[cursor.part], queue, cursor)?;
        let is_last_page = rows.len() < EXAMINED;
        for (at, row_queue) in rows {
            if step.count == bulk.limit {
                step.next = Some(cursor);
                return Ok(step);
            }
            cursor.at = at;
            if row_queue == queue && self.act_if_matching(at[2], bulk)? {
                step.count += 1;
            }
        }
        step.next = if !is_last_page {
            Some(cursor)
        } else {
            let part = cursor.part + 1;
            (part < parts.len()).then_some(BulkCursor { part, at: BEGIN })
        };
        Ok(step)
    }

    fn rows_of_part(
        &self,
        part: &Part,
        queue: QueueId,
        cursor: BulkCursor,
    ) -> Result<Vec<([i64; 3], QueueId)>, Failure> {
        let counts = &self.state.queue(queue)?.counts;
        let mut found = Vec::new();
        if part.states.iter().all(|state| counts.stored(*state) == 0) {
            return Ok(found);
        }
        let [first, second, key] = cursor.at;
        for Seek(select, takes) in part.seeks {
            let all = [queue.0, first, second, key, (EXAMINED - found.len()) as i64];
            let taken = takes.iter().map(|index| all[*index]);
            let mut select = self.connection.prepare_cached(select)?;
            let rows = select.query_map(params_from_iter(taken), |row| {
                Ok(([row.get(1)?, row.get(2)?, row.get(0)?], QueueId(row.get(3)?)))
            })?;
            for row in rows {
                found.push(row?);
            }
        }
        Ok(found)
    }

    /// Acts on one job if it is meant; a job whose unique key another one holds stays dead.
    fn act_if_matching(&mut self, key: i64, bulk: &Bulk) -> Result<bool, Failure> {
        let mut select = self
            .connection
            .prepare_cached("SELECT kind, created_at, unique_key FROM jobs WHERE id = ?")?;
        let read: rusqlite::Result<(String, i64, Option<String>)> =
            select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        drop(select);
        let (kind, created_at, unique_key) = match read.map_err(|error| self.failure(key, error)) {
            Err(Failure::Refused(_)) => return Ok(false),
            read => read?,
        };
        let is_meant = bulk.kind.as_ref().is_none_or(|wanted| *wanted == kind)
            && bulk.before.is_none_or(|before| created_at < before.0);
        if !is_meant {
            return Ok(false);
        }
        let core = match self.core(key) {
            Err(Failure::Refused(_)) => return Ok(false),
            core => core?,
        };
        match self.act_on(&core, bulk.action, unique_key.as_deref()) {
            Ok(()) => Ok(true),
            Err(Failure::Refused(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

//! The sweeper's work in bounded steps: promote, expire, prune; and the recount.
//!
//! Each of the three walks an index behind a cursor, so that rows which cannot be handled are
//! passed over once in a tick and hold up none behind them.

use std::time::Duration;

use rusqlite::{Row, params_from_iter};

use super::Engine;
use super::rows::Core;
use super::state::{QueueId, QueueState, check_row};
use crate::clock::{Tick, Timestamp};
use crate::job::{self, Event, Outcome, State};
use crate::store::operation::Failure;
use crate::store::{Sweep, Swept};
use crate::tally::Totals;

/// The most rows of each sort that one sweep handles: about a millisecond of the writer's time.
const STEP: usize = 200;

/// The most jobs that one sweep prunes when as many have ended since the last: some 30 ms.
const MOST_PRUNED: usize = 4_000;

/// A time, or a tick, and a key: where a walk is.
type Place = (i64, i64);

/// The last rows of a queue that this tick could not prune.
#[derive(Default)]
pub(super) struct PassedOver {
    ended: Option<Place>,
    dead: Option<Place>,
}

/// How long and how many ended jobs of one sort are kept, and where to look for them.
struct Retention {
    select: &'static str,
    keep: Duration,
    /// So many more are stored than may be.
    excess: i64,
    behind: Option<Place>,
}

/// What pruning one sort of jobs came to.
struct PrunedPart {
    handled: usize,
    /// When the first job that stays has to go.
    next: Option<Timestamp>,
    behind: Option<Place>,
}

impl Engine {
    /// One bounded step of a tick.
    pub(in crate::store) fn sweep(&mut self, sweep: &Sweep) -> Result<Swept, Failure> {
        if sweep.is_first_step() {
            self.tidy_file()?;
            self.state.queues.values_mut().for_each(|queue| queue.passed_over = <_>::default());
        }
        let mut swept = Swept::default();
        let (now, tick) = (self.clock.now(), self.clock.tick());
        // What becomes ready could not be claimed, and it is not for old jobs to fill the log.
        let rests = self.refuses_claims();
        let due_after =
            if rests { None } else { self.promote_due(now, sweep.due_after, &mut swept)? };
        let leases_after = self.expire_leases(tick, sweep.leases_after, &mut swept)?;
        let prune_on = !rests && self.prune(&mut swept)?;
        if due_after.is_some() || leases_after.is_some() || prune_on {
            // A walk that is over stays where it was; what came since is for the next tick.
            swept.next = Some(Sweep {
                due_after: due_after.or(sweep.due_after),
                leases_after: leases_after.or(sweep.leases_after),
                under_way: true,
            });
        } else {
            self.look_ahead(now, tick)?;
        }
        self.state.count(&Totals {
            promoted: swept.promoted as i64,
            expired: swept.expired as i64,
            pruned: swept.pruned as i64,
            ..Totals::default()
        });
        Ok(swept)
    }

    /// Makes due jobs ready; answers with where to go on, if there may be more.
    fn promote_due(
        &mut self,
        now: Timestamp,
        after: Option<Place>,
        swept: &mut Swept,
    ) -> Result<Option<Place>, Failure> {
        let places = self.places(
            "SELECT run_at, id FROM jobs WHERE state IN ('scheduled', 'retrying') \
             AND run_at <= ? AND (run_at, id) > (?, ?) ORDER BY run_at, id LIMIT ?",
            now.0,
            after,
        )?;
        for (_, key) in &places {
            let promoted = self.promote(*key, now);
            swept.promoted += self.handled(*key, promoted, swept)?;
        }
        Ok(last_of_full(&places))
    }

    fn promote(&mut self, key: i64, now: Timestamp) -> Result<bool, Failure> {
        let core = self.core(key)?;
        check_row(&self.state, &core)?;
        let policy = self.config.policy(&self.state.queue(core.queue)?.name);
        let change = job::apply(&core.facts(policy), Event::Promote, now, Duration::ZERO)?;
        self.change(&core, &change, now)
    }

    /// Ends attempts whose lease has ended; answers with where to go on, if there may be more.
    fn expire_leases(
        &mut self,
        tick: Tick,
        after: Option<Place>,
        swept: &mut Swept,
    ) -> Result<Option<Place>, Failure> {
        let places = self.places(
            "SELECT lease_tick, id FROM jobs WHERE state = 'running' \
             AND lease_tick <= ? AND (lease_tick, id) > (?, ?) ORDER BY lease_tick, id LIMIT ?",
            tick.0,
            after,
        )?;
        for (_, key) in &places {
            let expired = self.expire(*key, tick);
            swept.expired += self.handled(*key, expired, swept)?;
        }
        self.unwritten.forget_ended(tick);
        Ok(last_of_full(&places))
    }

    fn expire(&mut self, key: i64, tick: Tick) -> Result<bool, Failure> {
        let core = self.core(key)?;
        check_row(&self.state, &core)?;
        let renewed = self.unwritten.until(&core);
        if renewed.is_some_and(|until| until > tick) {
            return Ok(false);
        }
        let lasted = renewed.map(|until| until.0).or(core.lease_tick);
        let timed_out = core.timeout_tick.is_some_and(|end| Some(end) <= lasted);
        if timed_out {
            self.end_attempt(&core, Outcome::TimedOut, "the attempt took longer than its timeout")
        } else {
            let text = "the lease ended without being renewed";
            self.end_attempt(&core, Outcome::LeaseExpired, text)
        }
    }

    /// Removes ended jobs that are past their retention; answers whether there may be more.
    ///
    /// Each queue that is due gets a share, and so do ended and dead jobs, so that none starves
    /// behind a busy one. Twice as many as have ended since the last sweep may go, so that a
    /// busy one cannot outrun it.
    fn prune(&mut self, swept: &mut Swept) -> Result<bool, Failure> {
        let now = self.clock.now();
        let is_due = |queue: &QueueState| queue.prune_at <= now;
        let due = self.state.queues.iter().filter(|(_, queue)| is_due(queue));
        let mut due: Vec<QueueId> = due.map(|(id, _)| *id).collect();
        // Begin behind the queue at which the last sweep stopped.
        due.sort_unstable_by_key(|id| (*id <= self.state.pruned_last, *id));
        let ended = std::mem::take(&mut self.state.ended_since_pruned);
        let mut left = (2 * ended).clamp(STEP, MOST_PRUNED);
        // What one queue does not need, the others get in the next round.
        loop {
            due.retain(|id| self.state.queues.get(id).is_some_and(is_due));
            let (before, share) = (left, (left / due.len().max(1) / 2).max(1));
            for id in &due {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(self.prune_queue(*id, now, share.min(left), swept)?);
                self.state.pruned_last = *id;
            }
            if left == before || left == 0 {
                return Ok(due.iter().filter_map(|id| self.state.queues.get(id)).any(is_due));
            }
        }
    }

    /// Prunes one queue, at most so many of each sort; answers how many rows it has handled, and
    /// notes when the queue has to be looked at again.
    fn prune_queue(
        &mut self,
        id: QueueId,
        now: Timestamp,
        limit: usize,
        swept: &mut Swept,
    ) -> Result<usize, Failure> {
        let queue = self.state.queue(id)?;
        let policy = self.config.policy(&queue.name);
        let over = |stored: i64, most| stored - i64::try_from(most).unwrap_or(i64::MAX);
        let stored = |state| queue.counts.stored(state);
        let ended = Retention {
            select: "SELECT ended_at, id FROM jobs WHERE queue = ? \
                     AND state IN ('completed', 'cancelled') AND (ended_at, id) > (?, ?) \
                     ORDER BY ended_at, id LIMIT ?",
            keep: policy.keep_completed,
            excess: over(stored(State::Completed) + stored(State::Cancelled), policy.max_completed),
            behind: queue.passed_over.ended,
        };
        let dead = Retention {
            select: "SELECT ended_at, id FROM jobs WHERE queue = ? AND state = 'dead' \
                     AND (ended_at, id) > (?, ?) ORDER BY ended_at, id LIMIT ?",
            keep: policy.keep_dead,
            excess: over(stored(State::Dead), policy.max_dead.unwrap_or(u64::MAX)),
            behind: queue.passed_over.dead,
        };
        let ended = self.prune_part(id, ended, (now, limit), swept)?;
        let dead = self.prune_part(id, dead, (now, limit), swept)?;
        let is_done = ended.handled < limit && dead.handled < limit;
        let next = [ended.next, dead.next].into_iter().flatten().min();
        if let Some(queue) = self.state.queues.get_mut(&id) {
            queue.passed_over = PassedOver { ended: ended.behind, dead: dead.behind };
            let next = next.unwrap_or(Timestamp::MAX).max(Timestamp(now.0 + 1));
            queue.prune_at = if is_done { next } else { now };
        }
        Ok(ended.handled + dead.handled)
    }

    /// Removes the oldest jobs of one sort that are too many or too old.
    fn prune_part(
        &mut self,
        queue: QueueId,
        retention: Retention,
        (now, limit): (Timestamp, usize),
        swept: &mut Swept,
    ) -> Result<PrunedPart, Failure> {
        let Retention { select, keep, mut excess, behind } = retention;
        let (at, key) = behind.unwrap_or((i64::MIN, i64::MIN));
        let mut select = self.connection.prepare_cached(select)?;
        let rows = select.query_map((queue.0, at, key, limit as i64 + 1), read_place)?;
        let places: Vec<Place> = rows.collect::<Result<_, _>>()?;
        drop(select);
        let mut part = PrunedPart { handled: 0, next: None, behind };
        for place in places {
            let (ended_at, key) = place;
            let is_over = excess > 0 || ended_at <= now.before(keep).0;
            if !is_over || part.handled == limit {
                part.next = Some(Timestamp(ended_at).after(keep));
                break;
            }
            let removed = self.prune_one(key);
            let removed = self.handled(key, removed, swept)?;
            if removed == 0 {
                part.behind = Some(place);
            }
            swept.pruned += removed;
            excess -= removed as i64;
            part.handled += 1;
        }
        Ok(part)
    }

    fn prune_one(&mut self, key: i64) -> Result<bool, Failure> {
        let core = self.core(key)?;
        check_row(&self.state, &core)?;
        let policy = self.config.policy(&self.state.queue(core.queue)?.name);
        let now = self.clock.now();
        let change = job::apply(&core.facts(policy), Event::Prune, now, Duration::ZERO)?;
        self.remove(&core, &change)
    }

    /// Notes when a job that has just ended may be pruned.
    pub(super) fn note_retention(
        &mut self,
        core: &Core,
        state: State,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let queue = self.state.queue(core.queue)?;
        let policy = self.config.policy(&queue.name);
        let stored = |state| queue.counts.stored(state).unsigned_abs();
        let (keep, is_over) = if state == State::Dead {
            (policy.keep_dead, policy.max_dead.is_some_and(|max| stored(State::Dead) > max))
        } else {
            let ended = stored(State::Completed) + stored(State::Cancelled);
            (policy.keep_completed, ended > policy.max_completed)
        };
        // Too many is too many whatever the clock says, also after it went back.
        let at = if is_over { Timestamp(0) } else { now.after(keep) };
        self.state.ended_since_pruned += 1;
        if let Some(queue) = self.state.queues.get_mut(&core.queue) {
            queue.prune_at = queue.prune_at.min(at);
        }
        Ok(())
    }

    /// Counts a handled row; one that is damaged is reported and passed over.
    fn handled(
        &self,
        key: i64,
        handled: Result<bool, Failure>,
        swept: &mut Swept,
    ) -> Result<usize, Failure> {
        match handled {
            Ok(changed) => Ok(usize::from(changed)),
            Err(Failure::Refused(error)) => {
                self.report_damage(key, &error);
                swept.passed_over += 1;
                Ok(0)
            }
            Err(failure) => Err(failure),
        }
    }

    fn places(
        &self,
        select: &'static str,
        until: i64,
        after: Option<Place>,
    ) -> Result<Vec<Place>, Failure> {
        let (at, key) = after.unwrap_or((i64::MIN, i64::MIN));
        let mut select = self.connection.prepare_cached(select)?;
        let parameters = params_from_iter([until, at, key, STEP as i64]);
        let rows = select.query_map(parameters, read_place)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Tells the sweeper when there will be something to do. What was due and is there still cannot
    /// be handled, and makes nothing else late.
    fn look_ahead(&mut self, now: Timestamp, tick: Tick) -> Result<(), Failure> {
        let first = |select: &'static str, behind: i64| -> rusqlite::Result<Option<i64>> {
            self.connection.prepare_cached(select)?.query_row([behind], |row| row.get(0))
        };
        let due = first(
            "SELECT min(run_at) FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at > ?",
            now.0,
        )?;
        let lease = first(
            "SELECT min(lease_tick) FROM jobs WHERE state = 'running' AND lease_tick > ?",
            tick.0,
        )?;
        let lease = lease.map(|lease| now.0.saturating_add(lease - tick.0));
        let next = due.into_iter().chain(lease).min().map(Timestamp);
        self.due.send_if_modified(|known| {
            *known = next;
            false // only what comes earlier than this needs to wake the sweeper
        });
        Ok(())
    }
}

fn read_place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok((row.get(0)?, row.get(1)?))
}

/// Where a full page ended; none if the page shows that nothing is left.
fn last_of_full(places: &[Place]) -> Option<Place> {
    places.last().filter(|_| places.len() == STEP).copied()
}

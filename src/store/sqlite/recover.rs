//! What a start makes of what the last process left running.

use std::time::Duration;

use tracing::info;

use super::Engine;
use super::rows::Core;
use super::state::check_row;
use crate::clock::millis;
use crate::job::{Outcome, State};
use crate::store::operation::Failure;

/// The most attempts that one transaction recovers: outside leases may be many, and a full disk
/// leaves only the reserve.
const STEP: usize = 1_000;

impl Engine {
    /// Makes configured queues and pairs known, ends what a crash cut off, renews what others
    /// hold, and forgets queues that nobody needs.
    ///
    /// A crash on the way does no harm: what was ended does not run any more, and what was renewed
    /// is renewed again.
    pub(super) fn recover(&mut self) -> Result<(), Failure> {
        self.begin(0)?;
        let config = self.config.clone();
        for (name, queue) in &config.queues {
            self.queue_or_new(name)?;
            for kind in &queue.kinds {
                self.state.choose_row(name, kind, &config);
            }
        }
        self.forget_unused()?;
        self.commit()?;
        self.after_commit();
        let mut cut_off = 0;
        for keys in self.running()?.chunks(STEP) {
            self.begin(0)?;
            for key in keys {
                cut_off += usize::from(self.recover_one(*key)?);
            }
            self.commit()?;
            self.after_commit();
        }
        self.state.take_ready();
        if cut_off > 0 {
            info!(event = "recovered", cut_off, "attempts that a crash cut off used up a try");
        }
        Ok(())
    }

    /// Ends or renews one attempt; whether it was ended.
    fn recover_one(&mut self, key: i64) -> Result<bool, Failure> {
        let core = match self.core(key) {
            Err(Failure::Refused(_)) => return Ok(false), // the sweeper reports it
            core => core?,
        };
        if check_row(&self.state, &core).is_err() {
            return Ok(false);
        }
        if core.own {
            let text = "the daemon ended while the attempt was running";
            return self.end_attempt(&core, Outcome::CutOff, text);
        }
        self.renew_at_start(&core)?;
        Ok(false)
    }

    fn running(&self) -> Result<Vec<i64>, Failure> {
        let mut select = self
            .connection
            .prepare("SELECT id FROM jobs WHERE state = 'running' ORDER BY lease_tick")?;
        let keys = select.query_map([], |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    /// Gives an outside lease its full duration again: its worker could not renew while the daemon
    /// was down. Ticks of the last process mean nothing to this one, so all are written anew; of
    /// its timeout an attempt has left what wall time says, but at least this lease. A lease was
    /// never longer than the timeout, whatever its worker had asked for.
    fn renew_at_start(&mut self, core: &Core) -> Result<(), Failure> {
        let (now, tick) = (self.clock.now(), self.clock.tick());
        let timeout_ms = core.timeout_tick.zip(core.claimed_tick).map(|(end, begin)| end - begin);
        let lease_ms = core.lease_ms.unwrap_or(0).min(timeout_ms.unwrap_or(i64::MAX));
        let lease = Duration::from_millis(lease_ms.unsigned_abs());
        let mut select =
            self.connection.prepare_cached("SELECT claimed_at FROM jobs WHERE id = ?")?;
        let claimed_at: Option<i64> = select.query_row([core.id.key()], |row| row.get(0))?;
        drop(select);
        let age_ms = claimed_at.map_or(0, |at| (now.0 - at).max(0));
        let claimed_tick = tick.0 - age_ms;
        let lease_tick = tick.after(lease).0;
        let timeout_tick = timeout_ms.map(|ms| (claimed_tick.saturating_add(ms)).max(lease_tick));
        let mut update = self.connection.prepare_cached(
            "UPDATE jobs SET lease_tick = ?3, claimed_tick = ?4, timeout_tick = ?5, \
             expires_at = ?6 WHERE id = ?1 AND state = 'running' AND lease = ?2",
        )?;
        let renewed = (
            core.id.key(),
            core.lease,
            lease_tick,
            claimed_tick,
            timeout_tick,
            now.0.saturating_add(millis(lease)),
        );
        update.execute(renewed)?;
        Ok(())
    }

    /// Forgets queues outside the configuration that have no jobs and are not paused.
    fn forget_unused(&mut self) -> Result<(), Failure> {
        let unused: Vec<_> = self
            .state
            .queues
            .values()
            .filter(|queue| {
                !queue.paused && State::ALL.iter().all(|s| queue.counts.stored(*s) == 0)
            })
            .map(|queue| queue.name.clone())
            .filter(|name| !self.config.queues.contains_key(&**name))
            .collect();
        unused.iter().try_for_each(|name| self.forget(name))
    }
}

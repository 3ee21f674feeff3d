//! The recount: whether the ledger says what is stored, found in steps that others wait for only
//! briefly.
//!
//! `cargo bench --bench recount` on two cores, release build: a step of 1,000 jobs 0.35 ms, the end with
//! 10,000 pairs, the most that may be, 1.8 ms.

use tracing::warn;

use super::Engine;
use crate::clock::Stopwatch;
use crate::job::State;
use crate::store::Recounted;
use crate::store::operation::Failure;
use crate::tally::RowId;

/// The most jobs that one step looks at.
const STEP: usize = 1_000;

/// How long a step may keep the writer, on a disk that has to be asked for each page.
const SECONDS: f64 = 0.002;

/// So many jobs are read between two looks at the clock: they are on a few pages.
const LOOK: usize = 64;

impl Engine {
    /// Compares the next jobs with the ledger.
    pub(in crate::store) fn recount(&mut self) -> Result<Recounted, Failure> {
        self.recount_within(SECONDS)
    }

    fn recount_within(&mut self, seconds: f64) -> Result<Recounted, Failure> {
        let started = Stopwatch::start();
        let mut recount = self.state.recount.take().unwrap_or_default();
        let mut select = self.connection.prepare_cached(
            "SELECT id, ledger, queue, state FROM jobs WHERE id > ? ORDER BY id LIMIT ?",
        )?;
        let mut rows = select.query((recount.cursor(), STEP as i64))?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            let key = row.get(0)?;
            let state = row.get_ref(3)?.as_str().ok().and_then(State::named);
            match (state, row.get(1), row.get(2)) {
                (Some(state), Ok(ledger), Ok(queue)) => {
                    recount.visit(key, (RowId(ledger), queue), state);
                }
                _ => recount.skip(key), // it is missing then
            }
            seen += 1;
            let is_late = seen % LOOK == 0 && started.seconds() > seconds;
            if is_late || seen == STEP {
                self.state.recount = Some(recount);
                return Ok(Recounted::Going);
            }
        }
        let queues = self.state.queues.iter().map(|(id, queue)| (id.0, &queue.counts));
        let mismatch = recount.mismatch(&self.state.ledger, queues);
        if mismatch != 0 {
            warn!(event = "tally_mismatch", mismatch, "the ledger differs from the stored jobs");
        }
        self.metrics.set_tally_mismatch(mismatch);
        Ok(Recounted::Done(mismatch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Start;
    use crate::store::sqlite::tests::Traced;

    /// Steps until the end; how many there were.
    fn steps(engine: &mut Engine, seconds: f64) -> usize {
        let mut steps = 1;
        while engine.recount_within(seconds).expect("it counts") == Recounted::Going {
            steps += 1;
        }
        steps
    }

    #[test]
    fn a_step_ends_when_its_time_is_over_and_the_next_goes_on_there() {
        let mut traced = Traced::new();
        for _ in 0..=2 * LOOK {
            traced.create(None, Start::Now);
        }
        assert_eq!(steps(&mut traced.engine, f64::INFINITY), 1);
        assert_eq!(steps(&mut traced.engine, 0.0), 3, "two full looks, and the rest");
        let gone = "DELETE FROM jobs WHERE id = (SELECT max(id) FROM jobs)";
        traced.engine.connection.execute(gone, []).expect("it is deleted");
        while traced.engine.recount_within(0.0).expect("it counts") == Recounted::Going {}
        let text = traced.engine.metrics.snapshot().to_text();
        assert!(text.contains("\ntallyd_tally_mismatch 1\n"), "nothing was passed over");
    }
}

//! Queues: pausing, forgetting, looking at them.

use super::Engine;
use super::state::QueueId;
use crate::store::operation::Failure;
use crate::store::{Queue, StoreError};

impl Engine {
    /// Stops or allows claims from a queue.
    pub(in crate::store) fn set_paused(
        &mut self,
        name: &str,
        paused: bool,
    ) -> Result<Queue, Failure> {
        let id = self.known_queue(name)?;
        if self.state.queue(id)?.paused != paused {
            self.checkpointer.quota().take(1, 0)?;
            self.state.set_paused(id, paused);
        }
        self.queue_now(id)
    }

    /// Forgets a queue that has no jobs and is not configured, with its counts.
    pub(in crate::store) fn forget(&mut self, name: &str) -> Result<(), Failure> {
        let id = self.known_queue(name)?;
        if self.config.queues.contains_key(name) {
            return Err(StoreError::QueueConfigured(name.to_owned()).into());
        }
        let jobs: i64 = self.state.queue(id)?.counts.stored.iter().sum();
        if jobs > 0 {
            return Err(StoreError::QueueNotEmpty { queue: name.to_owned(), jobs }.into());
        }
        self.checkpointer.quota().take(1, 0)?;
        self.connection.prepare_cached("DELETE FROM queues WHERE id = ?")?.execute([id.0])?;
        for row in self.state.remove_queue(id) {
            self.connection.prepare_cached("DELETE FROM ledger WHERE id = ?")?.execute([row.0])?;
        }
        Ok(())
    }

    /// All queues by name, or the one of that name.
    pub(in crate::store) fn queues(&mut self, name: Option<&str>) -> Result<Vec<Queue>, Failure> {
        let mut ids: Vec<QueueId> = match name {
            Some(name) => self.state.queue_named(name).into_iter().collect(),
            None => self.state.by_name.values().copied().collect(),
        };
        ids.sort_unstable();
        let mut queues =
            ids.into_iter().map(|id| self.queue_now(id)).collect::<Result<Vec<_>, _>>()?;
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    fn known_queue(&self, name: &str) -> Result<QueueId, StoreError> {
        self.state.queue_named(name).ok_or_else(|| StoreError::NoSuchQueue(name.to_owned()))
    }

    fn queue_now(&mut self, id: QueueId) -> Result<Queue, Failure> {
        self.state.refresh_heads(&self.connection)?;
        let queue = self.state.queue(id)?;
        Ok(Queue {
            name: queue.name.to_string(),
            paused: queue.paused,
            jobs: queue.counts.stored,
            oldest_ready_at: queue.oldest_ready(),
        })
    }
}

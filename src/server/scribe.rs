//! The thread that writes what the readers of the counts are answered.
//!
//! One for all of them, because the allocator keeps for each thread what it once used: when any thread
//! wrote, 64 connections that asked for gzip took a daemon from 44 to 207 MiB.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::sync::{mpsc, oneshot};

/// What waits in its channel; the rest waits with its callers, who have a place each.
const WAITING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// A handle of the thread, which ends after the last one.
#[derive(Clone)]
pub(super) struct Scribe {
    works: mpsc::Sender<Work>,
}

impl Scribe {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let (works, mut waiting) = mpsc::channel::<Work>(WAITING);
        thread::Builder::new().name("tallyd-scribe".into()).spawn(move || {
            while let Some(work) = waiting.blocking_recv() {
                // A panic is logged where it happened; whoever waits is told, and the next is served.
                drop(catch_unwind(AssertUnwindSafe(work)));
            }
        })?;
        Ok(Self { works })
    }

    /// Has the thread do what may take milliseconds; nothing if it panicked.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, written) = oneshot::channel();
        let work = move || drop(answer.send(write()));
        self.works.send(Box::new(work)).await.ok()?;
        written.await.ok()
    }
}

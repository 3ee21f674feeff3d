//! Backups: the order of their steps, one at a time, and their end with the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::StoreError;
use super::operation::Operation;
use super::sqlite::{BackupStep, Copying, Engine, Source, remove_leftovers};
use super::writer::Writer;
use crate::clock::{Clock, Stopwatch};
use crate::config::Config;
use crate::metrics::Metrics;

/// How often what has changed is copied again before the last round is tried: each round takes a
/// part of the time of the one before, unless the medium is slower than what changes.
const ROUNDS: usize = 50;

/// After so many rounds the copy hurries: it may be its pauses that keep it from catching up.
const PATIENT_ROUNDS: usize = 8;

/// How long the end of the store waits for a step of a backup whose medium hangs.
const LAST_STEP: Duration = Duration::from_secs(2);

/// A backup that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Why no backup was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// There is no place for it.
    #[error("backup_dir is not set, so there is no place for a backup")]
    NoDirectory,
    /// They go one at a time.
    #[error("another backup is being written")]
    Running,
    /// The store is being closed.
    #[error("tallyd is draining, so no backup is written")]
    GivenUp,
    /// It could not be written, or the store's file not be read.
    #[error("no backup was written: {0}")]
    Failed(String),
    /// No room, or none that the store itself can do without.
    #[error(
        "no room for a backup in {directory}: {free} bytes are free, and {needed} are needed",
        directory = .directory.display()
    )]
    NoRoom {
        /// Where it should be.
        directory: PathBuf,
        /// Bytes that it needs, with what the store may need.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
}

/// What backups of a store share.
pub(super) struct Backups {
    directory: Option<PathBuf>,
    source: Source,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// One place: backups go one at a time.
    place: Semaphore,
    stopping: CancellationToken,
}

impl Backups {
    /// None under way; removes what a crash has left of one.
    pub(super) fn new(
        engine: &Engine,
        config: &Config,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let directory = config.backup_dir.clone();
        if let Some(directory) = &directory
            && let Err(error) = remove_leftovers(directory)
        {
            metrics.store_error();
            let directory = directory.display();
            warn!(event = "no_backup_dir", %directory, %error, "no backup can be written");
        }
        let (source, stopping) = (engine.backup_source(), CancellationToken::new());
        Self { directory, source, clock, metrics, place: Semaphore::new(1), stopping }
    }

    /// Writes a backup.
    pub(super) async fn write(&self, writer: &Writer) -> Result<Backup, StoreError> {
        let _place = self.place.try_acquire().map_err(|error| match error {
            TryAcquireError::Closed => StoreError::Stopped("it is closed".into()),
            TryAcquireError::NoPermits => BackupError::Running.into(),
        })?;
        let directory = self.directory.as_ref().ok_or(BackupError::NoDirectory)?;
        if self.stopping.is_cancelled() {
            return Err(BackupError::GivenUp.into());
        }
        let started = Stopwatch::start();
        let written = self.write_unless_stopped(writer, directory.clone()).await;
        // Whatever became of it. A store that has stopped notes nothing any more.
        drop(writer.call(BackupStep::End, Operation::Backup).await);
        let duration_ms = (started.seconds() * 1e3) as u64;
        match &written {
            Ok(Backup { file, bytes }) => {
                info!(event = "backup_written", file = %file.display(), bytes, duration_ms);
            }
            Err(error) => {
                self.metrics.store_error();
                warn!(event = "backup_failed", %error, duration_ms);
            }
        }
        written
    }

    async fn write_unless_stopped(
        &self,
        writer: &Writer,
        directory: PathBuf,
    ) -> Result<Backup, StoreError> {
        let mut writing = Box::pin(self.write_to(writer, directory));
        tokio::select! {
            written = &mut writing => written,
            () = self.stopping.cancelled() => {
                let ended = tokio::time::timeout(LAST_STEP, writing).await;
                ended.unwrap_or(Err(BackupError::GivenUp.into()))
            }
        }
    }

    async fn write_to(&self, writer: &Writer, directory: PathBuf) -> Result<Backup, StoreError> {
        let step = |step| writer.call(step, Operation::Backup);
        let begun = step(BackupStep::Begin).await?;
        let (source, now, stop) = (self.source.clone(), self.clock.now(), self.stopping.clone());
        let copying = blocking(move || {
            let mut copying = Copying::begin(source, &directory, now, &begun, stop)?;
            copying.copy_whole()?;
            Ok(copying)
        });
        let mut copying = copying.await?;
        for round in 0..ROUNDS {
            if round == PATIENT_ROUNDS {
                copying.hurry();
            }
            let mark = step(BackupStep::Mark).await?;
            if !copying.is_near(&mark) {
                copying = apart(copying, move |copying| copying.copy_changed(&mark)).await?;
                continue;
            }
            step(BackupStep::Hold).await?;
            copying = apart(copying, Copying::wait_until_still).await?;
            let mark = step(BackupStep::Mark).await?;
            if copying.is_near(&mark) {
                copying = apart(copying, move |copying| copying.read_last(&mark)).await?;
                if step(BackupStep::Release).await?.is_still {
                    return blocking(|| copying.complete()).await;
                }
                copying.forget_last();
            } else {
                step(BackupStep::Release).await?;
            }
        }
        let left = copying.left();
        let slow =
            format!("more changes than can be copied ({left} pages are left); try again later");
        Err(BackupError::Failed(slow).into())
    }

    /// Ends the one under way; later ones are refused.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
    }

    /// The same, and waits for its end, after which the store may be closed.
    pub(super) async fn close(&self) {
        self.stop();
        drop(self.place.acquire().await);
        self.place.close();
    }
}

/// Does a step of a copy where it may block.
async fn apart(
    mut copying: Copying,
    step: impl FnOnce(&mut Copying) -> Result<(), BackupError> + Send + 'static,
) -> Result<Copying, StoreError> {
    blocking(move || step(&mut copying).map(|()| copying)).await
}

async fn blocking<R: Send + 'static>(
    step: impl FnOnce() -> Result<R, BackupError> + Send + 'static,
) -> Result<R, StoreError> {
    let done = tokio::task::spawn_blocking(step).await;
    let done = done.unwrap_or_else(|panic| Err(BackupError::Failed(panic.to_string())));
    Ok(done?)
}

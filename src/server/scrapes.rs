//! Scrapes at the same time share what they read: one cut, written once in each form.
//!
//! No scrape gets a cut from before it came: whoever was told of a job finds it counted.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{Mutex, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::accept::Wanted;
use super::error::{ApiError, Code};
use crate::metrics::{Format, Metric, Metrics, Snapshot};

/// The most scrapes at once: each holds an exposition until it is sent.
pub(super) const MAX_SCRAPES: usize = 40;

/// Who scrapes now, and the cut that was taken last.
pub(super) struct Scrapes {
    places: Arc<Semaphore>,
    arrived: AtomicU64,
    last: Mutex<Last>,
}

/// A cut, as long as anybody holds it.
#[derive(Default)]
struct Last {
    cut: Weak<Cut>,
    /// So many scrapes had come when it was taken.
    arrived: u64,
}

/// What one cut says, in the forms that were asked for.
pub(super) struct Cut {
    pub(super) snapshot: Snapshot,
    plain: [OnceCell<Bytes>; 2],
    gzip: [OnceCell<Bytes>; 2],
}

impl Scrapes {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_SCRAPES)),
            arrived: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// A cut no older than this call, and a place among the scrapes to keep until its text is sent.
    pub(super) async fn cut(
        &self,
        metrics: &Arc<Metrics>,
    ) -> Result<(Arc<Cut>, OwnedSemaphorePermit), ApiError> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let message = format!("{MAX_SCRAPES} scrapes are under way; scrape less often");
            return Err(ApiError::new(Code::ServerBusy, message));
        };
        let number = self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(cut) = last.cut.upgrade().filter(|_| number < last.arrived) {
            return Ok((cut, place));
        }
        let arrived = self.arrived.load(Ordering::SeqCst);
        let metrics = metrics.clone();
        let snapshot = beside_requests(move || metrics.snapshot()).await?;
        let cut = Arc::new(Cut { snapshot, plain: Default::default(), gzip: Default::default() });
        *last = Last { cut: Arc::downgrade(&cut), arrived };
        Ok((cut, place))
    }
}

impl Cut {
    /// All of it as it is wanted, written by the first that asks.
    pub(super) async fn written(self: &Arc<Self>, wanted: Wanted) -> Result<Bytes, ApiError> {
        let form = wanted.format as usize;
        let write = || self.write(wanted.format, |_| true);
        let plain = self.plain[form].get_or_try_init(write).await?;
        if !wanted.gzip {
            return Ok(plain.clone());
        }
        let compress = || {
            beside_requests({
                let plain = plain.clone();
                move || compressed(&plain)
            })
        };
        Ok(self.gzip[form].get_or_try_init(compress).await?.clone())
    }

    /// Those families of it that are called so.
    pub(super) async fn written_of(
        self: &Arc<Self>,
        wanted: Wanted,
        names: Vec<String>,
    ) -> Result<Bytes, ApiError> {
        let is_wanted = move |metric: &Metric| names.iter().any(|name| metric.is_called(name));
        let plain = self.write(wanted.format, is_wanted).await?;
        if wanted.gzip { beside_requests(move || compressed(&plain)).await } else { Ok(plain) }
    }

    async fn write(
        self: &Arc<Self>,
        format: Format,
        is_wanted: impl Fn(&Metric) -> bool + Send + 'static,
    ) -> Result<Bytes, ApiError> {
        let cut = self.clone();
        beside_requests(move || cut.snapshot.encode(format, is_wanted).into()).await
    }
}

/// Does what may take milliseconds where no request waits for it.
pub(super) async fn beside_requests<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(work).await.map_err(|_| {
        ApiError::new(Code::InternalError, "the counts could not be written; see the log")
    })
}

fn compressed(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it").into()
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::metrics::Rejected;
    use tokio::task::{JoinSet, yield_now};

    /// A cut is the same for all who came before it was taken, and for nobody else.
    #[tokio::test]
    async fn scrapes_share_a_cut_but_never_one_from_before_they_came() {
        let scrapes = Arc::new(Scrapes::new());
        let metrics = Arc::new(Metrics::new(Arc::new(Config::default())));
        let busy = scrapes.last.lock().await;
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_SCRAPES {
            let (scrapes, metrics) = (scrapes.clone(), metrics.clone());
            waiting.spawn(async move { scrapes.cut(&metrics).await.expect("there is a place") });
        }
        while scrapes.arrived.load(Ordering::SeqCst) < MAX_SCRAPES as u64 {
            yield_now().await;
        }
        drop(busy);
        let shared = waiting.join_all().await;
        let (first, _) = &shared[0];
        assert!(shared.iter().all(|(cut, _)| Arc::ptr_eq(cut, first)), "one cut for all");
        let refused = scrapes.cut(&metrics).await.err().expect("all places are taken");
        assert_eq!(refused.code, Code::ServerBusy);

        let first = first.clone();
        drop(shared);
        metrics.rejected(Rejected::QueueFull);
        let (later, _) = scrapes.cut(&metrics).await.expect("there is a place");
        assert!(!Arc::ptr_eq(&later, &first), "it came after the cut was taken");
        assert_ne!(later.snapshot, first.snapshot);
    }

    #[tokio::test]
    async fn a_cut_is_written_once_in_each_form() {
        let metrics = Arc::new(Metrics::new(Arc::new(Config::default())));
        let (cut, _place) = Scrapes::new().cut(&metrics).await.expect("there is a place");
        let mut written = Vec::new();
        for format in [Format::Text, Format::OpenMetrics] {
            for gzip in [false, true] {
                let wanted = Wanted { format, content_type: "", gzip };
                let text = cut.written(wanted).await.expect("it is written");
                let again = cut.written(wanted).await.expect("it is written");
                assert_eq!(text.as_ptr(), again.as_ptr(), "{wanted:?}");
                written.push(text);
            }
        }
        written.sort();
        written.dedup();
        assert_eq!(written.len(), 4, "the forms differ");
    }
}

//! Scrapes at the same time share what they read: one cut, written once in each form.
//!
//! No scrape gets a cut from before it came: whoever was told of a job finds it counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{Mutex, OnceCell};

use super::accept::Wanted;
use super::deadline::Haste;
use super::error::{ApiError, Code};
use super::places::{PATIENCE, Place, Places};
use super::scribe::Scribe;
use crate::metrics::{Format, Metric, Metrics, Snapshot};

/// The most of each sort at once: each holds what it was answered until that is sent.
pub(super) const MAX_SCRAPES: usize = 40;

/// Who reads a cut. Each sort has places of its own, so that nobody who asks for the statistics
/// keeps Prometheus out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Prometheus,
    Stats,
}

/// Who scrapes now, and the cut that was taken last.
pub(super) struct Scrapes {
    /// By [`Reader`].
    places: [Arc<Places>; 2],
    arrived: AtomicU64,
    last: Mutex<Last>,
    scribe: Scribe,
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
    scribe: Scribe,
    plain: [OnceCell<Bytes>; 2],
    gzip: [OnceCell<Bytes>; 2],
    statistics: OnceCell<Bytes>,
}

impl Scrapes {
    /// Nobody scrapes yet. Fails if there cannot be one more thread.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            places: [Places::new(MAX_SCRAPES), Places::new(MAX_SCRAPES)],
            arrived: AtomicU64::new(0),
            last: Mutex::default(),
            scribe: Scribe::start()?,
        }))
    }

    /// What `write` makes of a cut, and the place to keep until it is sent, which is waited for. It goes
    /// on to its end whoever hangs up, and keeps its place until then. `haste` is of the connection.
    pub(super) async fn answer<W>(
        self: &Arc<Self>,
        reader: Reader,
        haste: Option<&Haste>,
        metrics: &Arc<Metrics>,
        write: impl FnOnce(Arc<Cut>) -> W + Send + 'static,
    ) -> Result<(Bytes, Place), ApiError>
    where
        W: Future<Output = Result<Bytes, ApiError>> + Send,
    {
        let Some(place) = self.places[reader as usize].take().await else {
            let rarely = match reader {
                Reader::Prometheus => "scrape less often",
                Reader::Stats => "ask less often",
            };
            let message = format!(
                "too many read the counts: {MAX_SCRAPES} may at once, others wait for up to {PATIENCE:?}; {rarely}"
            );
            return Err(ApiError::new(Code::ServerBusy, message));
        };
        let (scrapes, metrics) = (self.clone(), metrics.clone());
        let work = async move {
            let cut = scrapes.cut(&metrics).await?;
            Ok((write(cut).await?, place))
        };
        let done: Result<_, ApiError> = tokio::spawn(work).await.map_err(|_| broken())?;
        let (text, mut place) = done?;
        haste.into_iter().for_each(|haste| place.lend(haste.clone()));
        Ok((text, place))
    }

    /// A cut no older than this call.
    async fn cut(&self, metrics: &Arc<Metrics>) -> Result<Arc<Cut>, ApiError> {
        let number = self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(cut) = last.cut.upgrade().filter(|_| number < last.arrived) {
            return Ok(cut);
        }
        let arrived = self.arrived.load(Ordering::SeqCst);
        let metrics = metrics.clone();
        let snapshot = self.scribe.write(move || metrics.snapshot()).await.ok_or_else(broken)?;
        let scribe = self.scribe.clone();
        let (plain, gzip, statistics) = Default::default();
        let cut = Arc::new(Cut { snapshot, scribe, plain, gzip, statistics });
        *last = Last { cut: Arc::downgrade(&cut), arrived };
        Ok(cut)
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
        let compress = || self.compress(plain.clone());
        Ok(self.gzip[form].get_or_try_init(compress).await?.clone())
    }

    /// All of it as `write` has it, which is the same for all and asked of the first.
    pub(super) async fn statistics(
        self: &Arc<Self>,
        write: impl FnOnce(&Snapshot) -> Bytes + Send + 'static,
    ) -> Result<Bytes, ApiError> {
        let write = || self.beside_requests(|cut| write(&cut.snapshot));
        Ok(self.statistics.get_or_try_init(write).await?.clone())
    }

    /// Those families of it that are called so.
    pub(super) async fn written_of(
        self: &Arc<Self>,
        wanted: Wanted,
        names: Vec<String>,
    ) -> Result<Bytes, ApiError> {
        let is_wanted = move |metric: &Metric| names.iter().any(|name| metric.is_called(name));
        let plain = self.write(wanted.format, is_wanted).await?;
        if wanted.gzip { self.compress(plain).await } else { Ok(plain) }
    }

    async fn write(
        self: &Arc<Self>,
        format: Format,
        is_wanted: impl Fn(&Metric) -> bool + Send + 'static,
    ) -> Result<Bytes, ApiError> {
        self.beside_requests(move |cut| cut.snapshot.encode(format, is_wanted).into()).await
    }

    async fn compress(self: &Arc<Self>, plain: Bytes) -> Result<Bytes, ApiError> {
        self.beside_requests(move |_| compressed(&plain)).await
    }

    /// Does what may take milliseconds where no request waits for it.
    async fn beside_requests<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let cut = self.clone();
        self.scribe.write(move || work(&cut)).await.ok_or_else(broken)
    }
}

/// A panic, which is logged where it happened.
fn broken() -> ApiError {
    ApiError::new(Code::InternalError, "the counts could not be written; see the log")
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
    use tokio::sync::oneshot;
    use tokio::task::{JoinSet, yield_now};

    fn scrapes() -> Arc<Scrapes> {
        Scrapes::new().expect("there can be one more thread")
    }

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new(Arc::new(Config::default())))
    }

    /// A cut is the same for all who came before it was taken, and for nobody else.
    #[tokio::test]
    async fn scrapes_share_a_cut_but_never_one_from_before_they_came() {
        let (scrapes, metrics) = (scrapes(), metrics());
        let busy = scrapes.last.lock().await;
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_SCRAPES {
            let (scrapes, metrics) = (scrapes.clone(), metrics.clone());
            waiting.spawn(async move { scrapes.cut(&metrics).await.expect("nothing panics") });
        }
        while scrapes.arrived.load(Ordering::SeqCst) < MAX_SCRAPES as u64 {
            yield_now().await;
        }
        drop(busy);
        let shared = waiting.join_all().await;
        let first = shared[0].clone();
        assert!(shared.iter().all(|cut| Arc::ptr_eq(cut, &first)), "one cut for all");

        metrics.rejected(Rejected::QueueFull);
        let later = scrapes.cut(&metrics).await.expect("nothing panics");
        assert!(!Arc::ptr_eq(&later, &first), "it came after the cut was taken");
        assert_ne!(later.snapshot, first.snapshot);
    }

    #[tokio::test]
    async fn a_cut_is_written_once_in_each_form() {
        let cut = scrapes().cut(&metrics()).await.expect("nothing panics");
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
        let statistics = cut.statistics(|_| Bytes::from_static(b"{}")).await;
        let again = cut.statistics(|_| panic!("they are written already")).await;
        assert_eq!(statistics.expect("they are written"), again.expect("they are there"));
    }

    #[tokio::test]
    async fn a_scraper_that_hangs_up_keeps_its_place_while_its_work_goes_on() {
        let (scrapes, metrics) = (scrapes(), metrics());
        let (finish, finished) = oneshot::channel::<()>();
        let work = async move |_| {
            finished.await.expect("it is finished");
            Ok(Bytes::new())
        };
        let places = scrapes.places[0].clone();
        let scrape = tokio::spawn({
            let (scrapes, metrics) = (scrapes.clone(), metrics.clone());
            async move { scrapes.answer(Reader::Prometheus, None, &metrics, work).await.map(drop) }
        });
        while places.free() == MAX_SCRAPES {
            yield_now().await;
        }
        scrape.abort();
        assert!(scrape.await.expect_err("it hung up").is_cancelled());
        assert_eq!(places.free(), MAX_SCRAPES - 1);
        finish.send(()).expect("the work goes on");
        while places.free() < MAX_SCRAPES {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_holds_all_places_of_one_sort_keeps_nobody_from_those_of_the_other() {
        let (scrapes, metrics) = (scrapes(), metrics());
        for (held, asks) in
            [(Reader::Stats, Reader::Prometheus), (Reader::Prometheus, Reader::Stats)]
        {
            let mut all = Vec::new();
            while scrapes.places[held as usize].free() > 0 {
                all.push(scrapes.places[held as usize].take().await.expect("one is free"));
            }
            let write = async |_| Ok(Bytes::new());
            assert!(scrapes.answer(asks, None, &metrics, write).await.is_ok(), "{asks:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_fails_its_scrape_only() {
        let (scrapes, metrics) = (scrapes(), metrics());
        let write =
            async |cut: Arc<Cut>| cut.beside_requests(|_| panic!("an encoder that is wrong")).await;
        let failed = scrapes.answer(Reader::Prometheus, None, &metrics, write).await;
        let error = failed.map(drop).expect_err("it panicked");
        assert_eq!(error.code, Code::InternalError);
        let write = async |cut: Arc<Cut>| {
            let gzip = Wanted { format: Format::Text, content_type: "", gzip: true };
            cut.written(gzip).await
        };
        let next = scrapes.answer(Reader::Prometheus, None, &metrics, write).await;
        assert!(!next.expect("it works").0.is_empty());
        assert_eq!(scrapes.places[0].free(), MAX_SCRAPES);
    }
}

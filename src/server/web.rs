//! The web configuration that is in effect, read again when one of its files is another.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::bucket::Bucket;
use crate::config::web::{RateLimit, Sources};
use crate::config::{ConfigError, Web};

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// How many failed handshakes in a row, and how many in each second after that, the log tells of.
const TOLD: f64 = 20.0;
const TOLD_PER_SECOND: f64 = 1.0;

/// What is in effect, and when it was last looked whether something else should be.
pub(super) struct LiveWeb {
    current: RwLock<Arc<Current>>,
    looking: Arc<Mutex<Looking>>,
    told: Bucket,
}

/// A configuration with what is counted for it.
pub(super) struct Current {
    pub(super) web: Arc<Web>,
    headers: Vec<(HeaderName, HeaderValue)>,
    requests: Option<Arc<Bucket>>,
    /// Cancelled when another is in effect.
    pub(super) replaced: CancellationToken,
}

struct Looking {
    at: Instant,
    /// What was read last, right or not; none before it was read again for the first time.
    sources: Option<Sources>,
}

impl Current {
    fn new(web: Arc<Web>) -> Self {
        let bucket =
            |RateLimit { every, burst }| Bucket::new(f64::from(burst), every.as_secs_f64().recip());
        let requests = web.rate_limit.map(bucket).map(Arc::new);
        let header = |(name, value): &(&str, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("the format has it");
            (name, HeaderValue::from_str(value).expect("it was checked when it was read"))
        };
        let headers = web.headers.iter().map(header).collect();
        Self { web, headers, requests, replaced: CancellationToken::new() }
    }

    /// Adds to an answer what the configuration says, and how else a caller can become known.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        if headers.contains_key(WWW_AUTHENTICATE) && !self.web.users.is_empty() {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tallyd\""));
        }
    }

    /// Whether one more request is answered.
    pub(super) fn takes_request(&self) -> bool {
        self.requests.as_ref().is_none_or(|bucket| bucket.take())
    }
}

impl LiveWeb {
    pub(super) fn new(web: Arc<Web>) -> Self {
        let looking = Looking { at: Instant::now(), sources: None };
        Self {
            current: RwLock::new(Arc::new(Current::new(web))),
            looking: Arc::new(Mutex::new(looking)),
            told: Bucket::new(TOLD, TOLD_PER_SECOND),
        }
    }

    /// Tells of a handshake that failed, unless it has just told of many: anybody can make them fail.
    pub(super) fn handshake_failed(&self, why: &dyn fmt::Display) {
        if self.told.take() {
            debug!(event = "handshake_failed", error = %why);
        }
    }

    /// What is in effect.
    pub(super) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in effect, once the files are read again if one of them has changed and they were not
    /// just looked at. What is wrong then is logged once, and what was in effect stays so.
    pub(super) async fn look(self: &Arc<Self>) -> Arc<Current> {
        // Whoever comes while another looks need not wait for a disk.
        if let Ok(looking) = self.looking.clone().try_lock_owned()
            && (looking.sources.is_none() || looking.at.elapsed() >= LOOK)
        {
            let live = self.clone();
            // To its end, also if the caller hangs up, and nobody waits for long.
            let looked = tokio::spawn(async move { live.read_again(looking).await });
            drop(timeout(LOOK, looked).await);
        }
        self.current()
    }

    async fn read_again(&self, mut looking: OwnedMutexGuard<Looking>) {
        looking.at = Instant::now();
        let (last, web) = (looking.sources.take(), self.current().web.clone());
        let looked = spawn_blocking(move || {
            if last.as_ref().is_some_and(|sources| !sources.have_changed()) {
                return (last, None);
            }
            let mut sources = Sources::new();
            let read = Web::load_from(&mut sources, &web.file);
            (Some(sources), Some(read))
        });
        // It does not panic; if it did, the next one looks afresh.
        let Ok((sources, read)) = looked.await else { return };
        looking.sources = sources;
        match read {
            None => {}
            Some(Ok(web)) => {
                let file = web.file.display().to_string();
                if let Err(keys) = self.put(Arc::new(web)) {
                    warn!(
                        event = "web_config_kept",
                        file, keys, "this takes a restart; nothing has changed"
                    );
                }
            }
            Some(Err(error)) => tell(&error),
        }
    }

    /// Puts one in effect that was read elsewhere. Who looks meanwhile may have read files that are
    /// older, or newer: so none does, and the next connection reads them again.
    pub(super) async fn replace(&self, web: Arc<Web>) -> Result<(), &'static str> {
        let mut looking = self.looking.lock().await;
        looking.sources = None;
        self.put(web)
    }

    /// Puts another configuration in effect, unless that takes a restart: then it is said why.
    fn put(&self, web: Arc<Web>) -> Result<(), &'static str> {
        let current = self.current();
        if *current.web == *web {
            return Ok(());
        }
        if let Some(keys) = current.web.differing(&web) {
            return Err(keys);
        }
        let file = web.file.display().to_string();
        let mut next = Current::new(web);
        if next.web.rate_limit == current.web.rate_limit {
            // Nobody gets more because a certificate is another.
            next.requests.clone_from(&current.requests);
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        // Who could connect before may not be one who can now.
        current.replaced.cancel();
        info!(
            event = "web_config_reloaded",
            file, "new connections find it in effect; those made before end with their request"
        );
        Ok(())
    }
}

fn tell(error: &ConfigError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let text = format!("{error}{}", cause.unwrap_or_default());
    for mistake in text.lines() {
        error!(event = "web_config_failed", error = mistake, "nothing has changed");
    }
}

#[cfg(test)]
mod tests;

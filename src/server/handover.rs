//! Leased jobs on their way to the caller: given back unless the connection took them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::Shared;
use super::held::CHUNK;
use crate::job::Outcome;
use crate::store::{Finish, Lease};

/// The leases of an answer that has not been handed to its connection yet.
pub(super) struct Handover {
    api: Shared,
    leases: Vec<Lease>,
}

impl Handover {
    /// Holds leases that were just claimed.
    pub(super) fn new(api: Shared, leases: Vec<Lease>) -> Self {
        Self { api, leases }
    }

    /// The body that tells the caller of them.
    pub(super) fn around(self, body: Body) -> Body {
        Body::new(Handed { body, pending: Bytes::new(), handover: self })
    }
}

impl Drop for Handover {
    /// Their caller has gone, so the jobs are given back; should the daemon end before that is
    /// stored, the leases run out instead.
    fn drop(&mut self) {
        let leases = std::mem::take(&mut self.leases);
        let (false, Ok(runtime)) = (leases.is_empty(), Handle::try_current()) else { return };
        debug!(event = "leases_given_back", jobs = leases.len(), "a caller hung up");
        let give_back = |lease| Finish {
            lease,
            outcome: Outcome::Released { retry_in: Duration::ZERO },
            result: None,
            error: None,
        };
        let (store, metrics) = (self.api.store.clone(), self.api.metrics.clone());
        let finishes = leases.into_iter().map(give_back).collect();
        let given_back = async move {
            if let Err(error) = store.finish(finishes).await {
                metrics.store_error();
                warn!(event = "give_back_failed", %error, "leases of a lost caller run out");
            }
        };
        self.api.writes.spawn_on(given_back, &runtime);
    }
}

/// A body with the leases that it tells of.
struct Handed {
    body: Body,
    /// What has come out of it and was not taken yet.
    pending: Bytes,
    handover: Handover,
}

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.pending.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                Some(frame) => self.pending = frame.into_data().unwrap_or_default(),
                None => {
                    self.handover.leases.clear();
                    return Poll::Ready(None);
                }
            }
        }
        let length = self.pending.len().min(CHUNK);
        let chunk = self.pending.split_to(length);
        if self.is_end_stream() {
            self.handover.leases.clear();
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().unwrap_or_default(); // views are in memory
        SizeHint::with_exact(self.pending.len() as u64 + rest)
    }
}

//! Leased jobs on their way to the caller: given back unless the connection took them.

use std::time::Duration;

use axum::body::Body;
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::Shared;
use super::held::Held;
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
        Held::around(body, self, |mut taken| taken.leases.clear())
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

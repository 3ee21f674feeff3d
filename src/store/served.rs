//! What a batch has given out to claims: those that were served, and how much it was altogether.

use super::handover::Call;
use super::{Claim, Claimed, Job, MAX_BATCH_BYTES, MAX_BATCH_JOBS};

/// The claims that waited and were served by a batch, and what all its claims were given.
#[derive(Default)]
pub(super) struct Served {
    /// With their places among those that wait.
    pub(super) calls: Vec<(u64, Call<Claim, Claimed>)>,
    jobs: usize,
    bytes: usize,
}

impl Served {
    /// Counts what a claim was given.
    pub(super) fn count(&mut self, call: &Call<Claim, Claimed>) {
        if let Some(Ok(claimed)) = &call.answer {
            self.jobs += claimed.jobs.len();
            self.bytes += claimed.bytes();
        }
    }

    /// Whether it is as much as one transaction should give out.
    pub(super) fn is_too_much(&self) -> bool {
        self.jobs >= MAX_BATCH_JOBS || self.bytes >= MAX_BATCH_BYTES
    }
}

impl Claimed {
    fn bytes(&self) -> usize {
        self.jobs.iter().map(|leased| leased.job.bytes()).sum()
    }
}

impl Job {
    /// About how many bytes an answer takes that tells of it. A control character of a text takes
    /// six.
    pub(super) fn bytes(&self) -> usize {
        const REST: usize = 1 << 10;
        let payload = self.payload.as_ref().map_or(0, bytes::Bytes::len);
        let error = self.last_error.as_ref().map_or(0, |error| {
            error.message.bytes().map(|byte| if byte < b' ' { 6 } else { 1 }).sum()
        });
        payload + error + REST
    }
}

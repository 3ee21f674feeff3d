//! What jobs look like to programmers: their `Debug` forms, without what is in them.
//!
//! Payloads, results and error texts are their owner's, and a `?job` in a line of the log must not
//! tell them.

use std::fmt;

use super::{Finish, Job, LastError, NewJob};

/// Stands for what is not shown.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

fn hidden(text: Option<impl AsRef<[u8]>>) -> Option<Hidden> {
    text.map(|text| Hidden(text.as_ref().len()))
}

impl fmt::Debug for NewJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob")
            .field("queue", &self.queue)
            .field("kind", &self.kind)
            .field("payload", &Hidden(self.payload.len()))
            .field("priority", &self.priority)
            .field("start", &self.start)
            .field("max_attempts", &self.max_attempts)
            .field("timeout", &self.timeout)
            .field("unique", &self.unique)
            .field("traceparent", &self.traceparent)
            .finish()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("kind", &self.kind)
            .field("state", &self.state)
            .field("priority", &self.priority)
            .field("payload", &hidden(self.payload.as_ref()))
            .field("attempt", &self.attempt)
            .field("failures", &self.failures)
            .field("max_attempts", &self.max_attempts)
            .field("timeout", &self.timeout)
            .field("unique_key", &self.unique_key)
            .field("traceparent", &self.traceparent)
            .field("created_at", &self.created_at)
            .field("run_at", &self.run_at)
            .field("claimed_at", &self.claimed_at)
            .field("ended_at", &self.ended_at)
            .field("expires_at", &self.expires_at)
            .field("worker", &self.worker)
            .field("last_error", &self.last_error)
            .field("result", &hidden(self.result.as_ref()))
            .finish()
    }
}

impl fmt::Debug for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastError")
            .field("attempt", &self.attempt)
            .field("at", &self.at)
            .field("outcome", &self.outcome)
            .field("message", &Hidden(self.message.len()))
            .finish()
    }
}

impl fmt::Debug for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finish")
            .field("lease", &self.lease)
            .field("outcome", &self.outcome)
            .field("result", &hidden(self.result.as_ref()))
            .field("error", &hidden(self.error.as_ref()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config::Policy;
    use crate::job::{AttemptResult, Outcome, State};
    use crate::store::{JobId, Lease, Start};

    const MARK: &str = "not-to-be-told";

    fn assert_hides_it(shown: &impl fmt::Debug) {
        let shown = format!("{shown:?} {shown:#?}");
        assert!(!shown.contains(MARK) && !shown.contains("110, 111, 116"), "{shown}");
        assert!(shown.contains("14 bytes"), "{shown}");
    }

    #[test]
    fn the_debug_forms_of_jobs_hide_what_is_in_them() {
        let new = NewJob {
            queue: "q".to_owned(),
            kind: "k".to_owned(),
            payload: Bytes::from_static(MARK.as_bytes()),
            priority: 5,
            start: Start::Now,
            max_attempts: None,
            timeout: None,
            unique: None,
            traceparent: None,
        };
        assert_hides_it(&new);
        let now = Timestamp(1);
        let id = JobId::new(1, 1);
        let mut job = Job::created(id, new, State::Dead, now, now, &Policy::default());
        assert_hides_it(&job);
        job.payload = None;
        job.result = Some(Bytes::from_static(MARK.as_bytes()));
        assert_hides_it(&job);
        job.result = None;
        let (outcome, message) = (AttemptResult::Failed, MARK.to_owned());
        job.last_error = Some(LastError { attempt: 1, at: now, outcome, message });
        assert_hides_it(&job);
        let outcome = Outcome::Failed { permanent: true, retry_in: Duration::ZERO };
        let error = Some(MARK.to_owned());
        assert_hides_it(&Finish {
            lease: Lease { job: id, secret: [7; 16] },
            outcome,
            result: None,
            error,
        });
    }
}

//! Renewals that are not written: while somebody else's reader keeps the log as long as it is, they would
//! make it longer for as long as anything runs.
//!
//! Nothing is lost by that. The next start gives each lease its full duration again, however much of it
//! is left in the file; so only renewals that last no longer than the one before stay unwritten.

use std::collections::HashMap;
use std::time::Duration;

use super::rows::Core;
use crate::clock::Tick;

/// Within this time a sweep gets to each lease that is over, and is told of its last renewal.
const SEEN: Duration = Duration::from_secs(60);

/// Until when leases last, by the keys of their jobs. No attempt begins meanwhile, so there are no more
/// of them than attempts were running.
#[derive(Default)]
pub(super) struct Unwritten(HashMap<i64, Renewal>);

struct Renewal {
    /// The lease, and its end in the file: by these it is known whether that still holds.
    written: (Option<[u8; 16]>, Option<i64>),
    until: Tick,
}

fn written(core: &Core) -> (Option<[u8; 16]>, Option<i64>) {
    (core.lease, core.lease_tick)
}

impl Unwritten {
    /// Has a lease last until then.
    pub(super) fn note(&mut self, core: &Core, until: Tick) {
        self.0.insert(core.id.key(), Renewal { written: written(core), until });
    }

    /// Until when a lease lasts that was renewed so, and in no other way since.
    pub(super) fn until(&self, core: &Core) -> Option<Tick> {
        let renewal = self.0.get(&core.id.key())?;
        (renewal.written == written(core)).then_some(renewal.until)
    }

    /// Forgets what has been over for so long that every sweep has seen it.
    pub(super) fn forget_ended(&mut self, now: Tick) {
        self.0.retain(|_, renewal| renewal.until.after(SEEN) > now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Traced;
    use super::*;
    use crate::job::Outcome;
    use crate::store::Start;

    #[test]
    fn a_renewal_holds_until_its_lease_is_written_anew_or_another_is_given() {
        let mut traced = Traced::new();
        let id = traced.create(None, Start::Now);
        let core = |traced: &Traced| traced.engine.find(id).expect("read").expect("it is there");
        let lease = traced.claim(false);
        let (mut unwritten, until) = (Unwritten::default(), Tick(1_000_000));
        let held = core(&traced);
        unwritten.note(&held, until);
        assert_eq!(unwritten.until(&core(&traced)), Some(until));
        let second = Duration::from_secs(1);
        assert!(traced.commit(|engine| engine.extend(&held, second)).expect("renewed"));
        assert_eq!(unwritten.until(&core(&traced)), None, "it was written since");
        unwritten.note(&core(&traced), until);
        traced.finish(lease, Outcome::Released { retry_in: Duration::ZERO });
        traced.claim(false);
        assert_eq!(unwritten.until(&core(&traced)), None, "another has the job");
        unwritten.note(&core(&traced), until);
        unwritten.forget_ended(Tick(until.after(SEEN).0 - 1));
        assert_eq!(unwritten.until(&core(&traced)), Some(until));
        unwritten.forget_ended(until.after(SEEN));
        assert_eq!(unwritten.until(&core(&traced)), None, "it is over");
    }
}

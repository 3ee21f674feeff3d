//! Claims that found nothing and wait, in the order in which they came.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::handover::Call;
use super::{Claim, Claimed};

/// Below so many entries, looking for abandoned claims is not worth it.
const LEAST_TO_PURGE: usize = 64;

/// A waiting claim is entered under each of its queues, and taken from the first that has a job.
#[derive(Default)]
pub(super) struct Parked {
    calls: BTreeMap<u64, Call<Claim, Claimed>>,
    by_queue: HashMap<String, VecDeque<u64>>,
    last: u64,
    entries: usize,
    purge_at: usize,
}

impl Parked {
    /// Lets a claim wait behind the others.
    pub(super) fn park(&mut self, call: Call<Claim, Claimed>) {
        self.last += 1;
        for queue in &call.ask.queues {
            self.by_queue.entry(queue.clone()).or_default().push_back(self.last);
            self.entries += 1;
        }
        self.calls.insert(self.last, call);
        if self.entries > self.purge_at.max(LEAST_TO_PURGE) {
            self.purge();
        }
    }

    /// Takes out the claim that has waited longest for a job of this queue.
    pub(super) fn next(&mut self, queue: &str) -> Option<(u64, Call<Claim, Claimed>)> {
        let numbers = self.by_queue.get_mut(queue)?;
        while let Some(number) = numbers.pop_front() {
            self.entries -= 1;
            let call = self.calls.remove(&number);
            if let Some(call) = call.filter(|call| !call.is_abandoned()) {
                return Some((number, call));
            }
        }
        self.by_queue.remove(queue);
        None
    }

    /// Lets a claim wait on, at its place.
    pub(super) fn put_back(&mut self, number: u64, call: Call<Claim, Claimed>) {
        for queue in &call.ask.queues {
            let numbers = self.by_queue.entry(queue.clone()).or_default();
            if let Err(place) = numbers.binary_search(&number) {
                numbers.insert(place, number);
                self.entries += 1;
            }
        }
        self.calls.insert(number, call);
    }

    /// All that wait.
    pub(super) fn into_calls(self) -> impl Iterator<Item = (u64, Call<Claim, Claimed>)> {
        self.calls.into_iter()
    }

    /// Forgets claims whose callers have gone, so that long polls of an idle queue leave nothing.
    fn purge(&mut self) {
        self.calls.retain(|_, call| !call.is_abandoned());
        let calls = &self.calls;
        self.by_queue.retain(|_, numbers| {
            numbers.retain(|number| calls.contains_key(number));
            !numbers.is_empty()
        });
        self.entries = self.by_queue.values().map(VecDeque::len).sum();
        self.purge_at = 2 * self.entries;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use tokio::sync::oneshot::Receiver;

    type Answer = Receiver<Result<Claimed, StoreError>>;

    fn claim(queues: &[&str]) -> (Call<Claim, Claimed>, Answer) {
        Call::new(Claim {
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            max: 1,
            max_bytes: 1,
            duration: None,
            worker: None,
            own: false,
        })
    }

    #[test]
    fn claims_are_taken_in_the_order_in_which_they_came() {
        let mut parked = Parked::default();
        let (first, _one) = claim(&["a", "b"]);
        let (second, _two) = claim(&["b"]);
        parked.park(first);
        parked.park(second);
        let (number, call) = parked.next("b").expect("the first");
        assert_eq!(call.ask.queues, ["a", "b"]);
        parked.put_back(number, call);
        assert_eq!(parked.next("b").map(|(number, _)| number), Some(1), "put back at its place");
        assert_eq!(parked.next("b").map(|(number, _)| number), Some(2));
        assert!(parked.next("a").is_none(), "taken for b, so it does not wait for a");
    }

    #[test]
    fn abandoned_claims_leave_nothing_behind() {
        let mut parked = Parked::default();
        for _ in 0..1_000 {
            let (call, answer) = claim(&["a", "b"]);
            parked.park(call);
            drop(answer);
        }
        assert!(parked.calls.len() <= LEAST_TO_PURGE, "{} calls are kept", parked.calls.len());
        assert!(parked.next("a").is_none());
    }
}

//! Every order in which commits and scrapes can meet, tried by loom.

#[expect(clippy::duplicate_mod, reason = "with other locks")]
#[path = "cut.rs"]
mod cut;

mod sync {
    pub(super) use loom::sync::Mutex;
}

use loom::sync::Arc;
use loom::thread;
use uuid::Uuid;

use self::cut::Published;
use super::projection::Projection;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::job::{self, Event, Facts, Outcome, State};
use crate::tally::{Count, Counts, Observation, QueueDelta, RowId, TallyDelta, Totals};

const ROWS: [RowId; 2] = [RowId(1), RowId(2)];

/// What three commits change: a job of each row is created, claimed, completed. Each is seen in the
/// rows, in the histograms of their queue, and in the totals.
fn batches() -> Vec<TallyDelta> {
    let now = Timestamp(0);
    let mut state = State::Ready;
    let mut created = Counts::default();
    created.record_created(state);
    let mut changes = vec![created];
    for event in [Event::Claim, Event::End(Outcome::Completed)] {
        let facts = Facts { state, run_at: now, failures: 0, max_attempts: 1 };
        let change = job::apply(&facts, event, now, std::time::Duration::ZERO).expect("it may");
        state = change.to.expect("it stays");
        let mut counts = Counts::default();
        counts.record(&change);
        changes.push(counts);
    }
    let observed = Observation { seconds: 1.0, at: now, job: Uuid::nil(), trace: None };
    let batch = |counts: Counts| {
        let each = |count| ROWS.into_iter().filter(move |_| counts[count] > 0);
        let queue = QueueDelta {
            has_series: true,
            waits: each(Count::Started).map(|_| observed).collect(),
            durations: each(Count::EndedCompleted).map(|row| (row, observed)).collect(),
            ..QueueDelta::default()
        };
        TallyDelta {
            rows: ROWS.map(|row| (row, counts)).into(),
            queues: vec![("q".into(), queue)],
            totals: Totals { promoted: 1, ..Totals::default() },
            ..TallyDelta::default()
        }
    };
    let mut batches: Vec<_> = changes.into_iter().map(batch).collect();
    batches[0].new_rows = ROWS.map(|row| (row, "q".into(), format!("k{}", row.0).into())).into();
    batches
}

/// How many batches one cut has seen; each of them must be seen in all its parts.
fn look(published: &Published<Projection>) -> u64 {
    let (rows, queues, totals) = published.cut(Projection::cut);
    let [first, second] = match &rows[..] {
        [] => return totals.promoted,
        [first, second] => [first.counts, second.counts],
        half => panic!("half a batch: {half:?}"),
    };
    assert_eq!(first, second, "half a batch");
    first.check().expect("a whole batch");
    let of_both = |count| (first[count] + second[count]).unsigned_abs();
    let queue = &queues[0];
    let timed = (queue.wait.count, queue.duration.count);
    assert_eq!(timed, (of_both(Count::Started), of_both(Count::EndedCompleted)), "half a batch");
    let seen = [Count::Created, Count::Started, Count::Completed].map(|count| first[count]);
    assert_eq!(seen.iter().sum::<i64>().unsigned_abs(), totals.promoted, "half a batch");
    totals.promoted
}

/// One commits three times, one scrapes twice, one once: in every order.
fn in_every_order(
    publish: impl Fn(&Published<Projection>, &TallyDelta) + Clone + Send + Sync + 'static,
) {
    let config = std::sync::Arc::new(Config::default());
    let batches = std::sync::Arc::new(batches());
    loom::model(move || {
        let published = Arc::new(Published::new(Projection::new(config.clone())));
        let scraper = |times: usize, published: Arc<Published<Projection>>| {
            thread::spawn(move || {
                let seen: Vec<_> = (0..times).map(|_| look(&published)).collect();
                assert!(seen.is_sorted(), "counters went back: {seen:?}");
            })
        };
        let scrapers = [scraper(2, published.clone()), scraper(1, published.clone())];
        batches.iter().for_each(|batch| publish(&published, batch));
        assert_eq!(look(&published), 3);
        scrapers.into_iter().for_each(|scraper| scraper.join().expect("it saw whole batches"));
    });
}

#[test]
fn no_interleaving_shows_half_a_batch() {
    in_every_order(|published, batch| published.publish(|all| all.apply(batch)));
}

/// The control: a commit that publishes its rows, or its rows and the rest, one by one is found out.
#[test]
#[should_panic(expected = "half a batch")]
fn a_batch_whose_rows_are_published_in_two_steps_is_seen() {
    in_every_order(|published, batch| {
        let first = TallyDelta { rows: vec![batch.rows[0]], ..batch.clone() };
        let second = TallyDelta { rows: vec![batch.rows[1]], ..TallyDelta::default() };
        [first, second].iter().for_each(|half| published.publish(|all| all.apply(half)));
    });
}

#[test]
#[should_panic(expected = "half a batch")]
fn a_batch_whose_histograms_are_published_after_its_rows_is_seen() {
    in_every_order(|published, batch| {
        let first = TallyDelta { queues: Vec::new(), ..batch.clone() };
        let second = TallyDelta { queues: batch.queues.clone(), ..TallyDelta::default() };
        [first, second].iter().for_each(|half| published.publish(|all| all.apply(half)));
    });
}

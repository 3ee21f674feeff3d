//! The jobs that the demo creates: the same in every demo, of all sorts in the first seconds.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::client::NewJob;

/// The job so numbered. The three queues take turns.
pub(super) fn job(number: u64) -> NewJob {
    let turn = number / 3;
    let mut job = match number % 3 {
        0 => webhook(turn),
        1 => thumbnail(turn),
        _ => report(turn),
    };
    match number % 16 {
        4 => job.delay = Some(Duration::from_secs(5)),
        9 => job.priority = Some(0),
        14 => job.priority = Some(9),
        _ => {}
    }
    job
}

/// What [`super::receiver`] does with it depends on its number.
fn webhook(turn: u64) -> NewJob {
    let kind = if turn % 4 == 1 { "order.shipped" } else { "order.paid" };
    new("webhooks", kind, json!({"order": turn}))
}

/// What the command of the configuration does with it depends on its last digits.
fn thumbnail(turn: u64) -> NewJob {
    new("thumbnails", "photo", format!("holiday-{turn:04}.jpg"))
}

/// What [`super::worker`] does with it depends on its number.
fn report(turn: u64) -> NewJob {
    let kind = if turn % 5 == 2 { "monthly" } else { "daily" };
    new("reports", kind, json!({"report": turn}))
}

/// A job that is due only after the demo, to be looked at and cancelled.
pub(super) fn waiting() -> NewJob {
    let delay = Some(Duration::from_secs(60 * 60));
    NewJob { delay, ..new("reports", "monthly", json!({"report": 0})) }
}

fn new(queue: &str, kind: &str, payload: impl Serialize) -> NewJob {
    NewJob {
        queue: Some(queue.to_owned()),
        kind: kind.to_owned(),
        payload: Some(to_raw_value(&payload).expect("text and numbers are JSON")),
        ..NewJob::default()
    }
}

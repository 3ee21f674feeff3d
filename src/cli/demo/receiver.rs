//! What the demo's pushed jobs arrive at: a receiver with the moods of real ones.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::sleep;

use crate::server::receiver::{Answer, HeaderMap};

/// How long a slow answer takes.
const SLOW: Duration = Duration::from_millis(800);

/// How long an answer takes that comes too late: more than the queue's `timeout`.
const TOO_SLOW: Duration = Duration::from_secs(10);

/// The payload of a pushed job.
#[derive(Deserialize)]
struct Order {
    order: u64,
}

/// What a push meets with.
#[derive(Debug, PartialEq, Eq)]
enum Mood {
    Fine,
    Slow,
    Busy,
    Refuses,
    Hangs,
}

/// By the order's number, so that every demo shows the same.
fn mood(order: u64, attempt: u32) -> Mood {
    match order % 20 {
        3 | 13 if attempt == 1 => Mood::Busy,
        5 => Mood::Refuses,
        7 | 17 => Mood::Slow,
        15 => Mood::Hangs,
        _ => Mood::Fine,
    }
}

/// Answers one push.
pub(super) async fn answer(headers: HeaderMap, body: Bytes) -> Answer {
    let Ok(Order { order }) = serde_json::from_slice(&body) else {
        return Answer::text(422, "not an order: its payload has no number `order`");
    };
    let attempt = headers.get("tallyd-attempt").and_then(|value| value.to_str().ok());
    match mood(order, attempt.and_then(|text| text.parse().ok()).unwrap_or(1)) {
        Mood::Busy => return Answer::text(503, "too busy").with("retry-after", 2),
        Mood::Refuses => return Answer::text(422, format!("there is no order {order}")),
        Mood::Slow => sleep(SLOW).await,
        Mood::Hangs => sleep(TOO_SLOW).await,
        Mood::Fine => {}
    }
    Answer::text(200, format!("took order {order}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_twenty_orders_some_meet_with_each_mood() {
        let count = |wanted: Mood| (0..20).filter(|order| mood(*order, 1) == wanted).count();
        let moods = [Mood::Fine, Mood::Slow, Mood::Busy, Mood::Refuses, Mood::Hangs];
        assert_eq!(moods.map(count), [14, 2, 2, 1, 1]);
        assert_eq!(mood(3, 2), Mood::Fine, "the receiver is busy once only");
    }
}

//! Durations and times as the interface writes them.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use crate::clock::Timestamp;
use crate::config::duration;

/// Writes a duration, like `"5m"`; what is shorter than a millisecond is left out.
pub(super) fn write_duration<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_str(&duration::format(*duration)),
        None => serializer.serialize_none(),
    }
}

/// Reads a duration.
pub(super) fn read_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no duration")))
}

/// Writes a time in RFC 3339.
pub(super) fn write_time<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// Reads a time.
pub(super) fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    Timestamp::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no time")))
}

/// Reads a time that may be absent.
pub(super) fn read_time_if_any<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let read = |text: String| {
        Timestamp::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no time")))
    };
    text.map(read).transpose()
}

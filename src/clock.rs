//! The only reader of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in wall time: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The last whole second that can be written whatever the offset, 9999-12-30T22:00:00Z.
    pub const MAX: Self = Self(253_402_207_200_000);

    /// This instant moved by `duration`, at most to [`Timestamp::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)).min(Self::MAX.0))
    }

    /// This instant moved back by `duration`.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Seconds since the Unix epoch, as Prometheus wants them.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// Reads RFC 3339 with an offset (section 5.6 of the RFC); years 1970 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        if !is_rfc_3339(text.as_bytes()) {
            return None; // the parser takes more: spaces, no dashes, names of time zones
        }
        let instant: jiff::Timestamp = text.to_ascii_uppercase().parse().ok()?;
        let stamp = Self(instant.as_millisecond());
        (Self(0)..=Self::MAX).contains(&stamp).then_some(stamp)
    }
}

impl Timestamp {
    /// Reads a date as HTTP writes it, in any of its three forms (RFC 9110, section 5.6.7).
    pub fn parse_http_date(text: &str) -> Option<Self> {
        let date = httpdate::parse_http_date(text).ok()?;
        Some(Self(0).after(date.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

/// Whether a text has the shape of `date-time` in RFC 3339; the numbers may be out of range.
fn is_rfc_3339(text: &[u8]) -> bool {
    let has_shape = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text.iter().zip(shape).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                b'+' => matches!(byte, b'+' | b'-'),
                _ => byte.eq_ignore_ascii_case(wanted),
            })
    };
    let Some((time, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let digits = match rest.strip_prefix(b".") {
        Some(fraction) => fraction.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        None => 0,
    };
    let fraction = if digits == 0 { 0 } else { 1 + digits };
    let offset = &rest[fraction..];
    has_shape(time, b"0000-00-00T00:00:00")
        && (has_shape(offset, b"Z") || has_shape(offset, b"+00:00"))
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// A duration in whole milliseconds, at most what an `i64` holds.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A point on the monotonic clock: milliseconds since the daemon started.
///
/// Leases are judged by it, so that a jump of the wall clock expires nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub i64);

impl Tick {
    /// This point moved by `duration`.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

/// Reads wall and monotonic time.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System { start: Instant },
    Manual(Arc<Hands>),
}

#[derive(Debug)]
struct Hands {
    wall: AtomicI64,
    tick: AtomicI64,
}

impl Clock {
    /// The clocks of the machine; ticks count from now.
    pub fn system() -> Self {
        Self(Source::System { start: Instant::now() })
    }

    /// A clock that stands still until it is moved, for tests.
    pub fn manual(now: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Hands {
            wall: AtomicI64::new(now.0),
            tick: AtomicI64::new(0),
        })))
    }

    /// Moves both hands of a manual clock; the machine's clocks cannot be moved.
    pub fn advance(&self, duration: Duration) {
        if let Source::Manual(hands) = &self.0 {
            hands.wall.fetch_add(millis(duration), Ordering::SeqCst);
            hands.tick.fetch_add(millis(duration), Ordering::SeqCst);
        }
    }

    /// Sets the wall hand of a manual clock and leaves the monotonic one, like a clock jump.
    pub fn jump(&self, now: Timestamp) {
        if let Source::Manual(hands) = &self.0 {
            hands.wall.store(now.0, Ordering::SeqCst);
        }
    }

    /// The wall time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(millis(since))
            }
            Source::Manual(hands) => Timestamp(hands.wall.load(Ordering::SeqCst)),
        }
    }

    /// The monotonic time.
    pub fn tick(&self) -> Tick {
        match &self.0 {
            Source::System { start } => Tick(millis(start.elapsed())),
            Source::Manual(hands) => Tick(hands.tick.load(Ordering::SeqCst)),
        }
    }
}

/// Measures how long something takes.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_in_utc_and_read_with_an_offset() {
        let stamp = Timestamp::parse("2026-03-01T12:00:00.25+02:00").expect("valid");
        assert_eq!(stamp.to_string(), "2026-03-01T10:00:00.250Z");
        assert_eq!(Timestamp::parse("2026-03-01T10:00:00Z"), Some(Timestamp(stamp.0 - 250)));
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T22:00:00.000Z");
        assert_eq!(Timestamp::parse("2026-03-01t10:00:00.25z"), Some(stamp));
        assert_eq!(Timestamp::parse("2026-03-01T08:00:00.2500-02:00"), Some(stamp));
        for bad in [
            "2026-03-01T12:00:00",
            "2026-03-01",
            "12:00",
            "tomorrow",
            "1969-12-31T23:59:59Z",
            "",
            " 2026-03-01T10:00:00Z",
            "2026-03-01 10:00:00Z",
            "2026-03-01T10:00:00Z ",
            "20260301T100000Z",
            "2026-03-01T10:00Z",
            "2026-03-01T10:00:00.Z",
            "2026-03-01T10:00:00,5Z",
            "2026-03-01T10:00:00+0100",
            "2026-03-01T10:00:00+01",
            "2026-03-01T10:00:00+01:00:00",
            "2026-03-01T10:00:00Z[UTC]",
            "2026-03-01T10:00:00+01:00[Europe/Paris]",
            "+002026-03-01T10:00:00Z",
            "2026-13-01T10:00:00Z",
            "2026-03-01T10:00:0äZ",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp(5).after(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Tick(1).after(Duration::MAX), Tick(i64::MAX));
    }
}

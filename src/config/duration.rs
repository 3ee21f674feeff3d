//! Durations as people write them: `^[0-9]{1,9}(ms|s|m|h|d)$`.

use std::time::Duration;

/// The units, the largest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The rule in words that a message can carry.
pub const DURATION_RULE: &str = "1 to 9 digits and ms, s, m, h or d, like 500ms, 30s or 5m";

/// Reads a duration; none if `text` does not follow the notation.
pub fn parse(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    if !(1..=9).contains(&digits.len()) {
        return None;
    }
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let count: u64 = digits.parse().ok()?;
    Some(Duration::from_millis(count * unit_ms))
}

/// Writes a duration in the largest unit that holds it exactly, to the millisecond.
pub fn format(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, unit_ms) = if ms == 0 {
        ("s", 1)
    } else {
        *UNITS.iter().find(|(_, unit_ms)| ms % unit_ms == 0).expect("1 ms divides every count")
    };
    format!("{}{unit}", ms / unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        for (text, ms) in [
            ("0s", 0),
            ("1ms", 1),
            ("200ms", 200),
            ("60s", 60_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("999999999d", 999_999_999 * 86_400_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in
            ["", "5", "s", "1.5s", "-1s", " 1s", "1s ", "1 s", "1234567890s", "1w", "1S", "١s"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_written_in_the_largest_exact_unit() {
        for text in ["0s", "1ms", "1500ms", "59s", "5m", "25h", "3d"] {
            assert_eq!(format(parse(text).expect(text)), text);
        }
        assert_eq!(format(Duration::from_secs(60)), "1m");
    }
}

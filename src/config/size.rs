//! Sizes as people write them: `^[0-9]{1,9}(KiB|MiB|GiB)?$`, bytes without a unit.

/// The units, the largest first, with their length in bytes.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

/// The rule in words that a message can carry.
pub const SIZE_RULE: &str = "a number of bytes or a size like 512KiB or 1MiB";

/// Reads a size in bytes; none if `text` does not follow the notation.
pub fn parse(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    if !(1..=9).contains(&digits.len()) {
        return None;
    }
    let (_, unit_bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let count: u64 = digits.parse().ok()?;
    Some(count * unit_bytes)
}

/// Writes a size in the largest unit that holds it exactly.
pub fn format(bytes: u64) -> String {
    let (unit, unit_bytes) = UNITS
        .iter()
        .find(|(_, unit_bytes)| bytes.is_multiple_of(*unit_bytes))
        .expect("1 byte divides every count");
    format!("{}{unit}", bytes / unit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [("0", 0), ("1000", 1000), ("2KiB", 2048), ("16MiB", 16 << 20)] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for bad in ["", "KiB", "1kb", "1 MiB", "-1", "1.5MiB", "1234567890", "1TiB"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_largest_exact_unit() {
        assert_eq!(format(1 << 20), "1MiB");
        assert_eq!(format(1 << 40), "1024GiB");
        assert_eq!(format(1536), "1536");
        assert_eq!(format(3 << 10), "3KiB");
    }
}

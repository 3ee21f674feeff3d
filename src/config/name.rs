//! The rule for names of queues and kinds.

/// The most bytes of a queue's or kind's name; the names are label values of every series.
pub const MAX_NAME_BYTES: usize = 128;

/// The rule in words that a message can carry.
pub const NAME_RULE: &str =
    "1 to 128 of the characters A-Z a-z 0-9 _ . : - and the first a letter or digit";

/// Whether `name` matches `^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$`.
pub fn is_valid(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_length_and_alphabet() {
        for good in ["a", "9", "emails", "a_b.c:d-e", &"x".repeat(128)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "_a", "-a", ".a", "a b", "a/b", "ä", "a\n", "__other__", &"x".repeat(129)]
        {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}

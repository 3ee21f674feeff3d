//! The form of a `traceparent` (W3C Trace Context, section 3.2.2).

/// The length of version 00: 2 + 32 + 16 + 2 digits and three hyphens.
const LENGTH: usize = 55;

/// The most bytes taken: later versions may append fields.
const MAX_LENGTH: usize = 256;

/// Whether `text` is version-traceid-parentid-flags in lowercase hex, with ids that are not zero.
pub(super) fn is_valid(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut part = |digits: usize| parts.next().filter(|part| is_hex(part, digits));
    let (Some(version), Some(trace), Some(parent), Some(_flags)) =
        (part(2), part(32), part(16), part(2))
    else {
        return false;
    };
    let length = if version == "00" { text.len() == LENGTH } else { text.len() <= MAX_LENGTH };
    version != "ff"
        && length
        && is_printable(text)
        && [trace, parent].iter().all(|id| id.bytes().any(|digit| digit != b'0'))
}

fn is_hex(part: &str, digits: usize) -> bool {
    part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// It is sent on as a header.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_of_the_standard_is_taken() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        for good in [
            format!("00-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-ff"),
            format!("01-{trace}-{parent}-01"),
            format!("01-{trace}-{parent}-01-more"),
        ] {
            assert!(is_valid(&good), "{good}");
        }
        for bad in [
            String::new(),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-1"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}-0\n"),
            format!("01-{trace}-{parent}-01-a\r\nb: c"),
            format!(" 00-{trace}-{parent}-01"),
        ] {
            assert!(!is_valid(&bad), "{bad}");
        }
    }
}

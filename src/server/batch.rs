//! Bodies that hold many items: a JSON array or NDJSON, each item refused by its index.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::body::{Media, Received};
use super::error::{ApiError, Code};
use super::json;

/// The most items of one body: the store handles them in one transaction, and others wait for it.
pub(super) const MAX_ITEMS: usize = 10_000;

/// Reads the items of a body, each with `read`; the first one refused refuses all.
pub(super) fn items<T>(
    received: &Received,
    read: impl Fn(&[u8]) -> Result<T, ApiError>,
) -> Result<Vec<T>, ApiError> {
    match received.media {
        Media::Json => array(&received.text, read),
        Media::NdJson => lines(&received.text, read),
    }
}

fn too_many() -> ApiError {
    ApiError::new(Code::TooManyItems, format!("at most {MAX_ITEMS} items go into one request"))
}

/// The items of a JSON array.
fn array<T>(text: &[u8], read: impl Fn(&[u8]) -> Result<T, ApiError>) -> Result<Vec<T>, ApiError> {
    let (mut seen, mut begun) = (Vec::new(), false);
    let mut parser = serde_json::Deserializer::from_slice(text);
    let items = Items { seen: &mut seen, begun: &mut begun };
    let parsed = parser.deserialize_seq(items).and_then(|()| parser.end());
    if seen.len() > MAX_ITEMS {
        return Err(too_many());
    }
    if let Err(error) = parsed {
        let refused = json::explain(&error, "");
        // A syntax error is behind the last item that could be read.
        return Err(if error.is_data() || !begun { refused } else { refused.at(seen.len()) });
    }
    let read_one = |(index, item): (usize, &&RawValue)| {
        read(item.get().as_bytes()).map_err(|refused| refused.at(index))
    };
    seen.iter().enumerate().map(read_one).collect()
}

/// Gathers the items of an array, one more than allowed at most.
struct Items<'a, 'text> {
    seen: &'a mut Vec<&'text RawValue>,
    /// Whether the array itself was there.
    begun: &'a mut bool,
}

impl<'text> Visitor<'text> for Items<'_, 'text> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'text>>(self, mut sequence: A) -> Result<(), A::Error> {
        *self.begun = true;
        while let Some(item) = sequence.next_element()? {
            self.seen.push(item);
            if self.seen.len() > MAX_ITEMS {
                return Err(A::Error::custom("too many items"));
            }
        }
        Ok(())
    }
}

/// The items of NDJSON; blank lines hold none.
fn lines<T>(text: &[u8], read: impl Fn(&[u8]) -> Result<T, ApiError>) -> Result<Vec<T>, ApiError> {
    let mut items = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if items.len() == MAX_ITEMS {
            return Err(too_many());
        }
        let item = read(line).map_err(|mut refused| {
            // The parser has seen this line alone.
            let said = refused.message.replace(" at line 1 column ", " at column ");
            refused.message = format!("line {}: {said}", number + 1);
            refused.at(items.len())
        })?;
        items.push(item);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(text: &[u8]) -> Result<usize, ApiError> {
        json::object::<BTreeMap<String, u8>>(text).map(|fields| fields.len())
    }

    fn refused(result: Result<Vec<usize>, ApiError>) -> (Code, Option<usize>) {
        let error = result.expect_err("must be refused");
        (error.code, error.index)
    }

    #[test]
    fn the_items_of_an_array_come_in_order() {
        assert_eq!(array(br#" [ {"a":1} ,{}, {"b":1,"c":2} ] "#, read), Ok(vec![1, 0, 2]));
        assert_eq!(array(b"[]", read), Ok(vec![]));
    }

    #[test]
    fn a_bad_item_of_an_array_is_named_by_its_index() {
        assert_eq!(refused(array(br#"[{},{"a":"x"}]"#, read)), (Code::InvalidField, Some(1)));
        assert_eq!(refused(array(br#"[{},7]"#, read)), (Code::InvalidField, Some(1)));
        assert_eq!(refused(array(br#"[{},{"a":}]"#, read)), (Code::InvalidJson, Some(1)));
        assert_eq!(refused(array(b"[{},{}", read)), (Code::InvalidJson, Some(2)));
        assert_eq!(refused(array(b"[{}] x", read)), (Code::InvalidJson, Some(1)));
        assert_eq!(refused(array(br#"[{"a":}]"#, read)), (Code::InvalidJson, Some(0)));
        assert_eq!(refused(array(b"[", read)), (Code::InvalidJson, Some(0)));
        assert_eq!(refused(array(b"{", read)), (Code::InvalidField, None));
        assert_eq!(refused(array(b"{}", read)), (Code::InvalidField, None));
    }

    #[test]
    fn lines_are_counted_as_items_and_named_as_lines() {
        assert_eq!(lines(b"{}\n\n \r\n{\"a\":1}\r\n{}", read), Ok(vec![0, 1, 0]));
        assert_eq!(lines(b"", read), Ok(vec![]));
        let error = lines(b"{}\n\n{\"a\":\n{}", read).expect_err("a broken line");
        assert_eq!((error.code, error.index), (Code::InvalidJson, Some(1)));
        let said = &error.message;
        assert!(said.starts_with("line 3: ") && said.ends_with(" at column 5"), "{said}");
    }

    #[test]
    fn no_more_items_than_allowed_are_taken() {
        let many = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(array(many(MAX_ITEMS).as_bytes(), read).map(|items| items.len()), Ok(MAX_ITEMS));
        let error = refused(array(many(MAX_ITEMS + 1).as_bytes(), read));
        assert_eq!(error, (Code::TooManyItems, None));
        assert_eq!(
            lines("{}\n".repeat(MAX_ITEMS).as_bytes(), read).map(|i| i.len()),
            Ok(MAX_ITEMS)
        );
        let error = refused(lines("{}\n".repeat(MAX_ITEMS + 1).as_bytes(), read));
        assert_eq!(error, (Code::TooManyItems, None));
    }
}

//! JSON in and out: parsing with errors that name the field, and answers.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use serde::de::{IgnoredAny, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;

use super::error::{ApiError, Code};
use crate::config::limits::{MAX_JSON_DEPTH, nests_deeper};

/// The media type of JSON.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer with this body.
pub(super) fn answer(status: StatusCode, view: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Body::from(text(view)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A view as JSON text.
pub(super) fn text(view: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(view).expect("views have string keys and no failing parts");
    text.shrink_to_fit(); // it may wait long for its caller
    text
}

/// Reads a JSON object into `T`.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, ApiError> {
    // The derived parsers would also take an array, with the fields in order.
    match text.trim_ascii_start().first() {
        None | Some(b'{') => {}
        Some(_) => {
            return Err(match serde_json::from_slice::<IgnoredAny>(text) {
                Ok(_) => ApiError::new(Code::InvalidField, "must be a JSON object"),
                Err(error) => explain(&error, ""),
            });
        }
    }
    serde_json::from_slice(text).map_err(|error| locate::<T>(text).unwrap_or(explain(&error, "")))
}

/// One of the names of an enum. The derived parsers would also take an object in its place.
#[derive(Clone, Copy)]
pub(super) struct Named<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        T::deserialize(name.into_deserializer()).map(Self)
    }
}

/// Parses again, slower, to find the field that the error is about.
fn locate<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<ApiError> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let error = serde_path_to_error::deserialize::<_, T>(&mut parser).err()?;
    let path = error.path().to_string();
    let path = if path == "." { "" } else { &path };
    let is_json = || serde_json::from_slice::<IgnoredAny>(text).is_ok();
    // To the parser, a number that no type can hold is no JSON.
    if error.inner().to_string().starts_with("number out of range") && is_json() {
        return Some(ApiError::invalid(path, format!("{path}: number out of range")));
    }
    Some(explain(error.inner(), path))
}

/// The most characters that an answer repeats of what the caller sent.
const MAX_ECHO: usize = 200;

/// At most so many characters as an answer repeats.
fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_ECHO).map_or(text, |(end, _)| &text[..end])
}

/// The same of what the parser says, but for what it expects at the end, which is ours.
fn shortened(said: String) -> String {
    let Some(more @ 1..) = said.chars().count().checked_sub(MAX_ECHO) else { return said };
    let Some(end) = said.rfind(", expected ") else { return cut(&said).to_owned() };
    let (begin, expected) = said.split_at(end);
    match begin.char_indices().rev().nth(more - 1) {
        Some((kept, _)) => format!("{}{expected}", &begin[..kept]),
        None => cut(&said).to_owned(),
    }
}

/// What to say about an error of the parser.
pub(super) fn explain(error: &serde_json::Error, path: &str) -> ApiError {
    let said = error.to_string();
    if error.classify() != Category::Data {
        let code =
            if said.starts_with("recursion limit") { Code::JsonTooDeep } else { Code::InvalidJson };
        return ApiError::new(code, format!("not valid JSON: {said}"));
    }
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
    let (code, field) = if let Some(rest) = said.strip_prefix("unknown field `") {
        // The caller's name may hold anything; what the parser says behind it does not.
        let end = ["`, expected ", "`, there are "].iter().find_map(|end| rest.rfind(end));
        (Code::UnknownField, end.map(|end| &rest[..end]))
    } else if let Some(rest) = said.strip_prefix("missing field `") {
        (Code::MissingField, rest.strip_suffix('`'))
    } else if let Some(rest) = said.strip_prefix("duplicate field `") {
        (Code::InvalidField, rest.strip_suffix('`'))
    } else {
        (Code::InvalidField, Some(path).filter(|path| !path.is_empty()))
    };
    let said = said.replace("expected i64", "expected an integer");
    ApiError {
        field: field.map(|field| cut(field).to_owned()),
        ..ApiError::new(code, shortened(said))
    }
}

/// Refuses JSON text that nests too deep; `text` is valid JSON.
pub(super) fn check_depth(field: &str, text: &str) -> Result<(), ApiError> {
    if nests_deeper(text.as_bytes(), MAX_JSON_DEPTH) {
        let message = format!("{field} nests deeper than {MAX_JSON_DEPTH} levels");
        return Err(ApiError::new(Code::JsonTooDeep, message).field(field));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        kind: String,
        priority: Option<i64>,
        names: Option<Vec<String>>,
    }

    fn refused(text: &[u8]) -> (Code, Option<String>) {
        let error = object::<Sample>(text).expect_err("must be refused");
        (error.code, error.field)
    }

    #[test]
    fn errors_name_their_field() {
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(refused(br#"{"kind":"a","no":1}"#), (Code::UnknownField, field("no")));
        assert_eq!(refused(br#"{"kind":"a","":1}"#), (Code::UnknownField, field("")));
        let odd = br#"{"kind":"a","b`, expected `c":1}"#;
        assert_eq!(refused(odd), (Code::UnknownField, field("b`, expected `c")));
        assert_eq!(refused(br#"{"priority":1}"#), (Code::MissingField, field("kind")));
        assert_eq!(refused(br"{}"), (Code::MissingField, field("kind")));
        assert_eq!(refused(br#"{"kind":7}"#), (Code::InvalidField, field("kind")));
        let text = br#"{"kind":"a","names":["b",2]}"#;
        assert_eq!(refused(text), (Code::InvalidField, field("names[1]")));
        assert_eq!(refused(br#"{"kind":"a","kind":"b"}"#), (Code::InvalidField, field("kind")));
        assert_eq!(refused(br#"["a"]"#), (Code::InvalidField, None));
        assert_eq!(refused(b"null"), (Code::InvalidField, None));
    }

    #[test]
    fn long_names_and_values_are_not_repeated_in_full() {
        let long = "ä".repeat(5_000);
        for text in [format!(r#"{{"{long}":1}}"#), format!(r#"{{"kind":"a","priority":"{long}"}}"#)]
        {
            let error = object::<Sample>(text.as_bytes()).expect_err("must be refused");
            assert_eq!(error.message.chars().count(), MAX_ECHO);
            assert!(error.message.contains(", expected "), "{}", error.message);
            assert!(error.field.is_some_and(|field| field.chars().count() <= MAX_ECHO));
        }
    }

    #[test]
    fn broken_json_is_told_with_its_place() {
        for text in [
            &b"{"[..],
            b"",
            b" ",
            b"{\"kind\":\"\xff\"}",
            b"{\"kind\":\"a\"} x",
            b"nul",
            b"\xef\xbb\xbf{}",
        ] {
            let error = object::<Sample>(text).expect_err("must be refused");
            assert_eq!(error.code, Code::InvalidJson, "{text:?}");
            assert!(error.message.contains("line 1 column"), "{}", error.message);
        }
    }

    #[test]
    fn numbers_of_the_wrong_sort_are_told_in_the_words_of_json() {
        let error = object::<Sample>(br#"{"kind":"a","priority":1.5}"#).expect_err("a fraction");
        assert_eq!(error.message, "invalid type: floating point `1.5`, expected an integer");
    }

    #[test]
    fn depth_counts_nesting_and_not_brackets_in_strings() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(!nests_deeper(nested(32).as_bytes(), 32));
        assert!(nests_deeper(nested(33).as_bytes(), 32));
        assert!(nests_deeper(r#"{"a":"#.repeat(33).as_bytes(), 32));
        assert!(!nests_deeper(format!("[{}]", vec!["[]"; 100].join(",")).as_bytes(), 32));
        assert!(!nests_deeper(format!(r#""{}""#, "[".repeat(100)).as_bytes(), 32));
        assert!(!nests_deeper(format!(r#""\"{}""#, "[".repeat(100)).as_bytes(), 32));
        assert!(nests_deeper(format!(r#"["\\",{}"#, "[".repeat(100)).as_bytes(), 32));
    }
}

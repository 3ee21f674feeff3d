//! Answers: how much of them is read, and what they are read as.

use std::ops::Deref;

use reqwest::Response;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The most bytes of an answer: a list of 100,000 queues has fewer, and so have 1,000 leased jobs.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// An answer as a value, and as the JSON text that the server wrote.
#[derive(Debug, Clone)]
pub struct Document<T> {
    value: T,
    json: Box<RawValue>,
}

impl<T> Document<T> {
    /// The value alone.
    pub fn into_value(self) -> T {
        self.value
    }

    /// The text, with fields that this version of the client does not know.
    pub fn json(&self) -> &RawValue {
        &self.json
    }
}

impl<T> Deref for Document<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The whole body of an answer; none if it is too large.
pub(super) async fn collect(mut response: Response) -> reqwest::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > MAX_ANSWER_BYTES - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// Reads an answer; the error says what is wrong with it.
pub(super) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    serde_json::from_slice(answer).map_err(|error| error.to_string())
}

/// The same, and keeps the text.
pub(super) fn document<T: DeserializeOwned>(answer: Vec<u8>) -> Result<Document<T>, String> {
    let value = read(&answer)?;
    let text = String::from_utf8(answer).map_err(|error| error.to_string())?;
    let json = RawValue::from_string(text).map_err(|error| error.to_string())?;
    Ok(Document { value, json })
}

//! The settings of a queue whose jobs are pushed: a receiver, and how it knows the sender.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use url::Url;

/// The receiver of a queue's jobs. Its `Debug` form has no value of a header.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where jobs are posted: http or https, without user information.
    pub url: String,
    /// What pushes are signed with.
    pub secret: Option<Secret>,
    /// Headers that each push has besides its own; their values may be secrets.
    pub headers: BTreeMap<String, String>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
}

/// A signing key in the form of Standard Webhooks. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// What stands before a key.
pub(super) const PREFIX: &str = "whsec_";

/// How many bytes a key may have, by the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Headers that belong to each push, or to its connection.
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "traceparent",
    "transfer-encoding",
    "user-agent",
];

impl Secret {
    /// Reads `whsec_` and the key in base64.
    pub fn parse(text: &str) -> Option<Self> {
        let key = BASE64_STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        KEY_BYTES.contains(&key.len()).then_some(Self(key))
    }

    /// The key.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, secret, headers, connect_timeout } = self;
        f.debug_struct("HttpConfig")
            .field("url", url)
            .field("secret", secret)
            .field("headers", &headers.keys())
            .field("connect_timeout", connect_timeout)
            .finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A receiver's URL.
pub(super) fn url(text: Option<&str>) -> Result<String, String> {
    let right = || "must be a URL such as http://127.0.0.1:3000/jobs".to_owned();
    let text = text.ok_or_else(right)?;
    let url = Url::parse(text).map_err(|_| right())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(right());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user or password; use headers for them".to_owned());
    }
    Ok(text.to_owned())
}

/// A signing key.
pub(super) fn secret(text: Option<&str>) -> Result<Secret, String> {
    text.and_then(Secret::parse).ok_or_else(|| {
        let (least, most) = (KEY_BYTES.start(), KEY_BYTES.end());
        format!(
            "must be {PREFIX} and {least} to {most} bytes in base64, as Standard Webhooks has it"
        )
    })
}

/// Whether a name and its value can be a header of pushes; the error says what would be right.
pub(super) fn header(name: &str, value: &str) -> Result<(), String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("is no name for a header, such as authorization".to_owned());
    }
    if OWN_HEADERS.contains(&&*lower)
        || ["tallyd-", "webhook-"].iter().any(|own| lower.starts_with(own))
    {
        return Err("is a header that tallyd sets by itself".to_owned());
    }
    let is_value = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if !value.bytes().all(is_value) || value.trim() != value {
        return Err("must have a value of printable ASCII without spaces around it".to_owned());
    }
    Ok(())
}

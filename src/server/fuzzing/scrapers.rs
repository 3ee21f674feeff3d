//! What must hold for any headers by which a scraper says what it can read.

use axum::http::header::{ACCEPT, ACCEPT_ENCODING};
use axum::http::{HeaderMap, HeaderValue};

use crate::fuzzing::within;
use crate::metrics::Format;
use crate::server::accept::{OPEN_METRICS, TEXT, Wanted};

/// What reading headers may hold for each of their bytes.
const FACTOR: usize = 16;

/// How a line begins that is no `Accept`.
const ENCODING: &[u8] = b"accept-encoding:";

/// Headers, one a line: `accept: …` or `accept-encoding: …`; what is neither is an `Accept`.
///
/// The answer is always one that there is. If the headers are as RFC 9110 writes them, it is also
/// the right one: nothing of weight 0 while something else is allowed, OpenMetrics for those only
/// who named it or refused the text, gzip for those only who take it.
pub fn accept(lines: &[u8]) {
    let headers = headers(lines);
    let wanted = within(FACTOR, lines.len(), || Wanted::read(&headers));
    let is_known = match wanted.format {
        Format::Text => wanted.content_type == TEXT,
        Format::OpenMetrics => OPEN_METRICS.contains(&wanted.content_type),
    };
    assert!(is_known, "{wanted:?}");
    let values = |name| {
        let values = headers.get_all(name).into_iter().map(|value| value.to_str().ok());
        let values: Option<Vec<&str>> = values.collect();
        values.map(|values| values.join(","))
    };
    if let Some(ranges) = values(ACCEPT).as_deref().and_then(ranges) {
        assert_eq!(wanted.content_type, right_type(&ranges), "{headers:?}");
    }
    if let Some(codings) = values(ACCEPT_ENCODING).as_deref().and_then(codings) {
        let named = ["gzip", "*"].iter().find_map(|name| {
            codings.iter().find(|(coding, _)| coding == name).map(|(_, weight)| weight)
        });
        assert_eq!(wanted.gzip, named.is_some_and(|weight| *weight > 0), "{headers:?}");
    }
}

/// The headers that an input stands for; what can be no header is left out.
pub(super) fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let is_encoding =
            line.get(..ENCODING.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(ENCODING));
        let (name, value) = match line.strip_prefix(b"accept:") {
            _ if is_encoding => (ACCEPT_ENCODING, &line[ENCODING.len()..]),
            Some(value) => (ACCEPT, value),
            None => (ACCEPT, line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
            headers.append(name, value);
        }
    }
    headers
}

/// A media range with its parameters, and its weight in thousandths.
struct Range {
    media: String,
    parameters: Vec<(String, String)>,
    weight: u32,
}

impl Range {
    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// How exactly it names a format; none if it does not.
    fn precision(&self, media: &str, version: &str) -> Option<u8> {
        let (kind, _) = media.split_once('/')?;
        match self.parameter("version") {
            _ if self.media == "*/*" => Some(0),
            _ if self.media.strip_suffix("/*") == Some(kind) => Some(1),
            None if self.media == media => Some(2),
            Some(asked) if self.media == media && asked == version => Some(3),
            _ => None,
        }
    }
}

/// The content type that these ranges ask for.
fn right_type(ranges: &[Range]) -> &'static str {
    // Of the ranges that name a format most exactly, the one of most weight.
    let best = |media: &str, version: &str| {
        let named = ranges
            .iter()
            .rev()
            .filter_map(|range| Some((range.precision(media, version)?, range.weight, range)));
        named.max_by_key(|(precision, weight, _)| (*precision, *weight))
    };
    let text = best("text/plain", "0.0.4");
    let Some((precision, weight, range)) = best("application/openmetrics-text", "1.0.0") else {
        return TEXT;
    };
    let text_weight = text.map_or(0, |(_, weight, _)| weight);
    let is_refused = text.is_some() && text_weight == 0;
    let is_named = precision >= 2 && weight >= text_weight;
    if weight == 0 || !(is_named || is_refused) {
        return TEXT;
    }
    let scheme = range.parameter("escaping").unwrap_or_default();
    OPEN_METRICS[usize::from(scheme.eq_ignore_ascii_case("allow-utf-8"))]
}

/// The ranges of an `Accept` as RFC 9110 writes it; none if it is anything else, or has quotes.
fn ranges(header: &str) -> Option<Vec<Range>> {
    elements(header).map(range).collect()
}

fn range(text: &str) -> Option<Range> {
    let mut parts = text.split(';').map(trimmed);
    let media = parts.next()?.to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/')?;
    let is_range = match (kind, subtype) {
        ("*", "*") => true,
        (kind, "*") => is_plain(kind),
        (kind, subtype) => is_plain(kind) && is_plain(subtype),
    };
    let mut range = Range { media: media.clone(), parameters: Vec::new(), weight: 1_000 };
    for part in parts {
        let (name, value) = part.split_once('=')?;
        let name = name.to_ascii_lowercase();
        if !is_plain(&name) || !is_plain(value) || range.parameter(&name).is_some() {
            return None;
        }
        if name == "q" {
            range.weight = weight(value)?;
        }
        range.parameters.push((name, value.to_owned()));
    }
    is_range.then_some(range)
}

/// The codings of an `Accept-Encoding` with their weights; none if one is there twice.
fn codings(header: &str) -> Option<Vec<(String, u32)>> {
    let mut codings: Vec<(String, u32)> = Vec::new();
    for element in elements(header) {
        let (name, weight) = match element.split_once(';') {
            Some((name, weight)) => (name, self::weight(trimmed(weight).strip_prefix("q=")?)?),
            None => (element, 1_000),
        };
        let name = trimmed(name).to_ascii_lowercase();
        let name = if name == "x-gzip" { "gzip".to_owned() } else { name };
        let is_coding = name == "*" || is_plain(&name);
        if !is_coding || codings.iter().any(|(other, _)| *other == name) {
            return None;
        }
        codings.push((name, weight));
    }
    Some(codings)
}

fn elements(header: &str) -> impl Iterator<Item = &str> {
    header.split(',').map(trimmed).filter(|element| !element.is_empty())
}

fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Whether it is a token without the signs that stand in no name, and not longer than names may be
/// (RFC 6838, section 4.2).
fn is_plain(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    let is_begun = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    is_begun && text.len() <= 127 && text.bytes().all(is_name)
}

/// A weight as RFC 9110 writes it, in thousandths.
fn weight(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_short = decimals.len() <= 3 && decimals.bytes().all(|digit| digit.is_ascii_digit());
    let decimals: u32 = format!("{decimals:0<3}").parse().ok().filter(|_| is_short)?;
    match whole {
        "0" => Some(decimals),
        "1" if decimals == 0 => Some(1_000),
        _ => None,
    }
}

//! What a scraper can read: the format by `Accept`, gzip by `Accept-Encoding` (RFC 9110, 12.5).

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};
use mediatype::names::Q;
use mediatype::{MediaType, MediaTypeList, Name, ReadParams, Value};

use crate::metrics::Format;

/// How an exposition is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) format: Format,
    /// The media type that parsers choose the format by.
    pub(super) content_type: &'static str,
    pub(super) gzip: bool,
}

/// The text format, for whoever does not say what it can read.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics. Its names need no escaping, so either scheme describes them.
pub(super) const OPEN_METRICS: [&str; 2] = [
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
];

impl Wanted {
    /// Reads the headers of a request; what cannot be read in them asks for nothing.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut text = Weight::default();
        let mut open_metrics = Weight::default();
        for range in values(headers, ACCEPT).flat_map(MediaTypeList::new).flatten() {
            text.consider(&range, ["text", "plain"], "0.0.4");
            open_metrics.consider(&range, ["application", "openmetrics-text"], "1.0.0");
        }
        // Who names OpenMetrics can read it; who takes anything may not expect it, but for the text.
        let is_named = open_metrics.precision >= Some(NAMED);
        let is_left = text.precision.is_some() && text.quality == 0.0;
        let is_better = is_left || (is_named && open_metrics.quality >= text.quality);
        let (format, content_type) = if is_better && open_metrics.quality > 0.0 {
            (Format::OpenMetrics, OPEN_METRICS[usize::from(open_metrics.utf8)])
        } else {
            (Format::Text, TEXT)
        };
        Self { format, content_type, gzip: takes_gzip(headers) }
    }
}

/// How exactly a range names a format: `*/*`, `type/*`, the type, the type with its version.
const NAMED: u8 = 2;

/// How much a format is wanted: what the range says that names it most exactly, of those that do so
/// alike the one that is wanted most.
#[derive(Default)]
struct Weight {
    precision: Option<u8>,
    quality: f32,
    /// Whether names may be UTF-8.
    utf8: bool,
}

impl Weight {
    /// Takes a range into account.
    fn consider(&mut self, range: &MediaType<'_>, names: [&str; 2], version: &str) {
        let [ty, subty] = [range.ty, range.subty];
        let precision = match param(range, "version") {
            _ if ty == "*" && subty == "*" => 0,
            _ if ty == names[0] && subty == "*" => 1,
            _ if [ty, subty] != names => return,
            None => NAMED,
            Some(asked) if asked == version => NAMED + 1,
            Some(_) => return,
        };
        let Some(quality) = quality(range) else { return };
        let precision = Some(precision);
        let is_better = precision == self.precision && quality > self.quality;
        if precision > self.precision || is_better {
            let scheme =
                param(range, "escaping").map(|scheme| scheme.unquoted_str().to_lowercase());
            let utf8 = scheme.as_deref() == Some("allow-utf-8");
            *self = Self { precision, quality, utf8 };
        }
    }
}

fn param<'r>(range: &'r MediaType<'_>, name: &str) -> Option<Value<'r>> {
    range.get_param(Name::new(name)?)
}

/// The weight of a range, 1 if it has none; nothing if it cannot be one.
fn quality(range: &MediaType<'_>) -> Option<f32> {
    range.get_param(Q).map_or(Some(1.0), |q| weight(q.as_str()))
}

/// A weight as RFC 9110 writes it: 0 to 1 with at most three decimals.
fn weight(text: &str) -> Option<f32> {
    let plain = text.len() <= 5 && text.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
    text.parse().ok().filter(|weight| plain && (0.0..=1.0).contains(weight))
}

/// Whether gzip is named, or anything is taken, with a weight above 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for coding in values(headers, ACCEPT_ENCODING).flat_map(|value| value.split(',')) {
        let (name, params) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let params = params.trim().to_ascii_lowercase();
        let is_taken =
            params.strip_prefix("q=").and_then(weight).is_some_and(|weight| weight > 0.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => return is_taken,
            "*" => any = is_taken,
            _ => {}
        }
    }
    any
}

fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn wanted(accept: &[&str]) -> &'static str {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, HeaderValue::from_str(line).expect("a header"));
        }
        Wanted::read(&headers).content_type
    }

    const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
        text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
        encoding=delimited;q=0.7,";
    const PROMETHEUS_2_42: &str = "application/openmetrics-text;version=1.0.0,\
        application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    #[test]
    fn prometheus_gets_open_metrics_in_the_escaping_that_it_asks_for() {
        let [underscores, utf8] = OPEN_METRICS;
        assert_eq!(wanted(&[PROMETHEUS_3]), utf8);
        assert_eq!(wanted(&[&format!("{PROTOBUF}{PROMETHEUS_3}")]), utf8);
        assert_eq!(wanted(&[PROMETHEUS_2_42]), underscores);
        assert_eq!(wanted(&PROMETHEUS_3.split(',').collect::<Vec<_>>()), utf8, "a line for each");
    }

    #[test]
    fn who_does_not_ask_for_open_metrics_gets_text() {
        for accept in [
            &[][..],
            &["*/*"],
            &[""],
            &["text/plain"],
            &["text/*;q=0.1"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["text/plain;version=1.0.0;escaping=allow-utf-8"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5"],
            &["application/openmetrics-text;q=0,*/*"],
            &["text/plain;q=0.5,*/*;q=0.8"],
            &["text/html,text/plain;q=0.7,*/*;q=0.9"],
            &["application/*"],
            &["application/openmetrics-text;q=+0.5"],
            &["application/openmetrics-text;q=1e-1"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0.4,text/plain;q=0.5"],
            &["application/openmetrics-text;q=2"],
            &["application/openmetrics-text;q=NaN"],
            &["application/openmetrics-text;q="],
            &["application/openmetrics"],
            &["application/json"],
            &["text/plain;q=0, */*;q=0"],
            &["\u{fc}, \"; ,,;=", "nonsense"],
        ] {
            assert_eq!(wanted(accept), TEXT, "{accept:?}");
        }
    }

    #[test]
    fn who_names_open_metrics_at_least_as_much_as_text_or_refuses_text_gets_it() {
        let [underscores, utf8] = OPEN_METRICS;
        for (accept, expected) in [
            ("application/openmetrics-text", underscores),
            (
                "Application/OpenMetrics-Text; Version=\"1.0.0\" ; Q=0.5, text/plain;q=0.4",
                underscores,
            ),
            ("text/plain, application/openmetrics-text; version=1.0.0; charset=utf-8", underscores),
            ("*/*;q=0.1, text/plain;q=0, application/openmetrics-text;escaping=allow-utf-8", utf8),
            ("application/openmetrics-text;escaping=dots", underscores),
            ("application/openmetrics-text;ESCAPING=Allow-UTF-8", utf8),
            (
                "application/openmetrics-text;escaping=allow-utf-8;q=0.1, \
                 application/openmetrics-text;escaping=underscores;q=0.6",
                underscores,
            ),
            ("nonsense, application/openmetrics-text;version=1.0.0, also;nonsense", underscores),
            ("text/plain;q=0, */*", underscores),
            ("text/*;q=0, application/*;q=0.1", underscores),
        ] {
            assert_eq!(wanted(&[accept]), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        for (accept, expected) in [
            ("gzip", true),
            ("br, GZip;q=0.5", true),
            ("*", true),
            ("gzip;q=1.0, identity; q=0.5, *;q=0", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0, *", false),
            ("gzip; q=0.000", false),
            ("*;q=0", false),
            ("deflate, br, gzipped", false),
            ("gzip;q=x", false),
            ("x-gzip", true),
            ("gzip; Q=0.3", true),
            ("gzip;Q=0", false),
            ("gzip ; q = 0", false),
            ("gzip;level=1;q=0", false),
        ] {
            let value = HeaderValue::from_str(accept).expect("a header");
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value)]);
            assert_eq!(takes_gzip(&headers), expected, "{accept}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    proptest! {
        /// Whatever a header holds, it is read to its end.
        #[test]
        fn any_header_is_read(accept in "[ -~\t\u{80}-\u{ff}]{0,200}") {
            if let Ok(value) = HeaderValue::from_bytes(accept.as_bytes()) {
                let headers = HeaderMap::from_iter([(ACCEPT, value.clone()), (ACCEPT_ENCODING, value)]);
                let known = OPEN_METRICS.contains(&Wanted::read(&headers).content_type);
                prop_assert!(known || Wanted::read(&headers).content_type == TEXT);
            }
        }

        /// So is what looks like ranges.
        #[test]
        fn any_ranges_are_read(accept in "([*a-z]{1,2}/[*+a-z]{1,2}(;[qv]=\"?[0-9.a]{0,3}\"?){0,2} ?,?){0,4}") {
            let value = HeaderValue::from_str(&accept).expect("a header");
            let headers = HeaderMap::from_iter([(ACCEPT, value)]);
            prop_assert_eq!(Wanted::read(&headers).content_type, TEXT);
        }
    }
}

//! The properties hold for the seeds, for inputs that are almost right, and for any bytes.

use axum::body::Body;
use axum::http::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{accept, batch, job, scrapers};
use crate::fuzzing::inputs::{hold_for_any, hold_for_seeds};
use crate::server::Routes;
use crate::server::accept::Wanted;
use crate::server::batch::MAX_ITEMS;
use crate::server::fixture::Fixture;

/// The fields of a job, as they should be and not.
const FIELDS: &[&str] = &[
    r#""kind":"welcome""#,
    r#""kind" : "k:1.2-3_4""#,
    r#""kind":"\u0061""#,
    r#""kind":"a b""#,
    r#""kind":null"#,
    r#""queue":"emails""#,
    r#""queue":"__other__""#,
    r#""payload":{"a":[1,1.0e2,-0,1e400,"\u00e9\ud83d\ude00"],"a":null}"#,
    r#""payload":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"#,
    r#""payload":"[[[[\"\\""#,
    r#""payload": null "#,
    r#""priority":0"#,
    r#""priority":10"#,
    r#""priority":-0"#,
    r#""priority":1e2"#,
    r#""priority":18446744073709551616"#,
    r#""run_at":"2026-03-01T12:00:00.123456789+02:00""#,
    r#""run_at":"9999-12-30T22:00:00z""#,
    r#""run_at":"1969-12-31T23:59:59Z""#,
    r#""delay":"36500d""#,
    r#""delay":"999999999ms""#,
    r#""delay":"1.5s""#,
    r#""max_attempts":1000000"#,
    r#""max_attempts":0"#,
    r#""timeout":"0s""#,
    r#""timeout":"366d""#,
    r#""unique_key":"\u0000\"é""#,
    r#""unique_key":"""#,
    r#""unique_until":"done""#,
    r#""unique_until":{"gone":null}"#,
    r#""traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01""#,
    r#""traceparent":"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x\n""#,
    r#""no":1"#,
    r#""\u0001":1"#,
];

/// What damages JSON, or an array or lines of it.
const DAMAGES: &[&str] =
    &["", "\"", "\\", ",", "]", "}", "[", "{", "\n", " ", "\u{b}", "é", "\0", "null", "]x"];

/// One of the fields left out or repeated, one place damaged.
fn damaged(text: &str, place: &Index, damage: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let at = place.index(bytes.len() + 1);
    bytes.splice(at..at, damage.bytes());
    bytes
}

fn any_job() -> impl Strategy<Value = String> {
    vec(select(FIELDS), 0..6).prop_map(|mut fields| {
        fields.insert(fields.len() / 2, FIELDS[0]);
        fields.dedup();
        format!("{{{}}}", fields.join(","))
    })
}

fn any_damage() -> impl Strategy<Value = (Index, &'static str)> {
    (any::<Index>(), prop_oneof![3 => Just(""), 1 => select(DAMAGES)])
}

#[test]
fn an_accepted_job_is_what_was_sent_and_a_refused_one_is_told_where() {
    hold_for_seeds("job", job);
    hold_for_any(6_000, &(any_job(), any_damage()), |(text, (place, damage))| {
        job(&damaged(&text, &place, damage));
    });
    hold_for_any(2_000, &vec(any::<u8>(), 0..200), |bytes| job(&bytes));
}

#[test]
fn a_batch_is_taken_whole_or_its_first_bad_item_is_named() {
    hold_for_seeds("batch", batch);
    let separators = select(&[",", "\n", ",\n", "\n\n", " , ", ""][..]);
    let shape = (vec(any_job(), 0..6), separators, any::<bool>(), any_damage());
    hold_for_any(4_000, &shape, |(jobs, separator, is_array, (place, damage))| {
        let all = jobs.join(separator);
        let all = if is_array { format!("[{all}]") } else { all };
        batch(&damaged(&all, &place, damage));
    });
}

#[test]
fn of_many_short_items_no_more_are_held_than_allowed() {
    for item in ["{}", r#"{"kind":"a"}"#, "[]", "1"] {
        for (count, last) in [(MAX_ITEMS, ""), (MAX_ITEMS + 1, ""), (MAX_ITEMS, "}")] {
            for separator in [",", "\n"] {
                batch(format!("[{}{last}]", vec![item; count].join(separator)).as_bytes());
                batch(format!("{}{last}", vec![item; count].join(separator)).as_bytes());
            }
        }
    }
}

#[test]
fn nesting_without_end_is_refused_and_held_once() {
    for (open, close) in [("[", "]"), (r#"{"":"#, "}")] {
        let nest = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        for levels in [31, 32, 33, 127, 128, 129, 100_000] {
            let deep = nest(levels);
            let field = format!(r#"{{"kind":"a","payload":{deep}}}"#);
            for text in [&deep, &field, &format!(r#"{{"kind":{deep}}}"#), &deep[..deep.len() / 2]] {
                job(text.as_bytes());
                batch(text.as_bytes());
                batch(format!("[{text}]").as_bytes());
            }
        }
    }
}

/// The parts of header values, as they should be and not.
const PARTS: &[&str] = &[
    "text/plain",
    "Text/*",
    "*/*",
    "application/*",
    "application/openmetrics-text",
    "application/json",
    "gzip",
    "x-gzip",
    "*",
    "identity",
    ";version=0.0.4",
    "; version=1.0.0",
    ";version=\"1.0.0\"",
    ";q=0",
    ";q=0.000",
    ";q=0.5",
    "; Q=0.50",
    ";q=1",
    ";q=1.001",
    ";q=-0",
    ";q=",
    ";escaping=allow-utf-8",
    ";escaping=underscores",
    ";",
    "/",
    "\u{e9}",
    "\t",
];

fn any_lines() -> impl Strategy<Value = String> {
    let range = (select(&PARTS[..10]), vec(select(PARTS), 0..2)).prop_map(|(media, more)| {
        let begins = |part: &&str| part.starts_with([';', '/', '\t', '\u{e9}']);
        media.to_owned() + &more.into_iter().filter(begins).collect::<String>()
    });
    let name = select(&["accept: ", "accept-encoding: ", "Accept-Encoding:", ""][..]);
    let line = (name, vec(range, 0..5)).prop_map(|(name, all)| name.to_owned() + &all.join(", "));
    vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

#[test]
fn a_scraper_gets_what_its_headers_allow() {
    hold_for_seeds("accept", accept);
    hold_for_any(20_000, &any_lines(), |lines| accept(lines.as_bytes()));
    hold_for_any(2_000, &vec(any::<u8>(), 0..200), |bytes| accept(&bytes));
}

#[test]
fn no_headers_of_a_scraper_fail_its_scrape() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(async { Fixture::new(|_| {}) });
    hold_for_seeds("accept", |lines| {
        let mut request = Request::get("/metrics").header("host", "localhost");
        let headers = scrapers::headers(lines);
        let wanted = Wanted::read(&headers);
        request.headers_mut().expect("it is valid so far").extend(headers);
        let request = request.body(Body::empty()).expect("a valid request");
        let answer = runtime.block_on(server.send(Routes::Whole, request));
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()[CONTENT_TYPE], wanted.content_type);
        assert_eq!(answer.headers().contains_key(CONTENT_ENCODING), wanted.gzip);
    });
}

//! How lines become batches.

use std::io::Cursor;
use std::time::Duration;

use super::*;
use crate::client::UniqueUntil;

fn batches(text: &str, job: &NewJob, key_prefix: Option<&str>) -> Vec<Result<Batch, BadLine>> {
    let reader = Box::new(Cursor::new(text.as_bytes().to_vec()));
    let source = Source { name: "f".into(), bytes: None, reader };
    Batches::new(source, Rules::new(job, key_prefix.map(str::to_owned))).collect()
}

/// The only batch as text, and how many of its lines have no key.
fn written(text: &str, job: &NewJob, key_prefix: Option<&str>) -> (String, u64) {
    let all = batches(text, job, key_prefix);
    let [Ok(batch)] = &all[..] else { panic!("{text}: {all:?}") };
    (String::from_utf8(batch.text.clone()).expect("it is text"), batch.without_key)
}

/// Line and complaint of the bad line at the end.
fn bad(text: &str) -> (u64, String) {
    let all = batches(text, &NewJob::default(), None);
    let Some(Err(bad)) = all.last() else { panic!("no bad line: {text}") };
    (bad.number, bad.why.clone())
}

fn sizes(text: &str) -> Vec<usize> {
    let all = batches(text, &NewJob::default(), None).into_iter();
    all.map(|batch| batch.expect("all are good").lines.len()).collect()
}

#[test]
fn lines_stay_byte_for_byte() {
    let text = "{\"kind\":\"a\", \"payload\": { \"b\" : 1.0e2 }}\r\n\n  {\"kind\":\"b\"}  ";
    let (lines, without_key) = written(text, &NewJob::default(), None);
    assert_eq!(lines, "{\"kind\":\"a\", \"payload\": { \"b\" : 1.0e2 }}\n{\"kind\":\"b\"}\n");
    assert_eq!(without_key, 2);
}

#[test]
fn a_line_gets_what_it_does_not_say() {
    let job = NewJob {
        kind: "k".into(),
        queue: Some("q".into()),
        delay: Some(Duration::from_secs(1)),
        unique_until: Some(UniqueUntil::Done),
        ..NewJob::default()
    };
    for (line, wanted) in [
        ("{}", r#"{"delay":"1s","kind":"k","queue":"q"}"#),
        (r#"{ "kind":"a","run_at":"x"}"#, r#"{"queue":"q", "kind":"a","run_at":"x"}"#),
        (
            r#"{"unique_key":"u","queue":null}"#,
            r#"{"delay":"1s","kind":"k","unique_until":"done","unique_key":"u","queue":null}"#,
        ),
    ] {
        assert_eq!(written(line, &job, None).0, format!("{wanted}\n"));
    }
}

#[test]
fn keys_by_number_count_the_lines_of_the_file() {
    let text = "\n{\"kind\":\"a\"}\n{\"kind\":\"b\",\"unique_key\":\"own\"}\n{\"kind\":\"c\"}";
    let (lines, without_key) = written(text, &NewJob::default(), Some("p"));
    let wanted = "{\"unique_key\":\"p:2\",\"kind\":\"a\"}\n\
                  {\"kind\":\"b\",\"unique_key\":\"own\"}\n\
                  {\"unique_key\":\"p:4\",\"kind\":\"c\"}\n";
    assert_eq!((lines.as_str(), without_key), (wanted, 0));
}

#[test]
fn a_bad_line_is_named_and_comes_after_those_before_it() {
    let good = "{\"kind\":\"a\"}\n";
    let all = batches(&format!("{good}\n{good}{{\"kind\":}}\n{good}"), &NewJob::default(), None);
    let [Ok(batch), Err(last)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(batch.lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(last.number, 4);
    assert!(last.why.ends_with("not JSON: expected value at column 9"), "{}", last.why);
    for (text, number, why) in [
        ("{}", 1, "it needs a \"kind\""),
        ("[{}]", 1, "`jq -c .[]`"),
        ("\n7", 2, "must be a JSON object"),
        ("{\"kind\":\"a\"} {}", 1, "trailing characters"),
        ("\u{feff}{}", 1, "not JSON"),
    ] {
        let (found, said) = bad(text);
        assert!(found == number && said.contains(why), "{text}: {found}: {said}");
    }
}

#[test]
fn batches_are_bounded_in_lines_and_bytes() {
    let line = "{\"kind\":\"a\"}\n";
    assert_eq!(sizes(&line.repeat(2 * BATCH_LINES + 1)), [BATCH_LINES, BATCH_LINES, 1]);
    let long = format!("{{\"kind\":\"a\",\"payload\":\"{}\"}}\n", "x".repeat(3 << 20));
    assert_eq!(sizes(&long.repeat(5)), [2, 2, 1]);
    let (number, why) = bad(&format!("{line}{}", "x".repeat(MAX_LINE_BYTES + 1)));
    assert_eq!(number, 2);
    assert!(why.starts_with("a line may have at most"), "{why}");
}

#[test]
fn a_key_that_the_end_of_its_job_frees_is_no_reason_to_send_a_line_again() {
    let until = |until| NewJob { unique_until: until, kind: "k".into(), ..NewJob::default() };
    let (none, done, gone) =
        (until(None), until(Some(UniqueUntil::Done)), until(Some(UniqueUntil::Gone)));
    for (line, job, is_repeatable) in [
        (r#"{"unique_key": "a"}"#, &none, true),
        (r#"{"unique_key": "a"}"#, &gone, true),
        (r#"{"unique_key": "a"}"#, &done, false),
        (r#"{"unique_key": "a", "unique_until": "done"}"#, &none, false),
        (r#"{"unique_key": "a", "unique_until": "gone"}"#, &done, true),
        (r#"{}"#, &none, false),
    ] {
        let all = batches(line, job, None);
        let [Ok(batch)] = &all[..] else { panic!("{line}: {all:?}") };
        assert_eq!(batch.is_repeatable(), is_repeatable, "{line}");
    }
}

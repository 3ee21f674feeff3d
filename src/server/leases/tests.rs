//! What requests of outside workers may say.

use super::*;

fn claim(text: &str) -> Result<(Claim, Duration), ApiError> {
    json::object::<LeaseRequest>(text.as_bytes())?.claim()
}

fn finish_one(text: &str) -> Result<Finish, ApiError> {
    let body = Bytes::copy_from_slice(text.as_bytes());
    read_finish(&body, &body)
}

fn refusal(error: ApiError) -> (Code, Option<String>) {
    (error.code, error.field)
}

#[test]
fn a_lease_request_needs_only_queues() {
    let (asked, wait) = claim(r#"{"queues":["critical","low"]}"#).expect("valid");
    assert_eq!(asked.queues, ["critical", "low"]);
    assert_eq!((asked.max, asked.max_bytes, wait), (1, 16 << 20, Duration::ZERO));
    assert!(asked.duration.is_none() && asked.worker.is_none() && !asked.own);
    let (asked, wait) =
        claim(r#"{"queues":["a"],"max":1000,"wait":"60s","duration":"1h","worker":"host-1"}"#)
            .expect("valid");
    assert_eq!(
        (asked.max, wait, asked.duration),
        (1_000, *LONG_POLL.end(), Some(*limits::LEASE.end()))
    );
    assert_eq!(asked.worker.as_deref(), Some("host-1"));
}

#[test]
fn a_lease_request_is_bounded() {
    let many = format!(r#"{{"queues":[{}]}}"#, vec![r#""a""#; 101].join(","));
    let worker = format!(r#"{{"queues":["a"],"worker":"{}"}}"#, "w".repeat(201));
    for (text, code, field) in [
        ("{}", Code::MissingField, "queues"),
        (r#"{"queues":[]}"#, Code::InvalidField, "queues"),
        (&many, Code::InvalidField, "queues"),
        (r#"{"queues":["a","b c"]}"#, Code::InvalidName, "queues[1]"),
        (r#"{"queues":["a"],"max":0}"#, Code::InvalidField, "max"),
        (r#"{"queues":["a"],"max":1001}"#, Code::InvalidField, "max"),
        (r#"{"queues":["a"],"wait":"61s"}"#, Code::InvalidField, "wait"),
        (r#"{"queues":["a"],"wait":1}"#, Code::InvalidField, "wait"),
        (r#"{"queues":["a"],"duration":"999ms"}"#, Code::InvalidField, "duration"),
        (r#"{"queues":["a"],"duration":"61m"}"#, Code::InvalidField, "duration"),
        (&worker, Code::InvalidField, "worker"),
        (r#"{"queues":["a"],"own":true}"#, Code::UnknownField, "own"),
    ] {
        assert_eq!(refusal(claim(text).expect_err(text)), (code, Some(field.into())), "{text}");
    }
}

#[test]
fn each_outcome_has_its_fields() {
    let lease = Lease { job: JobId::new(77 << 12, 3), secret: [7; 16] };
    let read = |rest: &str| finish_one(&format!(r#"{{"lease":"{lease}",{rest}}}"#));
    let done = read(r#""outcome":"completed","result": {"a": 1} "#).expect("valid");
    assert_eq!((done.lease, done.outcome), (lease, Outcome::Completed));
    assert_eq!(done.result.as_deref(), Some(&br#"{"a": 1}"#[..]));
    let failed = read(r#""outcome":"failed","error":"no","retry_in":"5s","permanent":true"#);
    let failed = failed.expect("valid");
    let retry_in = Duration::from_secs(5);
    assert_eq!(failed.outcome, Outcome::Failed { permanent: true, retry_in });
    assert_eq!(failed.error.as_deref(), Some("no"));
    let released = read(r#""outcome":"released""#).expect("valid");
    assert_eq!(released.outcome, Outcome::Released { retry_in: Duration::ZERO });

    for (rest, code, field) in [
        (r#""outcome":"completed","error":"no""#, Code::UnknownField, "error"),
        (r#""outcome":"completed","retry_in":"1s""#, Code::UnknownField, "retry_in"),
        (r#""outcome":"failed","result":1"#, Code::UnknownField, "result"),
        (r#""outcome":"released","permanent":false"#, Code::UnknownField, "permanent"),
        (r#""outcome":"failed","retry_in":"soon""#, Code::InvalidField, "retry_in"),
        (r#""outcome":"timed_out""#, Code::InvalidField, "outcome"),
        (r#""result":1"#, Code::MissingField, "outcome"),
    ] {
        assert_eq!(refusal(read(rest).expect_err(rest)), (code, Some(field.into())), "{rest}");
    }
    assert_eq!(
        refusal(finish_one(r#"{"outcome":"completed"}"#).expect_err("no lease")),
        (Code::MissingField, Some("lease".into()))
    );
}

#[test]
fn results_and_errors_are_bounded() {
    let result = |bytes: usize| {
        let text = format!(r#""{}""#, "r".repeat(bytes - 2));
        finish_one(&format!(r#"{{"lease":"x","outcome":"completed","result":{text}}}"#))
    };
    assert!(result(64 << 10).is_ok());
    assert_eq!(result((64 << 10) + 1).expect_err("too large").code, Code::ResultTooLarge);
    let error = |bytes: usize| {
        let text = "e".repeat(bytes);
        finish_one(&format!(r#"{{"lease":"x","outcome":"failed","error":"{text}"}}"#))
    };
    assert!(error(64 << 10).is_ok());
    assert_eq!(error((64 << 10) + 1).expect_err("too long").code, Code::ErrorTooLong);
    let deep = format!("{}1{}", "[".repeat(33), "]".repeat(33));
    let deep = finish_one(&format!(r#"{{"lease":"x","outcome":"completed","result":{deep}}}"#));
    assert_eq!(deep.expect_err("too deep").code, Code::JsonTooDeep);
}

#[test]
fn text_that_is_no_lease_is_one_that_no_job_has() {
    for text in ["", "x", "0190163d-8694-739b-aea5-966c26f8ad91"] {
        assert_eq!(parse_lease(text), invented_lease());
    }
    let renewal = json::object::<RenewRequest>(br#"{"leases":["no","such"]}"#)
        .and_then(RenewRequest::renewal)
        .expect("valid");
    assert_eq!(renewal.leases, [invented_lease(), invented_lease()]);
}

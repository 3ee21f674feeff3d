//! What must hold for any body of a create, of one job or of many.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};

use crate::clock::Timestamp;
use crate::config::{Policy, duration};
use crate::fuzzing::within;
use crate::job::State;
use crate::server::batch::{self, MAX_ITEMS};
use crate::server::body::{Media, Received};
use crate::server::error::{ApiError, Code};
use crate::server::job_view::JobView;
use crate::server::room::Rooms;
use crate::server::{job_request, json};
use crate::store::{Job, JobId, NewJob, Start, UniqueUntil};

/// The least that `max_payload` may be, which inputs often pass, and what it is by default.
const MAX_PAYLOADS: [usize; 2] = [1 << 10, 1 << 20];

/// What reading a job may hold for each byte: the fields once, and the state of the parser.
const JOB_FACTOR: usize = 4;

/// The same for many jobs, of which the shortest have 12 bytes, and a list of them that grows.
const BATCH_FACTOR: usize = 64;

/// The longest message: what it repeats of the caller, and the words around.
const MAX_MESSAGE_CHARS: usize = 300;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The body of `POST /v1/jobs`.
///
/// A job that is accepted keeps its payload byte for byte, is within all limits, and is the same
/// job when it is written and read again. One that is refused is told where and why.
pub fn job(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    for max_bytes in MAX_PAYLOADS {
        let read = || job_request::read(&body, &body, max_bytes);
        match within(JOB_FACTOR, bytes.len(), read) {
            Ok(job) => check_accepted(&job, &body, max_bytes),
            Err(refused) => check_refused(&refused, bytes, max_bytes),
        }
    }
}

/// The body of `POST /v1/jobs/batch`, as an array and as lines.
///
/// All jobs are accepted, each as it would be alone, or the first bad one is named by its index.
pub fn batch(bytes: &[u8]) {
    let text = Bytes::copy_from_slice(bytes);
    for media in [Media::Json, Media::NdJson] {
        let received = Received { text: text.clone(), media, room: Rooms::new().enter() };
        let read = |item: &[u8]| job_request::read(item, &text, MAX_PAYLOADS[0]);
        let found = within(BATCH_FACTOR, bytes.len(), || batch::items(&received, read));
        match media {
            Media::Json => check_array(&found, &text),
            Media::NdJson => check_lines(&found, &text),
        }
    }
}

fn check_accepted(job: &NewJob, body: &Bytes, max_bytes: usize) {
    assert!(body.len() <= max_bytes);
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).expect("it is an object, or it would not be a job");
    let sent = fields.get("payload").map_or("null", |payload| payload.get());
    assert_eq!(job.payload, sent, "the payload stays byte for byte");
    assert!(depth(&job.payload) <= 32, "it nests too deep");
    for name in [&job.kind, &job.queue] {
        let first = name.chars().next().expect("a name is not empty");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        assert!(first.is_ascii_alphanumeric() && name.chars().all(is_plain), "{name}");
        assert!(name.len() <= 128, "{name}");
    }
    assert!(job.priority <= 9);
    assert!(job.max_attempts.is_none_or(|most| (1..=1_000_000).contains(&most)));
    assert!(job.timeout.is_none_or(|timeout| timeout <= 365 * DAY));
    match job.start {
        Start::Now => {}
        Start::At(at) => assert!((Timestamp(0)..=Timestamp::MAX).contains(&at)),
        Start::After(delay) => assert!(delay <= 36_500 * DAY),
    }
    let key = job.unique.as_ref().map_or(1, |unique| unique.key.len());
    assert!((1..=200).contains(&key));
    let trace = job.traceparent.as_deref().unwrap_or_default();
    assert!(trace.len() <= 256 && trace.bytes().all(|byte| byte.is_ascii_graphic()));
    let again = Bytes::from(written(job));
    assert_eq!(job_request::read(&again, &again, usize::MAX).as_ref(), Ok(job));
    check_answer(job);
}

/// The job as a request that leaves nothing to defaults.
fn written(job: &NewJob) -> Vec<u8> {
    let payload = String::from_utf8(job.payload.to_vec()).expect("JSON is UTF-8");
    let payload = RawValue::from_string(payload).expect("the payload is JSON");
    let mut fields = BTreeMap::from([("payload", payload)]);
    let mut put = |name, value: serde_json::Value| {
        fields.insert(name, to_raw_value(&value).expect("a value has a text"));
    };
    put("kind", job.kind.as_str().into());
    put("queue", job.queue.as_str().into());
    put("priority", job.priority.into());
    match job.start {
        Start::Now => {}
        Start::At(at) => put("run_at", at.to_string().into()),
        Start::After(delay) => put("delay", duration::format(delay).into()),
    }
    put("max_attempts", job.max_attempts.into());
    put("timeout", job.timeout.map(duration::format).into());
    put("traceparent", job.traceparent.as_deref().into());
    if let Some(unique) = &job.unique {
        let until = if unique.until == UniqueUntil::Gone { "gone" } else { "done" };
        put("unique_key", unique.key.as_str().into());
        put("unique_until", until.into());
    }
    serde_json::to_vec(&fields).expect("its parts are JSON")
}

/// What the caller is answered is what the caller sent.
fn check_answer(job: &NewJob) {
    let (at, policy) = (Timestamp(0), Policy::default());
    let stored = Job::created(JobId::new(1, 1), job.clone(), State::Ready, at, at, &policy);
    let answer = json::text(&JobView::from(&stored));
    let fields: BTreeMap<&str, &RawValue> =
        serde_json::from_slice(&answer).expect("an answer is an object");
    assert_eq!(fields["payload"].get(), job.payload);
    let text = |name: &str| serde_json::from_str::<Option<String>>(fields[name].get()).ok();
    assert_eq!(text("kind"), Some(Some(job.kind.clone())));
    assert_eq!(text("queue"), Some(Some(job.queue.clone())));
    assert_eq!(text("traceparent"), Some(job.traceparent.clone()));
    assert_eq!(text("unique_key"), Some(job.unique.as_ref().map(|unique| unique.key.clone())));
}

/// A refusal names a field or a position, repeats little, and is the caller's mistake.
fn check_refused(refused: &ApiError, text: &[u8], max_bytes: usize) {
    let ApiError { code, message, field, index } = refused;
    assert!([400, 413].contains(&code.status().as_u16()), "{refused:?}");
    assert!((1..=MAX_MESSAGE_CHARS).contains(&message.chars().count()), "{refused:?}");
    assert!(field.as_ref().is_none_or(|field| field.chars().count() <= 200), "{refused:?}");
    assert_eq!(*index, None, "it is one job");
    assert_eq!(*code == Code::JobTooLarge, text.len() > max_bytes, "{refused:?}");
    let is_told = match code {
        Code::JobTooLarge => message.contains(&text.len().to_string()),
        Code::InvalidJson => names_place(message, text),
        Code::JsonTooDeep => field.as_deref() == Some("payload") || names_place(message, text),
        Code::InvalidField => field.is_some() || message == "must be a JSON object",
        Code::UnknownField => field.as_ref().is_some_and(|field| has_field(text, field)),
        Code::MissingField | Code::InvalidName => field.is_some(),
        _ => false,
    };
    assert!(is_told, "{refused:?}");
}

/// Whether a field of an object begins so; also if the object is broken, perhaps behind that field.
fn has_field(text: &[u8], begin: &str) -> bool {
    let fields = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(text);
    fields.map_or(true, |fields| fields.keys().any(|name| name.chars().take(200).eq(begin.chars())))
}

/// Whether a message ends with a line and a column that the text has.
fn names_place(message: &str, text: &[u8]) -> bool {
    let place = || {
        let (line, column) = message.rsplit_once(" at line ")?.1.split_once(" column ")?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
    };
    let lengths: Vec<_> = text.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
    place().is_some_and(|(line, column)| {
        line.checked_sub(1)
            .and_then(|line| lengths.get(line))
            .is_some_and(|most| column <= most + 1)
    })
}

/// How deep JSON nests.
fn depth(json: &[u8]) -> usize {
    let (mut deepest, mut open, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => open += 1,
            b']' | b'}' if !in_string => open -= 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

type Found = Result<Vec<NewJob>, ApiError>;

/// Lines are what they are alone, up to the first bad one.
fn check_lines(found: &Found, text: &Bytes) {
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(number, line)| (number, line.trim_ascii()));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
    let items: Vec<_> = lines.iter().map(|(_, line)| *line).collect();
    let Some((index, alone)) = check_items(found, &items, text) else { return };
    let refused = found.as_ref().expect_err("it was found bad");
    let place = format!("line {}: ", lines[index].0 + 1);
    let said = refused.message.strip_prefix(&place).expect("the line is named");
    assert_eq!(said, alone.message.replace(" at line 1 column ", " at column "));
}

/// So are the items of an array, once it is JSON; before that, it is told where it is not.
fn check_array(found: &Found, text: &Bytes) {
    let Some(rest) = without_space(text).strip_prefix(b"[") else {
        let refused = found.as_ref().expect_err("it is no array");
        let told = match refused.code {
            Code::InvalidJson => names_place(&refused.message, text),
            code => code == Code::InvalidField && refused.message.contains("a JSON array"),
        };
        assert!(told && refused.index.is_none(), "{refused:?}");
        return;
    };
    let (items, is_whole) = array_items(rest);
    if is_whole || items.len() > MAX_ITEMS {
        let bad = check_items(found, &items, text);
        let refused = bad.zip(found.as_ref().err());
        assert!(refused.is_none_or(|((_, alone), refused)| alone.message == refused.message));
    } else {
        let refused = found.as_ref().expect_err("it is no JSON");
        assert_eq!(refused.index, Some(items.len()), "{refused:?}");
        assert!(refused.code == Code::InvalidJson && names_place(&refused.message, text));
    }
}

/// All items are taken, or the first bad one is named, which is returned with what it is told alone.
fn check_items(found: &Found, items: &[&[u8]], body: &Bytes) -> Option<(usize, ApiError)> {
    let mut jobs = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if index == MAX_ITEMS {
            break;
        }
        match job_request::read(item, body, MAX_PAYLOADS[0]) {
            Ok(job) => jobs.push(job),
            Err(alone) if items.len() <= MAX_ITEMS || found.as_ref().is_err_and(is_of_item) => {
                let refused = found.as_ref().expect_err("an item is bad");
                assert_eq!(refused.index, Some(index), "{refused:?}");
                assert_eq!((refused.code, &refused.field), (alone.code, &alone.field));
                return Some((index, alone));
            }
            Err(_) => break,
        }
    }
    if items.len() > MAX_ITEMS {
        assert_eq!(found.as_ref().map_err(|refused| refused.code), Err(Code::TooManyItems));
    } else {
        assert_eq!(found.as_ref(), Ok(&jobs));
    }
    None
}

fn is_of_item(refused: &ApiError) -> bool {
    refused.index.is_some()
}

/// The items behind the bracket that begins an array, up to what is no JSON, and whether all is.
fn array_items(mut rest: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut items = Vec::new();
    if let Some(end) = without_space(rest).strip_prefix(b"]") {
        return (items, without_space(end).is_empty());
    }
    loop {
        rest = without_space(rest);
        let mut parser = serde_json::Deserializer::from_slice(rest);
        let Ok(item) = <&RawValue>::deserialize(&mut parser) else { return (items, false) };
        let (item, behind) = rest.split_at(item.get().len());
        rest = without_space(behind);
        items.push(item);
        match rest.split_first() {
            Some((b',', behind)) => rest = behind,
            Some((b']', end)) => return (items, without_space(end).is_empty()),
            _ => return (items, false),
        }
    }
}

fn without_space(text: &[u8]) -> &[u8] {
    let begin = text.iter().position(|byte| !b" \t\r\n".contains(byte));
    &text[begin.unwrap_or(text.len())..]
}

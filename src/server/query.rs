//! What comes in by path and query.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use schemars::JsonSchema;

use super::auth::Caller;
use super::error::{ApiError, Code};
use super::job_request::{NAME_PATTERN, checked_name};
use crate::config::name;
use crate::job::State;
use crate::store::{Filter, JobId};

/// The most jobs of one page: a page is read in one go, beside other readers.
const MAX_LIMIT: usize = 500;

/// The jobs of a page whose size nobody chose.
const DEFAULT_LIMIT: usize = 100;

/// The id in the path.
pub(super) struct JobPath(pub(super) JobId);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = segment(parts, state).await;
        text.parse().map(Self).map_err(|rule| {
            ApiError::new(Code::JobNotFound, format!("there is no job {text:?}; {rule}"))
        })
    }
}

/// The queue in the path, which is one that the caller's token is for.
pub(super) struct QueuePath(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for QueuePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let queue = checked_name("queue", segment(parts, state).await)?;
        let caller = parts.extensions.get::<Caller>().expect("the gate has let somebody in");
        caller.check_queue(&queue)?;
        Ok(Self(queue))
    }
}

/// The one variable part of the path; empty, which nothing is called, if it is not UTF-8.
async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> String {
    match Path::<String>::from_request_parts(parts, state).await {
        Ok(Path(text)) => text,
        Err(_) => String::new(),
    }
}

/// Which jobs to list.
#[derive(Default, JsonSchema)]
pub(super) struct ListQuery {
    /// Of this queue only.
    #[schemars(regex(pattern = NAME_PATTERN))]
    queue: Option<String>,
    /// Of this kind only.
    #[schemars(regex(pattern = NAME_PATTERN))]
    kind: Option<String>,
    /// In this state only: scheduled, ready, retrying, running, completed, cancelled or dead.
    state: Option<String>,
    /// At most so many, 100 if absent.
    #[schemars(with = "Option<u16>", range(min = 1, max = 500))]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ListQuery {
    /// Reads the query of a request; a parameter that is unknown or given twice is refused.
    pub(super) fn read(uri: &Uri) -> Result<Self, ApiError> {
        let invalid = |field: &str, message: &str| {
            ApiError::new(Code::InvalidQuery, format!("{field} {message}")).field(field)
        };
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::new(Code::InvalidQuery, error.to_string()))?;
        let mut query = Self::default();
        for (key, value) in pairs {
            let place = match key.as_str() {
                "queue" => &mut query.queue,
                "kind" => &mut query.kind,
                "state" => &mut query.state,
                "limit" => &mut query.limit,
                "cursor" => &mut query.cursor,
                _ => {
                    let known = "is unknown; use queue, kind, state, limit or cursor";
                    return Err(invalid(&key, known));
                }
            };
            if place.replace(value).is_some() {
                return Err(invalid(&key, "is given twice"));
            }
        }
        Ok(query)
    }

    /// The filter that it means.
    pub(super) fn filter(self) -> Result<Filter, ApiError> {
        let invalid = |field: &str, rule: &str| {
            ApiError::new(Code::InvalidQuery, format!("{field} must be {rule}")).field(field)
        };
        for (field, text) in [("queue", &self.queue), ("kind", &self.kind)] {
            if text.as_ref().is_some_and(|text| !name::is_valid(text)) {
                return Err(invalid(field, name::NAME_RULE));
            }
        }
        let state = match &self.state {
            None => None,
            Some(text) => Some(
                State::named(text)
                    .ok_or_else(|| invalid("state", &State::ALL.map(State::name).join(", ")))?,
            ),
        };
        let limit = match &self.limit {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| invalid("limit", &format!("1 to {MAX_LIMIT}")))?,
        };
        let cursor = match &self.cursor {
            None => None,
            Some(text) => {
                let cursor = read_cursor(text);
                Some(cursor.ok_or_else(|| invalid("cursor", "the next_cursor of a page"))?)
            }
        };
        Ok(Filter { queue: self.queue, kind: self.kind, state, limit, cursor })
    }
}

/// A cursor as callers see it; they are not to read anything into it.
pub(super) fn write_cursor(cursor: i64) -> String {
    format!("{cursor:016x}")
}

fn read_cursor(text: &str) -> Option<i64> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits).map(|cursor| cursor as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &str) -> Result<Filter, ApiError> {
        let uri: Uri = format!("/v1/jobs{query}").parse().expect("a URI");
        ListQuery::read(&uri)?.filter()
    }

    #[test]
    fn an_empty_query_lists_the_newest_hundred() {
        let expected = Filter { limit: 100, ..Filter::default() };
        assert_eq!(filter(""), Ok(expected.clone()));
        assert_eq!(filter("?"), Ok(expected));
    }

    #[test]
    fn every_parameter_is_read() {
        let cursor = write_cursor(77);
        let query = format!("?queue=a%3Ab&kind=k&state=dead&limit=500&cursor={cursor}");
        let expected = Filter {
            queue: Some("a:b".into()),
            kind: Some("k".into()),
            state: Some(State::Dead),
            limit: 500,
            cursor: Some(77),
        };
        assert_eq!(filter(&query), Ok(expected));
        for cursor in [0, -1, i64::MAX, i64::MIN] {
            assert_eq!(read_cursor(&write_cursor(cursor)), Some(cursor));
        }
    }

    #[test]
    fn bad_values_are_refused_and_never_clamped() {
        for (query, field) in [
            ("?limit=0", "limit"),
            ("?limit=501", "limit"),
            ("?limit=-1", "limit"),
            ("?limit=99999999999999999999", "limit"),
            ("?limit=", "limit"),
            ("?state=Dead", "state"),
            ("?queue=", "queue"),
            ("?queue=a%20b", "queue"),
            ("?kind=%ff", "kind"),
            ("?cursor=7", "cursor"),
            ("?cursor=%2b00000000000000f", "cursor"),
            ("?limit=1&limit=1", "limit"),
            ("?Limit=1", "Limit"),
        ] {
            let error = filter(query).expect_err(query);
            assert_eq!((error.code, error.field.as_deref()), (Code::InvalidQuery, Some(field)));
        }
    }
}

//! What a caller is told when a request is refused: one code per case.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::json;
use crate::metrics::Rejected;
use crate::store::{BackupError, StoreError};

/// Every case in which a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Code {
    InvalidRequest,
    HeadTooLarge,
    InvalidBody,
    InvalidJson,
    JsonTooDeep,
    UnknownField,
    MissingField,
    InvalidField,
    InvalidName,
    InvalidQuery,
    ResultTooLarge,
    ErrorTooLong,
    MissingHost,
    Unauthorized,
    Forbidden,
    CrossSite,
    TooManyQueues,
    RouteNotFound,
    JobNotFound,
    QueueNotFound,
    QueueNotConfigured,
    MethodNotAllowed,
    BodyTimeout,
    InvalidState,
    UniqueKeyHeld,
    QueueHasRunner,
    QueueNotEmpty,
    QueueConfigured,
    NoBackupDir,
    BackupRunning,
    BodyTooLarge,
    JobTooLarge,
    TooManyItems,
    UnsupportedMediaType,
    UnsupportedEncoding,
    Misdirected,
    QueueFull,
    TooManyFailures,
    RateLimited,
    InternalError,
    Draining,
    ServerBusy,
    StoreBusy,
    TooSlow,
    JobDamaged,
    StoreUnreadable,
    BackupFailed,
    StoreStopped,
    DiskFull,
}

impl Code {
    /// Its name in answers, its status, and what it is counted as.
    fn row(self) -> (&'static str, u16, Option<Rejected>) {
        use Rejected as R;
        match self {
            Self::InvalidRequest => ("invalid_request", 400, Some(R::InvalidRequest)),
            Self::HeadTooLarge => ("head_too_large", 431, Some(R::InvalidRequest)),
            Self::InvalidBody => ("invalid_body", 400, Some(R::InvalidRequest)),
            Self::InvalidJson => ("invalid_json", 400, Some(R::InvalidRequest)),
            Self::JsonTooDeep => ("json_too_deep", 400, Some(R::InvalidRequest)),
            Self::UnknownField => ("unknown_field", 400, Some(R::InvalidRequest)),
            Self::MissingField => ("missing_field", 400, Some(R::InvalidRequest)),
            Self::InvalidField => ("invalid_field", 400, Some(R::InvalidRequest)),
            Self::InvalidName => ("invalid_name", 400, Some(R::InvalidName)),
            Self::InvalidQuery => ("invalid_query", 400, Some(R::InvalidQuery)),
            Self::ResultTooLarge => ("result_too_large", 400, Some(R::PayloadTooLarge)),
            Self::ErrorTooLong => ("error_too_long", 400, Some(R::PayloadTooLarge)),
            Self::MissingHost => ("missing_host", 400, Some(R::UnknownHost)),
            Self::Unauthorized => ("unauthorized", 401, Some(R::Unauthorized)),
            Self::Forbidden => ("forbidden", 403, Some(R::Forbidden)),
            Self::CrossSite => ("cross_site", 403, Some(R::CrossSite)),
            Self::TooManyQueues => ("too_many_queues", 403, Some(R::TooManyQueues)),
            Self::RouteNotFound => ("route_not_found", 404, None),
            Self::JobNotFound => ("job_not_found", 404, None),
            Self::QueueNotFound => ("queue_not_found", 404, None),
            Self::QueueNotConfigured => ("queue_not_configured", 404, Some(R::UnknownQueue)),
            Self::MethodNotAllowed => ("method_not_allowed", 405, None),
            Self::BodyTimeout => ("body_timeout", 408, Some(R::Timeout)),
            Self::InvalidState => ("invalid_state", 409, None),
            Self::UniqueKeyHeld => ("unique_key_held", 409, None),
            Self::QueueHasRunner => ("queue_has_runner", 409, None),
            Self::QueueNotEmpty => ("queue_not_empty", 409, None),
            Self::QueueConfigured => ("queue_configured", 409, None),
            Self::NoBackupDir => ("no_backup_dir", 409, None),
            Self::BackupRunning => ("backup_running", 409, None),
            Self::BodyTooLarge => ("body_too_large", 413, Some(R::BodyTooLarge)),
            Self::JobTooLarge => ("job_too_large", 413, Some(R::PayloadTooLarge)),
            Self::TooManyItems => ("too_many_items", 413, Some(R::BodyTooLarge)),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", 415, Some(R::UnsupportedMediaType))
            }
            Self::UnsupportedEncoding => {
                ("unsupported_encoding", 415, Some(R::UnsupportedMediaType))
            }
            Self::Misdirected => ("misdirected", 421, Some(R::UnknownHost)),
            Self::QueueFull => ("queue_full", 429, Some(R::QueueFull)),
            Self::TooManyFailures => ("too_many_failures", 429, Some(R::Unauthorized)),
            Self::RateLimited => ("rate_limited", 429, Some(R::ServerBusy)),
            Self::InternalError => ("internal_error", 500, None),
            Self::Draining => ("draining", 503, Some(R::Draining)),
            Self::ServerBusy => ("server_busy", 503, Some(R::ServerBusy)),
            Self::StoreBusy => ("store_busy", 503, Some(R::StoreBusy)),
            Self::TooSlow => ("too_slow", 503, Some(R::Timeout)),
            Self::JobDamaged => ("job_damaged", 503, None),
            Self::StoreUnreadable => ("store_unreadable", 503, None),
            Self::BackupFailed => ("backup_failed", 503, None),
            Self::StoreStopped => ("store_stopped", 503, None),
            Self::DiskFull => ("disk_full", 507, Some(R::DiskFull)),
        }
    }

    /// Its name in answers.
    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    /// Its status.
    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).expect("the table holds valid numbers only")
    }

    /// What it is counted as in `tallyd_rejected_total`, if it is a limit or a malformed request.
    pub(super) fn rejected(self) -> Option<Rejected> {
        self.row().2
    }

    /// After how many seconds the same request may do better.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::ServerBusy | Self::StoreBusy | Self::TooManyFailures | Self::RateLimited => {
                Some(1)
            }
            Self::QueueFull | Self::Draining => Some(5),
            _ => None,
        }
    }
}

/// A refused request: the case, and what its caller can do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiError {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) field: Option<String>,
    pub(super) index: Option<usize>,
}

/// An error answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ErrorView<'a> {
    error: ErrorDetail<'a>,
}

/// What was wrong.
#[derive(Serialize, JsonSchema)]
struct ErrorDetail<'a> {
    /// The case; new ones may be added.
    code: &'a str,
    /// What the caller can do, for people.
    message: &'a str,
    /// The field of the request that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// The item of the request, counted from 0, that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

impl ApiError {
    /// A refusal that is about the request as a whole.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, index: None }
    }

    /// A value that does not fit its field.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidField, message).field(field)
    }

    /// Names the field that it is about.
    pub(super) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the item that it is about.
    pub(super) fn at(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }

    /// What its answer says.
    pub(super) fn view(&self) -> ErrorView<'_> {
        let Self { code, message, field, index } = self;
        let (field, index) = (field.as_deref(), *index);
        ErrorView { error: ErrorDetail { code: code.name(), message, field, index } }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::InBatch { .. } => return in_batch(error),
            StoreError::NoSuchJob(_) => Code::JobNotFound,
            StoreError::NoSuchQueue(_) => Code::QueueNotFound,
            StoreError::UnconfiguredQueue(_) => Code::QueueNotConfigured,
            StoreError::TooManyQueues { .. } => Code::TooManyQueues,
            StoreError::QueueFull { .. } => Code::QueueFull,
            StoreError::InvalidTransition(_) => Code::InvalidState,
            StoreError::UniqueKeyHeld { .. } => Code::UniqueKeyHeld,
            StoreError::QueueNotEmpty { .. } => Code::QueueNotEmpty,
            StoreError::QueueConfigured(_) => Code::QueueConfigured,
            StoreError::Backup(error) => backup_code(error),
            StoreError::DiskFull => Code::DiskFull,
            StoreError::Busy => Code::StoreBusy,
            StoreError::Unreadable(_) => Code::StoreUnreadable,
            StoreError::Damaged { .. } => Code::JobDamaged,
            StoreError::TooSlow(_) => Code::TooSlow,
            StoreError::Stopped(_) => Code::StoreStopped,
        };
        let advice = match code {
            Code::JobNotFound => "; it never was, or retention or an operator removed it",
            Code::TooManyQueues => "; use one that exists, or raise the limit",
            Code::QueueFull => "; try again later",
            Code::JobDamaged => "; stop tallyd and look at its file, others are served still",
            Code::QueueNotEmpty => "; cancel or discard them first",
            Code::NoBackupDir => "; set it in the configuration, and start tallyd again",
            Code::BackupRunning => "; try again when it has ended",
            Code::QueueNotConfigured => "; use a configured queue, or configure it",
            _ => "",
        };
        Self::new(code, format!("{error}{advice}"))
    }
}

fn backup_code(error: &BackupError) -> Code {
    match error {
        BackupError::NoDirectory => Code::NoBackupDir,
        BackupError::Running => Code::BackupRunning,
        BackupError::GivenUp => Code::Draining,
        BackupError::Failed(_) => Code::BackupFailed,
        BackupError::NoRoom { .. } => Code::DiskFull,
    }
}

/// The error of one job of a batch, with its index.
fn in_batch(error: StoreError) -> ApiError {
    match error {
        StoreError::InBatch { index, error } => ApiError::from(*error).at(index),
        other => other.into(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json::answer(self.code.status(), &self.view());
        if let Some(seconds) = self.code.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.code == Code::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer realm=\"tallyd\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(self.code);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::JobId;

    #[test]
    fn an_error_in_a_batch_is_the_inner_one_with_its_index() {
        let inner = StoreError::QueueFull { queue: "emails".into(), depth: 7, limit: 7 };
        let error = ApiError::from(StoreError::InBatch { index: 3, error: Box::new(inner) });
        assert_eq!((error.code, error.index), (Code::QueueFull, Some(3)));
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn no_error_of_the_store_is_an_internal_error() {
        let errors = [
            StoreError::NoSuchJob(JobId::new(1, 1)),
            StoreError::DiskFull,
            StoreError::Busy,
            StoreError::TooSlow(std::time::Duration::from_secs(2)),
            StoreError::Stopped("sync failed".into()),
        ];
        let codes = errors.map(|error| ApiError::from(error).code);
        assert_eq!(codes.map(|code| code.status().as_u16()), [404, 507, 503, 503, 503]);
    }
}

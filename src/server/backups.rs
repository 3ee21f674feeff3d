//! The route of backups.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::body::{Limit, Media};
use super::error::ApiError;
use super::jobs::Nothing;
use super::{Shared, json};

/// A backup that was written.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Backup")]
pub(super) struct BackupView {
    /// Its path on the server's machine.
    file: String,
    /// Its size.
    bytes: u64,
}

/// `POST /v1/backup`: answers once the copy is on disk; who hangs up finds it there as well.
pub(super) async fn write(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    api.receive(request, Limit::SMALL, &[Media::Json]).await?.object::<Nothing>()?;
    let store = api.store.clone();
    let backup = api.write(async move { store.backup().await }).await?;
    let file = backup.file.to_string_lossy().into_owned();
    Ok(json::answer(StatusCode::OK, &BackupView { file, bytes: backup.bytes }))
}

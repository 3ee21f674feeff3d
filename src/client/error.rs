//! What can go wrong between a client and its server, and what the person at the client can do.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use rustls::CertificateError;
use serde::Deserialize;

use crate::config::name::NAME_RULE;

/// Why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The text is not the URL of a server. Nothing was sent.
    #[error("the server must be a URL such as http://127.0.0.1:8255, got {0:?}")]
    InvalidServer(String),
    /// The text is neither the name of a queue nor the id of a job. Nothing was sent.
    #[error("{0:?} names nothing: it must be {NAME_RULE}")]
    InvalidName(String),
    /// The token cannot be one. Nothing was sent.
    #[error("a token is one word of visible characters; `tallyd token new NAME` prints one")]
    InvalidToken,
    /// What should hold authorities does not. Nothing was sent.
    #[error("the file of authorities must have their certificates in PEM")]
    InvalidAuthorities,
    /// What should hold the client's certificate and key does not. Nothing was sent.
    #[error("the file of the client's certificate must have it and its key, both in PEM")]
    InvalidIdentity,
    /// A certificate, or authorities, for a server that is spoken to in the clear. Nothing was sent.
    #[error(
        "{server} is not on this machine and spoken to without TLS, where neither authorities nor a \
         certificate mean anything; give its URL with https://, or leave them out"
    )]
    InTheClear {
        /// The server.
        server: String,
    },
    /// The client itself could not be set up.
    #[error("cannot prepare requests")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
    /// Nobody listens there. Nothing was sent.
    #[error("cannot connect to {server} ({why}); is tallyd running there? --server says where")]
    Unreachable {
        /// The server.
        server: String,
        /// The system's reason.
        why: String,
    },
    /// What answers there shows a certificate that is not right. Nothing was sent.
    #[error("cannot trust {server}: {why}")]
    Untrusted {
        /// The server.
        server: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// The request was sent, and may have been done; its answer did not come.
    #[error("{server} did not answer ({why}); whether the request was done is not known")]
    Unanswered {
        /// The server.
        server: String,
        /// What became of the connection.
        why: String,
    },
    /// The server says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What answers there is not tallyd, or not one that this client understands.
    #[error("{server} does not answer as tallyd does ({why}); is it another server?")]
    NotTallyd {
        /// The server.
        server: String,
        /// What it answered.
        why: String,
        /// The status of HTTP.
        status: u16,
    },
}

/// A request that the server refused. Nothing was done, unless the server itself failed at it: see
/// [`Refusal::is_in_doubt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// The case, like `queue_full`; new ones may be added.
    pub code: String,
    /// What the caller can do.
    pub message: String,
    /// The field of the request that it is about.
    pub field: Option<String>,
    /// The item of the request, counted from 0, that it is about.
    pub index: Option<usize>,
    /// After how long the same request may do better.
    pub retry_after: Option<Duration>,
}

impl Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        if self.is_in_doubt() {
            f.write_str("; whether the request was done is not known")?;
        }
        Ok(())
    }
}

impl Refusal {
    /// Whether it may have been done: what a store that failed was writing may be there when it is
    /// started again.
    pub fn is_in_doubt(&self) -> bool {
        ["store_stopped", "internal_error"].contains(&self.code.as_str())
    }
}

/// An answer that refuses.
#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
    field: Option<String>,
    index: Option<usize>,
}

impl ClientError {
    /// Whether the request may have been done although no answer came.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            // So say proxies of servers that they lost.
            Self::NotTallyd { status, .. } => [502, 504].contains(status),
            _ => false,
        }
    }

    /// Whether the request may have been done, whatever was answered.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_in_doubt(),
            // Of a proxy, who may have passed it on.
            Self::NotTallyd { status, .. } => (200..300).contains(status) || *status >= 500,
            _ => self.is_unanswered(),
        }
    }

    /// Whether the server is there, but takes nothing at the moment.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Refused(refusal) => [429, 503].contains(&refusal.status),
            Self::NotTallyd { status, .. } => *status == 503,
            _ => false,
        }
    }

    /// The server has agreed, but not in the words of tallyd.
    pub(crate) fn unfit(server: String, why: &str) -> Self {
        Self::NotTallyd { server, why: why.to_owned(), status: 200 }
    }

    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// What an error of the HTTP library means.
    pub(super) fn unanswered(server: &Url, error: reqwest::Error) -> Self {
        let server = shown(server);
        if error.is_builder() {
            return Self::Setup(error.without_url().into());
        }
        if let Some(why) = distrust(&error) {
            return Self::Untrusted { server, why };
        }
        let is_late = error.is_timeout();
        let why = if is_late { "it took too long".to_owned() } else { root(&error) };
        if error.is_connect() {
            Self::Unreachable { server, why }
        } else {
            Self::Unanswered { server, why }
        }
    }

    /// What an answer without success means.
    pub(super) fn refused(
        server: &Url,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        let Ok(ErrorAnswer { error }) = serde_json::from_slice(body) else {
            let why = format!("it answered {status}");
            return Self::NotTallyd { server: shown(server), why, status: status.as_u16() };
        };
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self::Refused(Refusal {
            status: status.as_u16(),
            code: error.code,
            message: error.message,
            field: error.field,
            index: error.index,
            retry_after: seconds.map(Duration::from_secs),
        })
    }
}

/// A server's URL without what may be secret in it.
pub(super) fn shown(server: &Url) -> String {
    let mut url = server.clone();
    let _ = url.set_username(""); // fails only without a host, as does the next
    let _ = url.set_password(None); // see above
    url.as_str().trim_end_matches('/').to_owned()
}

/// What is no server's URL, without what may be secret in it.
pub(super) fn shown_text(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"))
}

/// What is wrong with the certificate of the server, if that ended the connection.
fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(rustls::Error::InvalidCertificate(wrong)) = cause.downcast_ref() {
            return Some(words_for(wrong));
        }
        // An error of the system hides what it was made of from those who ask for its source.
        next = match cause.downcast_ref().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

fn words_for(wrong: &CertificateError) -> String {
    use CertificateError as Wrong;
    match wrong {
        Wrong::Expired | Wrong::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "its certificate is not valid yet".to_owned()
        }
        Wrong::NotValidForNameContext { expected, .. } => {
            format!("its certificate is not for {}, but for other names", expected.to_str())
        }
        Wrong::UnknownIssuer => {
            "its certificate is of no authority that is trusted here; --ca-file \
                                 names others"
                .to_owned()
        }
        wrong => format!("its certificate is not right ({wrong})"),
    }
}

/// The cause that says most: the last one.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

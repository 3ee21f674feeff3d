//! Why a benchmark gave no figures.

use std::io;
use std::time::Duration;

/// What stopped a benchmark.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    /// The system refused something.
    #[error("cannot {doing}")]
    System {
        /// What.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// The server under test has ended.
    #[error("the server under test has ended: {0}")]
    ServerEnded(String),
    /// A connection to it broke.
    #[error("a connection to the server under test broke")]
    Connection(#[from] hyper::Error),
    /// It refused a request.
    #[error("the server under test answered {code} to {path}: {text}")]
    Refused {
        /// The status code.
        code: u16,
        /// The route.
        path: &'static str,
        /// The body.
        text: String,
    },
    /// An answer is not what its route promises.
    #[error("the server under test answered {path} with something else than expected: {text}")]
    Answer {
        /// The route.
        path: &'static str,
        /// The body, or what is wrong with it.
        text: String,
    },
    /// It takes too long.
    #[error("the server under test has not answered within {} s after the end", .0.as_secs())]
    Late(Duration),
    /// A signal came.
    #[error("interrupted; nothing was measured")]
    Interrupted,
    /// Nothing was measured.
    #[error("no request was answered within the time measured; raise --seconds")]
    Nothing,
}

impl BenchError {
    /// The system refused `doing`.
    pub(super) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

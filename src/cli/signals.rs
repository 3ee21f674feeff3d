//! The signals that ask a command which serves for its end.

use std::error::Error;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Failure;

/// How long the process may take to end after a second signal before it is ended.
const LAST_MOMENTS: Duration = Duration::from_millis(300);

/// Runs `serve` to its end. SIGTERM or SIGINT cancels its token, which asks for an end in order; a
/// second signal drops it.
///
/// # Errors
///
/// Why it ended, if that was not as asked.
pub(super) async fn serve_until_asked<F, E>(
    serve: impl FnOnce(CancellationToken) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error>>,
{
    let asked = Asked::default();
    let signals = Signals::new().map_err(|error| Failure::Other(error.into()))?;
    tokio::spawn(signals.listen(asked.clone()));
    tokio::select! {
        biased;
        () = asked.at_once.cancelled() => Err(Failure::Other("ended without a drain".into())),
        ended = serve(asked.stop) => ended.map_err(|error| Failure::Other(error.into())),
    }
}

/// What signals have asked for.
#[derive(Clone, Default)]
struct Asked {
    /// An end in order.
    stop: CancellationToken,
    /// An end now. What then drops the attempts kills their commands.
    at_once: CancellationToken,
}

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on, so that a signal during the start is not missed.
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The first signal asks for an end in order, the second ends the process.
    async fn listen(mut self, asked: Asked) {
        let name = self.next().await;
        info!(event = "stopping", signal = name, "a second signal ends at once");
        asked.stop.cancel();
        let name = self.next().await;
        warn!(event = "stopped", signal = name, "ending at once, without a drain");
        // Whatever blocks the runtime's threads does not block this one.
        std::thread::spawn(|| {
            std::thread::sleep(LAST_MOMENTS);
            std::process::exit(1);
        });
        asked.at_once.cancel();
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

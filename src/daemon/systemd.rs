//! What a service supervisor such as systemd has given the process: open sockets, a socket to
//! report to, and the time within which it wants a sign of life.

mod descriptors;
mod notifier;
mod sockets;

pub use notifier::Notifier;
pub(super) use sockets::Inherited;
pub use sockets::SocketError;

use std::time::Duration;

use crate::config::Config;
use sockets::Sockets;

/// Everything that the environment says of a supervisor; nothing by default.
#[derive(Default)]
pub struct Systemd {
    /// Sockets that are open already.
    pub(super) sockets: Sockets,
    pub(super) notifier: Notifier,
    /// How long the supervisor waits for a sign of life.
    pub(super) watchdog: Option<Duration>,
}

impl Systemd {
    /// Takes over what the environment names; the addresses of sockets that are open already are
    /// those of the configuration from then on.
    ///
    /// Call it while the process has opened nothing by itself.
    ///
    /// # Errors
    ///
    /// A socket is not one that tallyd can, or may, serve on.
    pub fn take(config: &mut Config) -> Result<Self, SocketError> {
        let sockets = Sockets::take()?;
        sockets.apply(config)?;
        let watchdog = sd_notify::watchdog_enabled().filter(|within| !within.is_zero());
        Ok(Self { sockets, notifier: Notifier::from_environment(), watchdog })
    }

    /// Where to report to.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }
}

//! What systemd is told over its notify socket.
//!
//! The protocol is that of `sd_notify(3)`: lines in one datagram, to the address in NOTIFY_SOCKET.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// How long a datagram may wait for room: who should read may be gone for good.
const ROOM: Duration = Duration::from_secs(1);

/// Tells the supervisor, if there is one; clones share it. A socket that is gone is no reason to stop
/// serving.
#[derive(Clone, Default)]
pub struct Notifier(Option<Arc<Line>>);

struct Line {
    address: SocketAddr,
    /// Whether the last datagram was not taken.
    is_lost: AtomicBool,
}

impl Notifier {
    /// Who is named by NOTIFY_SOCKET; nobody if it is not set.
    pub(super) fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self(None) };
        match address(&name) {
            Ok(address) => Self(Some(Arc::new(Line { address, is_lost: AtomicBool::new(false) }))),
            Err(error) => {
                warn!(event = "notify_failed", ?name, %error, "NOTIFY_SOCKET is of no use");
                Self(None)
            }
        }
    }

    /// What the listener is ready for, in words for people.
    pub(in crate::daemon) async fn ready(&self, state: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(state)]).await;
    }

    /// That it ends, and how long that may take at most.
    pub(in crate::daemon) async fn stopping(&self, state: &str, within: Duration) {
        let extension = format!("EXTEND_TIMEOUT_USEC={}", within.as_micros());
        let extension = NotifyState::Custom(&extension);
        self.tell(&[NotifyState::Stopping, NotifyState::Status(state), extension]).await;
    }

    /// How it is, in words for people.
    pub(in crate::daemon) async fn state(&self, state: &str) {
        self.tell(&[NotifyState::Status(state)]).await;
    }

    /// A sign of life, and how it is.
    pub(in crate::daemon) async fn alive(&self, state: &str) {
        self.tell(&[NotifyState::Watchdog, NotifyState::Status(state)]).await;
    }

    /// That the configuration is read again, until [`Notifier::reloaded`].
    pub async fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]).await,
            Err(error) => warn!(event = "notify_failed", %error, "cannot tell the time"),
        }
    }

    /// That it has been.
    pub async fn reloaded(&self) {
        self.tell(&[NotifyState::Ready]).await;
    }

    async fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(line) = self.0.clone() else { return };
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        // What is not run any more when the runtime ends is of no interest to anybody.
        drop(spawn_blocking(move || line.send(text.as_bytes())).await);
    }
}

impl Line {
    /// Sends a datagram; tells the log when the first one is lost, and when one arrives again.
    fn send(&self, text: &[u8]) {
        let sent = self.try_send(text);
        let was_lost = self.is_lost.swap(sent.is_err(), Ordering::Relaxed);
        match sent {
            Err(error) if !was_lost => {
                warn!(event = "notify_failed", %error, "systemd cannot be told; serving all the same");
            }
            Ok(()) if was_lost => info!(event = "notify_works", "systemd is told again"),
            _ => {}
        }
    }

    fn try_send(&self, text: &[u8]) -> io::Result<()> {
        // Not connected, so that a socket which is made anew is found.
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(ROOM))?;
        socket.send_to_addr(text, &self.address).map(drop)
    }
}

/// The address that a value of NOTIFY_SOCKET stands for: a path, or with `@` an abstract name.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "must be a path, or @ and a name")),
    }
}

//! Listening sockets that were open when the process began, as systemd opens those of a `.socket`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketType, getsockname};

use super::descriptors;
use crate::config::Config;

/// The names that a socket may have, for messages.
const NAMES: &str = "FileDescriptorName=http, or metrics";

/// The sockets by what is served on them.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Sockets {
    /// For everything: the socket named `http`, or the only one if it has no name.
    pub(in crate::daemon) http: Option<Inherited>,
    /// For `/metrics`, which is then served nowhere else.
    pub(in crate::daemon) metrics: Option<Inherited>,
}

/// A socket with its address.
#[derive(Debug)]
pub(in crate::daemon) struct Inherited {
    pub(in crate::daemon) listener: TcpListener,
    pub(in crate::daemon) address: SocketAddr,
}

/// Why a socket that the process was started with cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The variables, or the descriptors that they name, are not right.
    #[error("cannot take over the sockets that LISTEN_FDS names")]
    Unusable(#[source] io::Error),
    /// Something else than a socket that waits for connections over TCP.
    #[error(
        "what was handed over as {0} is no listening TCP socket; set ListenStream=ADDRESS:PORT \
         and Accept=no"
    )]
    NotListening(String),
    /// Nothing is served on a socket of that name.
    #[error("a socket named {0:?} was handed over; set {NAMES}")]
    UnknownName(String),
    /// Everybody could call, and nobody said that they may.
    #[error(
        "a socket on {0} was handed over, which is no loopback address: there are no tokens \
         to know callers by; `tallyd token new NAME` makes one; to let everybody in who can reach it, give --insecure or set \
         TALLYD_INSECURE=true"
    )]
    Open(SocketAddr),
    /// There is one of that name already.
    #[error("two sockets named {0} were handed over; keep one")]
    Twice(&'static str),
}

impl Sockets {
    /// Takes over the sockets that LISTEN_FDS names.
    pub(super) fn take() -> Result<Self, SocketError> {
        let handed = descriptors::take().map_err(SocketError::Unusable)?;
        let mut sockets = Self::default();
        for (descriptor, name) in handed {
            let (place, name) = match name.as_str() {
                // The second is what stands for a name if there is none.
                "http" | "unknown" => (&mut sockets.http, "http"),
                "metrics" => (&mut sockets.metrics, "metrics"),
                _ => return Err(SocketError::UnknownName(name)),
            };
            let socket = inherited(descriptor, name)?;
            if place.replace(socket).is_some() {
                return Err(SocketError::Twice(name));
            }
        }
        Ok(sockets)
    }

    /// Puts the addresses in the place of those of the configuration.
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), SocketError> {
        for Inherited { address, .. } in self.http.iter().chain(&self.metrics) {
            let is_loopback = address.ip().to_canonical().is_loopback();
            if config.is_open() && !config.insecure && !is_loopback {
                return Err(SocketError::Open(*address));
            }
        }
        if let Some(socket) = &self.http {
            config.listen = socket.address;
        }
        if let Some(socket) = &self.metrics {
            config.metrics_listen = Some(socket.address);
        }
        Ok(())
    }
}

fn inherited(descriptor: OwnedFd, name: &str) -> Result<Inherited, SocketError> {
    let is_listening = socket_type(&descriptor).is_ok_and(|kind| kind == SocketType::STREAM)
        && socket_acceptconn(&descriptor).is_ok_and(|accepts| accepts);
    let address = getsockname(&descriptor).ok().and_then(|address| address.try_into().ok());
    let Some(address) = address.filter(|_| is_listening) else {
        return Err(SocketError::NotListening(name.to_owned()));
    };
    let listener = TcpListener::from(descriptor);
    listener.set_nonblocking(true).map_err(SocketError::Unusable)?;
    Ok(Inherited { listener, address })
}

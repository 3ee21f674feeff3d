//! An address that is served on: taken at the start, listened on once all else is there.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::DaemonError;
use super::systemd::Inherited;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// An address where nothing is accepted yet.
pub(super) enum Socket {
    /// One of the configuration, refused to others from now on.
    Bound(TcpSocket, SocketAddr),
    /// One where connections may wait already.
    Inherited(Inherited),
}

impl Socket {
    /// The socket that is there already, or else one for the address, so that an address in use is
    /// noticed before the store is touched.
    pub(super) fn take(
        inherited: Option<Inherited>,
        address: SocketAddr,
    ) -> Result<Self, DaemonError> {
        if let Some(inherited) = inherited {
            return Ok(Self::Inherited(inherited));
        }
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(Self::Bound(socket, address))
        };
        bind().map_err(|source| DaemonError::Listen { address, source })
    }

    /// Begins to take connections in; also tells the address, whose port the system may have chosen.
    pub(super) fn listen(self) -> Result<(TcpListener, SocketAddr), DaemonError> {
        let (listener, address) = match self {
            Self::Bound(socket, address) => (socket.listen(BACKLOG), address),
            Self::Inherited(socket) => (TcpListener::from_std(socket.listener), socket.address),
        };
        let listening = listener.and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        listening.map_err(|source| DaemonError::Listen { address, source })
    }
}

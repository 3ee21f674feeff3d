//! How the HTTP interface is protected: TLS, client certificates, users with passwords, headers.
//!
//! The file has the format of Prometheus' exporter-toolkit, which operators have templates for. What
//! that format knows and tallyd cannot do is refused, with the reason.

mod clients;
mod document;
mod names;
mod pem;
mod read;
mod sources;
mod tls;
mod users;

pub use sources::Sources;
pub use users::{PasswordHash, Users};

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::load::ConfigError;

/// What a file says, valid by construction.
#[derive(Clone)]
pub struct Web {
    /// The file as it was named.
    pub file: PathBuf,
    /// How connections are encrypted; none = they are not.
    pub tls: Option<Arc<ServerConfig>>,
    /// Where its private key is; none = in the file itself, if it is there at all.
    pub key_file: Option<PathBuf>,
    /// Where the certificates are that it shows or trusts; those in the file itself aside.
    pub certificate_files: Vec<PathBuf>,
    /// Whether nobody connects without a certificate.
    pub needs_certificate: bool,
    /// Whether certificates of clients are taken only if a known authority has signed them.
    pub verifies_certificates: bool,
    /// Whether the names in clients' certificates are looked through.
    pub knows_names: bool,
    /// Who may read the counts by a password.
    pub users: Users,
    /// What every answer has besides its own headers.
    pub headers: Vec<(&'static str, String)>,
    /// How many requests are answered.
    pub rate_limit: Option<RateLimit>,
    /// The SHA-256 of all that was read for it.
    digest: [u8; 32],
}

/// How many requests are answered, probes aside: one every so often, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// The time after which there is room for one more.
    pub every: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl Web {
    /// Reads the file and those that it names, which are relative to it.
    ///
    /// # Errors
    ///
    /// One of them cannot be read, or is wrong.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_from(&mut Sources::new(), file)
    }

    /// The same; `sources` tells afterwards whether what was read has changed since.
    ///
    /// # Errors
    ///
    /// As [`Web::load`] says.
    pub fn load_from(sources: &mut Sources, file: &Path) -> Result<Self, ConfigError> {
        read::web(sources, file)
    }

    /// The keys of the file whose values are never shown.
    pub fn keys_of_secrets(&self) -> Vec<String> {
        let has_key = self.tls.is_some() && self.key_file.is_none();
        let has =
            [("tls_server_config.key", has_key), ("basic_auth_users", !self.users.is_empty())];
        has.into_iter().filter(|(_, has)| *has).map(|(key, _)| key.to_owned()).collect()
    }

    /// Whether callers are known by it, so that they can be told what they may not do. Certificates
    /// alone do not: each that an authority has signed could do everything.
    pub fn knows_callers(&self) -> bool {
        !self.users.is_empty()
    }

    /// What `other` has differently of that which only a start decides, if anything: whatever is
    /// asked of a caller at all, so that no slip in a file lets more callers in.
    pub fn differing(&self, other: &Self) -> Option<&'static str> {
        if self.tls.is_some() != other.tls.is_some() {
            Some("whether connections are encrypted")
        } else if self.needs_certificate != other.needs_certificate {
            Some("whether clients need a certificate")
        } else if self.verifies_certificates != other.verifies_certificates {
            Some("whether certificates of clients are verified")
        } else if self.knows_names != other.knows_names {
            Some("whether clients need a certificate with an allowed name")
        } else if self.users.is_empty() != other.users.is_empty() {
            Some("whether there are users")
        } else {
            None
        }
    }
}

impl PartialEq for Web {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.digest == other.digest
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("file", &self.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

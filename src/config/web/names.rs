//! The names that the format has for what TLS knows, with what each is here.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::config::limits::one_of;

/// When clients are asked for a certificate, and which will do; the names are Go's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuth {
    /// Never asked.
    No,
    /// Asked; any will do, as will none.
    Request,
    /// Asked; any will do.
    RequireAny,
    /// Asked; none will do, or one that an authority has signed.
    VerifyIfGiven,
    /// Asked; only one that an authority has signed will do.
    RequireAndVerify,
}

const CLIENT_AUTH: [(&str, ClientAuth); 5] = [
    ("NoClientCert", ClientAuth::No),
    ("RequestClientCert", ClientAuth::Request),
    ("RequireAnyClientCert", ClientAuth::RequireAny),
    ("VerifyClientCertIfGiven", ClientAuth::VerifyIfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerify),
];

impl ClientAuth {
    /// Whether certificates are compared with those of authorities.
    pub(super) fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }

    /// Whether nobody connects without one.
    pub(super) fn is_mandatory(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }
}

/// When clients are asked for a certificate.
pub(super) fn client_auth(text: Option<&str>) -> Result<ClientAuth, String> {
    // The older name, which the format still has.
    let text =
        text.map(|text| if text == "RequireClientCert" { "RequireAnyClientCert" } else { text });
    named(&CLIENT_AUTH, text)
}

/// The versions of TLS, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// What it is to rustls.
    pub(super) fn protocol(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls12 => &version::TLS12,
            Self::Tls13 => &version::TLS13,
        }
    }
}

/// A version of TLS.
pub(super) fn tls_version(text: Option<&str>) -> Result<Version, String> {
    let versions = [("TLS12", Version::Tls12), ("TLS13", Version::Tls13)];
    let is_old = text.is_some_and(|text| ["TLS10", "TLS11"].contains(&text));
    named(&versions, text).map_err(|right| {
        if is_old {
            format!("{right}: older versions are broken, and not spoken here")
        } else {
            right
        }
    })
}

/// The suites of TLS 1.2 and 1.3; those of 1.3 are always offered, as the format has it.
const SUITES: [(&str, SupportedCipherSuite); 9] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// A suite of ciphers.
pub(super) fn suite(text: Option<&str>) -> Result<SupportedCipherSuite, String> {
    named(&SUITES, text)
}

/// The suites of TLS 1.3.
pub(super) fn suites_of_tls13() -> impl Iterator<Item = SupportedCipherSuite> {
    SUITES.iter().map(|(_, suite)| *suite).filter(|suite| suite.tls13().is_some())
}

/// A curve for the exchange of keys.
pub(super) fn curve(text: Option<&str>) -> Result<&'static dyn SupportedKxGroup, String> {
    let curves = [
        ("X25519", kx_group::X25519),
        ("CurveP256", kx_group::SECP256R1),
        ("CurveP384", kx_group::SECP384R1),
    ];
    named(&curves, text)
}

fn named<T: Copy>(known: &[(&str, T)], text: Option<&str>) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| Some(*name) == text);
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    found.map(|(_, value)| *value).ok_or_else(|| one_of(&names))
}

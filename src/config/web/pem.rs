//! Certificates and keys as PEM has them (RFC 7468).

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// All certificates; at least one.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err("must have a certificate: -----BEGIN CERTIFICATE----- is not in it".to_owned())
        }
        Ok(found) => Ok(found),
        Err(error) => Err(format!("must have certificates in PEM: {}", why(&error))),
    }
}

/// The first key.
pub(super) fn key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        Error::NoItemsFound => {
            "must have a private key that is not encrypted: no such -----BEGIN PRIVATE KEY----- \
             is in it"
                .to_owned()
        }
        error => format!("must have a private key in PEM: {}", why(&error)),
    })
}

/// What is wrong, without what stands there: it may be a part of a key.
fn why(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => "its -----END line is missing",
        Error::IllegalSectionStart { .. } => "its -----BEGIN line is broken",
        Error::Base64Decode(_) => "what is between its lines is not base64",
        _ => "it cannot be read",
    }
}

//! Signatures by which a receiver knows a push: the symmetric scheme of Standard Webhooks.
//!
//! Source: the specification at standardwebhooks.com, "Signature scheme": HMAC-SHA256 over
//! `id.timestamp.payload`, in base64 behind `v1,`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::Secret;

/// The value of `webhook-signature` for a payload sent at this time, in seconds since the epoch.
pub(super) fn sign(secret: &Secret, id: &str, seconds: i64, payload: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("any length will do");
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(payload);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn a_signature_is_what_the_specification_says() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let signed = sign(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}

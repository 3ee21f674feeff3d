//! The two tokens that callers hold: a job's id, and the lease on one of its attempts.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A job's id: a version 7 UUID (RFC 9562, section 5.7).
///
/// Its leading 60 bits, milliseconds and a counter, ascend with each job and are the key that the
/// store sorts by; the 62 random bits behind them make it hard to guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    key: i64,
    tail: i64,
}

/// The bits of the random tail.
const TAIL_MASK: u64 = (1 << 62) - 1;

/// The bits of the counter behind the milliseconds.
const COUNTER_BITS: u32 = 12;

impl JobId {
    /// The id with this key and, of `tail`, the low 62 bits.
    pub fn new(key: i64, tail: u64) -> Self {
        Self { key, tail: (tail & TAIL_MASK) as i64 }
    }

    /// The least key of a job created at this millisecond.
    pub fn key_at(ms: i64) -> i64 {
        ms << COUNTER_BITS
    }

    /// What the store sorts by.
    pub fn key(self) -> i64 {
        self.key
    }

    /// The random rest.
    pub fn tail(self) -> i64 {
        self.tail
    }

    /// The same as other crates take it.
    pub(in crate::store) fn uuid(self) -> Uuid {
        let key = self.key as u64;
        let high = (key >> COUNTER_BITS) << 16 | 0x7000 | (key & 0xfff);
        Uuid::from_u64_pair(high, 1 << 63 | self.tail as u64)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = NotAnId;

    /// Reads the hyphenated form.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let uuid = Uuid::try_parse(text).ok().filter(|_| text.len() == 36).ok_or(NotAnId)?;
        let (high, low) = uuid.as_u64_pair();
        if high & 0xf000 != 0x7000 || low >> 62 != 0b10 {
            return Err(NotAnId);
        }
        let key = (high >> 16) << COUNTER_BITS | (high & 0xfff);
        Ok(Self { key: key as i64, tail: (low & TAIL_MASK) as i64 })
    }
}

/// The text is no id that tallyd could have given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job id is a version 7 UUID, like 0190163d-8694-739b-aea5-966c26f8ad91")]
pub struct NotAnId;

/// The right to end one attempt: the job, and 128 random bits that its row keeps.
///
/// Written as `<id>.<32 hex digits>`. Its `Debug` form hides the secret, so that logs do.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// What the job's row must hold.
    pub secret: [u8; 16],
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:032x}", self.job, u128::from_be_bytes(self.secret))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.…", self.job)
    }
}

impl FromStr for Lease {
    type Err = NotALease;

    fn from_str(text: &str) -> Result<Self, NotALease> {
        let (job, secret) = text.split_once('.').ok_or(NotALease)?;
        let job = job.parse().map_err(|_| NotALease)?;
        let digits = secret.len() == 32 && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
        let secret = u128::from_str_radix(secret, 16).ok().filter(|_| digits).ok_or(NotALease)?;
        Ok(Self { job, secret: secret.to_be_bytes() })
    }
}

/// The text is no lease that tallyd could have given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a lease")]
pub struct NotALease;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_uuids_and_sort_by_their_key() {
        let id = JobId::new(JobId::key_at(1_700_000_000_000) + 5, u64::MAX);
        let uuid = Uuid::parse_str(&id.to_string()).expect("a UUID");
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanos) = uuid.get_timestamp().expect("version 7 has one").to_unix();
        assert_eq!((seconds, nanos), (1_700_000_000, 0));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(JobId::new(id.key() + 1, 0).to_string() > id.to_string());
    }

    #[test]
    fn other_uuids_are_no_ids() {
        for text in [
            "",
            "7",
            "0190163d8694739baea5966c26f8ad91",
            "0190163d-8694-439b-aea5-966c26f8ad91",
            "0190163d-8694-739b-2ea5-966c26f8ad91",
            "{0190163d-8694-739b-aea5-966c26f8ad91}",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(NotAnId), "{text}");
        }
    }

    #[test]
    fn leases_read_back_and_hide_their_secret_from_logs() {
        let lease = Lease { job: JobId::new(77 << 12, 3), secret: [0xab; 16] };
        assert_eq!(lease.to_string().parse(), Ok(lease));
        assert!(!format!("{lease:?}").contains("abab"));
        for text in [
            "",
            ".",
            "x.y",
            &lease.to_string()[1..],
            &format!("{lease}0"),
            &format!("{}.+{:031x}", lease.job, 5),
        ] {
            assert_eq!(text.parse::<Lease>(), Err(NotALease), "{text}");
        }
    }
}

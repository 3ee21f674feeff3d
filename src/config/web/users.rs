//! Users and what their passwords are checked against.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use bcrypt::HashParts;

use super::document::is_hash;

/// The most users: more are better known by certificates or tokens.
pub(super) const MAX_USERS: usize = 1_000;

/// The most bytes of a name.
const MAX_NAME_BYTES: usize = 128;

/// The exponent of the work that one check takes: at 15 it is seconds, and longer would keep
/// scrapers from their scrape.
const COST: RangeInclusive<u32> = 4..=15;

/// What a hash without a password ends with: salt and hash of a cost that is put in front.
const NOBODYS: &str = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// The users by name.
pub type Users = BTreeMap<String, PasswordHash>;

/// The bcrypt hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    cost: u32,
}

impl PasswordHash {
    /// Whether it is that of this password. This takes long, on purpose.
    pub fn is_of(&self, password: &[u8]) -> bool {
        bcrypt::verify(password, &self.text).expect("it was read as a hash")
    }

    /// The exponent of the work that one check takes.
    pub(super) fn cost(&self) -> u32 {
        self.cost
    }

    /// As it stands in the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// One that is nobody's, and takes as long to check as the longest of these.
    pub fn of_nobody(users: &Users) -> Self {
        let cost = users.values().map(|hash| hash.cost).max().unwrap_or(*COST.start());
        Self { text: format!("$2y${cost:02}${NOBODYS}"), cost }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(***)")
    }
}

/// A user's hash, or what it must be.
pub(super) fn user(name: &str, hash: Option<&str>) -> Result<PasswordHash, String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(is_unfit) {
        return Err(format!(
            "is no name of a user: it must be 1 to {MAX_NAME_BYTES} bytes without colons"
        ));
    }
    if is_hash(name) {
        return Err(
            "is no name of a user: the name must stand first, and its hash behind it".to_owned()
        );
    }
    let parts = hash.and_then(|hash| Some((hash, HashParts::from_str(hash).ok()?)));
    let Some((text, parts)) = parts else {
        return Err(
            "must be the bcrypt hash of a password, as `htpasswd -nBC 10 NAME` prints behind the name"
                .to_owned(),
        );
    };
    let cost = parts.get_cost();
    if !COST.contains(&cost) {
        let (least, most) = (COST.start(), COST.end());
        return Err(format!("must be a bcrypt hash of a cost of {least} to {most}, got {cost}"));
    }
    Ok(PasswordHash { text: text.to_owned(), cost })
}

/// What RFC 7617 does not let stand in a name.
fn is_unfit(letter: char) -> bool {
    letter == ':' || letter.is_control()
}

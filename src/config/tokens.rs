//! The tokens of callers: whose they are, what they allow, where, and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use toml::de::DeValue;

use super::document::{Document, Section};
use super::limits::{self, one_of, queue_or_kind};
use super::load::{ConfigError, as_text};

/// The most bytes of a file of tokens, tens of thousands of them.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The most tokens: an unknown one is compared with each.
const MAX_TOKENS: usize = 1_000;

/// What tokens begin with, so that whoever finds one knows what it is.
pub const PREFIX: &str = "tallyd_";

/// The characters of a token: those, and 256 bits in base64.
const TOKEN_CHARS: usize = PREFIX.len() + 43;

/// What makes a token, for messages.
const HOW: &str = "`tallyd token new NAME` prints one with its block";

/// What a token lets its bearer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read the counts: `/metrics`, `/v1/stats`, queues.
    Metrics,
    /// Create jobs on queues without a command, look at jobs, cancel them.
    Create,
    /// Create jobs on queues whose jobs the daemon runs as a command.
    Exec,
    /// Lease, renew and finish, and look at jobs.
    Work,
    /// Everything.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Metrics, Self::Create, Self::Exec, Self::Work, Self::Admin];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Create => "create",
            Self::Exec => "exec",
            Self::Work => "work",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// The SHA-256 of a token's characters. It is no secret, and nobody's business either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(***)")
    }
}

/// One token, without the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, for the log and for people.
    pub name: String,
    /// What it is known by.
    pub sha256: Hash,
    /// What it allows; never empty.
    pub roles: BTreeSet<Role>,
    /// The only queues that it is for; none = all.
    pub queues: Option<BTreeSet<String>>,
    /// From when on it is refused; none = never.
    pub expires_at: Option<Timestamp>,
}

/// Where tokens come from; without any, nobody is asked for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those of the configuration itself.
    pub configured: Vec<Token>,
    /// A file that has more.
    pub file: Option<PathBuf>,
    /// Those of that file.
    pub from_file: Vec<Token>,
}

impl Tokens {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Token> {
        self.configured.iter().chain(&self.from_file)
    }

    /// Whether callers need one.
    pub fn are_needed(&self) -> bool {
        self.all().next().is_some()
    }

    /// Reads the file, if there is one.
    ///
    /// # Errors
    ///
    /// It cannot be read, has something wrong in it, or no token.
    pub(super) fn read_file(&mut self) -> Result<(), ConfigError> {
        let Some(file) = &self.file else { return Ok(()) };
        let bytes = read_bounded(file)?;
        self.add_from(&file.clone(), &bytes)
    }

    /// Takes the tokens that `file` has, which holds these bytes.
    pub(super) fn add_from(&mut self, file: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
        let wrong = |mistakes| ConfigError::Wrong { file: Some(file.to_owned()), mistakes };
        let text = as_text(bytes).map_err(|mistake| wrong(vec![mistake]))?;
        let document = Document::parse(text).map_err(|mistake| wrong(vec![mistake]))?;
        let mut top = document.top();
        let tokens = read(&mut top, &self.configured);
        if !top.has("tokens") {
            let text = format!("{} must have [[tokens]]; {HOW}", file.display());
            document.note(None, text);
        }
        top.close();
        match document.into_mistakes() {
            mistakes if mistakes.is_empty() => self.from_file = tokens,
            mistakes => return Err(wrong(mistakes)),
        }
        Ok(())
    }
}

fn read_bounded(file: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let kind = std::io::ErrorKind::FileTooLarge;
        return Err(unreadable(std::io::Error::new(kind, "it is larger than 4MiB")));
    }
    Ok(bytes)
}

/// Reads `[[tokens]]`; each needs a name and a hash of its own, also among those that are `known`.
pub(super) fn read(top: &mut Section<'_>, known: &[Token]) -> Vec<Token> {
    let mut names: BTreeSet<String> = known.iter().map(|token| token.name.clone()).collect();
    let mut hashes: BTreeMap<Hash, String> =
        known.iter().map(|token| (token.sha256, token.name.clone())).collect();
    let mut tokens = Vec::new();
    let sections = top.list_of_tables("tokens", "[[tokens]]");
    if sections.is_empty() {
        top.object("tokens", "must have some; without any, leave it out");
    } else if sections.len() > MAX_TOKENS {
        let got = sections.len();
        top.object("tokens", &format!("must be at most {MAX_TOKENS}, got {got}"));
    }
    for mut section in sections {
        let token = read_token(&mut section);
        if !token.name.is_empty() && !names.insert(token.name.clone()) {
            section
                .object("name", &format!("{:?} is there twice; name each token once", token.name));
        }
        if section.has("sha256") {
            let other = hashes.insert(token.sha256, token.name.clone());
            if let Some(other) = other.filter(|_| token.sha256 != Hash([0; 32])) {
                section.object("sha256", &format!("is that of {other:?} as well; {HOW}"));
            }
        }
        section.close();
        tokens.push(token);
    }
    tokens
}

fn read_token(section: &mut Section<'_>) -> Token {
    let mut token = Token {
        name: String::new(),
        sha256: Hash([0; 32]),
        roles: BTreeSet::new(),
        queues: None,
        expires_at: None,
    };
    let (mut roles, mut queues) = (Vec::new(), Vec::new());
    section.read("name", &mut token.name, |value| queue_or_kind(value.as_str()));
    section.read_hidden("sha256", &mut token.sha256, hash);
    section.read_list("roles", &mut roles, role);
    section.read_list("queues", &mut queues, queue_or_kind);
    section.read("expires_at", &mut token.expires_at, |value| time(value).map(Some));
    for key in ["name", "sha256", "roles"] {
        if !section.has(key) {
            section.whole(&format!("needs {key}; {HOW}"));
        }
    }
    if token.name.len() >= TOKEN_CHARS && token.name.starts_with(PREFIX) {
        section.object("name", &format!("must be whose it is, not the token itself; {HOW}"));
        token.name.clear();
    }
    token.roles = roles.iter().filter_map(|name| Role::named(name)).collect();
    if section.has("roles") && roles.is_empty() {
        section.object(
            "roles",
            &format!("must name some of {}", Role::ALL.map(Role::name).join(", ")),
        );
    }
    if section.has("queues") {
        if queues.is_empty() {
            section.object("queues", "must name some; leave it out for all queues");
        }
        if token.roles.contains(&Role::Metrics) {
            let wrong = "does not limit the role metrics, whose counts are of all queues; make it a token of its own";
            section.object("queues", wrong);
        }
        token.queues = Some(queues.into_iter().collect());
    }
    token
}

fn role(text: Option<&str>) -> Result<String, String> {
    text.filter(|text| Role::named(text).is_some())
        .map(str::to_owned)
        .ok_or_else(|| one_of(&Role::ALL.map(Role::name)))
}

/// The 64 hexadecimal digits of a hash.
fn hash(text: Option<&str>) -> Result<Hash, String> {
    let digits = text.filter(|text| text.len() == 64 && text.is_ascii());
    let byte = |index: usize| {
        let pair = digits?.get(2 * index..2 * index + 2)?;
        pair.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).map(Hash).ok_or_else(|| {
        format!("must be the SHA-256 of a token in 64 hexadecimal digits, not the token; {HOW}")
    })
}

/// A time with an offset, as TOML or as text has it.
fn time(value: &DeValue<'_>) -> Result<Timestamp, String> {
    let text = match value {
        DeValue::Datetime(time) => Some(time.to_string()),
        other => other.as_str().map(str::to_owned),
    };
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| "must be a time with an offset, such as 2027-12-31T00:00:00Z".to_owned())
}

/// The block of a token as the file has it.
pub fn block(token: &Token) -> String {
    let list = |names: Vec<&str>| {
        let quoted: Vec<_> = names.into_iter().map(|name| format!("{name:?}")).collect();
        quoted.join(", ")
    };
    let mut text =
        format!("[[tokens]]\nname = {:?}\nsha256 = \"{}\"\n", token.name, hex(&token.sha256.0));
    let roles = list(token.roles.iter().map(|role| role.name()).collect());
    text.push_str(&format!("roles = [{roles}]\n"));
    if let Some(queues) = &token.queues {
        let queues = list(queues.iter().map(String::as_str).collect());
        text.push_str(&format!("queues = [{queues}]\n"));
    }
    if let Some(time) = token.expires_at {
        text.push_str(&format!("expires_at = {time:.0}\n"));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A role, for the command line.
///
/// # Errors
///
/// There is none of that name.
pub fn parse_role(text: &str) -> Result<Role, String> {
    role(Some(text)).map(|name| Role::named(&name).expect("it was found right"))
}

/// The name of a token, for the command line.
///
/// # Errors
///
/// It is none.
pub fn parse_name(text: &str) -> Result<String, String> {
    limits::queue_or_kind(Some(text))
}

#[cfg(test)]
mod tests;

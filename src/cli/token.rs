//! `tallyd token new`: a token for a caller, and its block for the server's configuration.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use rand::TryRng;
use rand::rngs::SysRng;

use super::{Failure, output};
use crate::clock::Clock;
use crate::config::Role;
use crate::config::limits::{self, queue_or_kind};
use crate::config::tokens::{self, Hash, PREFIX};

/// How long a token may be valid that ever ends.
const VALID: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 60 * 60);

/// What stands above a block that is printed.
const COMMENT: &str = "# for the configuration of the server, or its token_file";

/// Why a block is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot put the block into {}", .file.display())]
struct Unwritable {
    file: PathBuf,
    source: io::Error,
}

/// The commands about tokens.
#[derive(Debug, clap::Args)]
pub struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print a new token, and the block that lets its bearer in
    New(New),
}

/// The flags of `tallyd token new`.
#[derive(Debug, clap::Args)]
struct New {
    /// Whose it is, such as the name of an application
    #[arg(value_parser = tokens::parse_name)]
    name: String,

    /// What it allows, separated by commas: metrics, create, exec, work, admin
    #[arg(long, env = "TALLYD_TOKEN_ROLES", value_name = "ROLE", value_delimiter = ',',
        default_value = "create", value_parser = tokens::parse_role)]
    roles: Vec<Role>,

    /// The only queues that it is for, separated by commas [default: all]
    #[arg(long, env = "TALLYD_TOKEN_QUEUES", value_name = "QUEUE", value_delimiter = ',',
        value_parser = |text: &str| queue_or_kind(Some(text)))]
    queues: Option<Vec<String>>,

    /// For how long it is valid, such as 90d [default: for ever]
    #[arg(long, env = "TALLYD_TOKEN_EXPIRES_IN", value_name = "DURATION",
        value_parser = |text: &str| limits::duration(Some(text), &VALID))]
    expires_in: Option<Duration>,

    /// Put the block at the end of this file, and print the token alone
    #[arg(long, env = "TALLYD_TOKEN_APPEND_TO", value_name = "FILE")]
    append_to: Option<PathBuf>,
}

impl Token {
    /// Prints what was asked for.
    ///
    /// # Errors
    ///
    /// The token could not limit what it should, or standard output cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::New(new) => new.run(),
        }
    }
}

impl New {
    fn run(&self) -> Result<(), Failure> {
        if self.queues.is_some() && self.roles.contains(&Role::Metrics) {
            let text = "--queues does not limit the role metrics, whose counts are of all queues; \
                        make it a token of its own";
            return Err(Failure::Usage(text.into()));
        }
        let token = generate()?;
        let block = tokens::block(&crate::config::Token {
            name: self.name.clone(),
            sha256: Hash::of(&token),
            roles: self.roles.iter().copied().collect(),
            queues: self.queues.as_ref().map(|queues| BTreeSet::from_iter(queues.iter().cloned())),
            expires_at: self.expires_in.map(end).transpose()?,
        });
        match &self.append_to {
            None => output::print(&format!("{token}\n\n{COMMENT}\n{block}")),
            Some(file) => {
                append(file, &block).map_err(|source| {
                    Failure::Other(Unwritable { file: file.clone(), source }.into())
                })?;
                output::print(&format!("{token}\n"))
            }
        }
    }
}

/// Puts a block behind what a file has; one that is new is for its owner only.
fn append(file: &Path, block: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    let gap = if file.metadata()?.len() > 0 { "\n" } else { "" };
    file.write_all(format!("{gap}{block}").as_bytes())
}

/// 256 random bits, in letters and digits.
fn generate() -> Result<String, Failure> {
    let mut bits = [0_u8; 32];
    SysRng.try_fill_bytes(&mut bits).map_err(|error| Failure::Other(error.into()))?;
    Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bits)))
}

fn end(duration: Duration) -> Result<Timestamp, Failure> {
    let now = Timestamp::from_millisecond(Clock::system().now().0);
    let end = now.and_then(|now| now.checked_add(SignedDuration::try_from(duration)?));
    end.map_err(|error| Failure::Other(error.into()))
}

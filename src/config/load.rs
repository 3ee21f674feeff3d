//! Merges file, environment and flags into one `Config`, and checks what only shows in the whole.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::Document;
use super::overrides::Overrides;
use super::{Config, DEFAULT_QUEUE, QueueConfig, Tokens, Web, file};

/// The most bytes of a configuration file: 100,000 queues with a line or two each.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// The file as it was named.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The settings are wrong.
    #[error("{}", Listing { file, mistakes })]
    Wrong {
        /// The file as it was named; none if there is none.
        file: Option<PathBuf>,
        /// All mistakes that were found, in the order of the lines.
        mistakes: Vec<Mistake>,
    },
}

/// One thing that must be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line of the file, from 1; none if the mistake is not in the file.
    pub line: Option<usize>,
    /// The key, what it must be and what it is.
    pub text: String,
}

/// Mistakes as people read them, one a line: `tallyd.toml:7: queues.emails …`.
struct Listing<'a> {
    file: &'a Option<PathBuf>,
    mistakes: &'a [Mistake],
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if let (Some(file), Some(line)) = (self.file, mistake.line) {
                write!(f, "{}:{line}: ", file.display())?;
            }
            write!(f, "{}", mistake.text)?;
        }
        Ok(())
    }
}

impl Config {
    /// The settings of `file`, or the defaults without one, changed by `overrides`.
    ///
    /// Relative paths are relative to the working directory of the process.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or something in it or in all of it together is wrong.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let bytes = match file {
            Some(file) => read_file(file)
                .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?,
            None => Vec::new(),
        };
        Self::read(file, &bytes, overrides, Tokens::read_file)
    }

    /// The same of what the file holds; `read_tokens` adds what the file of tokens has.
    pub(super) fn read(
        file: Option<&Path>,
        bytes: &[u8],
        overrides: &Overrides,
        read_tokens: impl FnOnce(&mut Tokens) -> Result<(), ConfigError>,
    ) -> Result<Self, ConfigError> {
        let wrong = |mistakes| ConfigError::Wrong { file: file.map(Path::to_owned), mistakes };
        let text = as_text(bytes).map_err(|mistake| wrong(vec![mistake]))?;
        let document = Document::parse(text).map_err(|mistake| wrong(vec![mistake]))?;
        let mut config = file::read(&document);
        overrides.apply(&mut config);
        let tokens = read_tokens(&mut config.tokens);
        let web = overrides.web_config.as_deref().map(Web::load).transpose();
        // What is missing of a file that is wrong is no mistake of its own.
        let are_known = match &web {
            Ok(web) => web.as_ref().is_some_and(Web::knows_callers),
            Err(_) => true,
        };
        let are_known = are_known || config.tokens.are_needed() || tokens.is_err();
        let may_be_open = config.insecure || are_known;
        check_addresses(&config, may_be_open, overrides, &document);
        add_default_queue(&mut config);
        check_counts(&config, &document);
        match document.into_mistakes() {
            mistakes if mistakes.is_empty() => {
                tokens?;
                config.web = web?.map(Arc::new);
                Ok(config)
            }
            mistakes => Err(wrong(mistakes)),
        }
    }
}

fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16MiB"));
    }
    Ok(bytes)
}

pub(super) fn as_text(bytes: &[u8]) -> Result<&str, Mistake> {
    str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Mistake { line: Some(line), text: "a configuration must be UTF-8 text".to_owned() }
    })
}

/// Without tokens only the machine itself may call, unless the operator says otherwise.
fn check_addresses(
    config: &Config,
    may_be_open: bool,
    overrides: &Overrides,
    document: &Document<'_>,
) {
    let listen = ("listen", config.listen, overrides.listen.is_some());
    let metrics = config
        .metrics_listen
        .map(|address| ("metrics_listen", address, overrides.metrics_listen.is_some()));
    for (key, address, is_overridden) in [Some(listen), metrics].into_iter().flatten() {
        if !may_be_open && !is_loopback(address) {
            let text = format!(
                "must be a loopback address such as 127.0.0.1:8255, got {address}: there are no \
                 tokens to know callers by; `tallyd token new NAME` makes one; to let everybody in \
                 who can reach it, give --insecure or set TALLYD_INSECURE=true"
            );
            note(document, key, is_overridden, &text);
        }
    }
    if config.metrics_listen.is_some_and(|address| overlap(address, config.listen)) {
        let text = format!("must have another port than listen, {}", config.listen);
        note(document, "metrics_listen", overrides.metrics_listen.is_some(), &text);
    }
}

/// Whether two listeners cannot have these addresses: an unspecified one is all of the machine's.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (port, ip, other_ip) = (one.port(), one.ip().to_canonical(), other.ip().to_canonical());
    let all = ip.is_unspecified() || other_ip.is_unspecified();
    port == other.port() && port != 0 && (all || ip == other_ip)
}

/// Notes what is wrong about a top-level key where it was set: by a flag or in the file.
fn note(document: &Document<'_>, key: &str, is_overridden: bool, wrong: &str) {
    if is_overridden {
        let flag = key.replace('_', "-");
        let variable = key.to_ascii_uppercase();
        document.note(None, format!("--{flag} or TALLYD_{variable} {wrong}"));
    } else {
        document.note(document.line_of(&[key]), format!("{key} {wrong}"));
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Jobs without a queue go to `default`, so it is there unless the file lists queues strictly.
fn add_default_queue(config: &mut Config) {
    if !config.strict_queues || config.queues.is_empty() {
        let queue = QueueConfig::leased(config.defaults.clone());
        config.queues.entry(DEFAULT_QUEUE.to_owned()).or_insert(queue);
    }
}

/// The configured queues and kinds must fit the limits on all queues and pairs.
fn check_counts(config: &Config, document: &Document<'_>) {
    let queues = config.queues.len();
    let kinds: usize = config.queues.values().map(|queue| queue.kinds.len()).sum();
    let included = match config.queues.contains_key(DEFAULT_QUEUE) {
        true => " with default",
        false => "",
    };
    let line = document.line_of(&["queues"]);
    if queues > config.max_queues {
        let most = config.max_queues;
        let text = format!("queues must be at most max_queues, {most}, got {queues}{included}");
        document.note(line, text);
    }
    if kinds > config.max_pairs {
        let most = config.max_pairs;
        let text = format!("queues must have at most max_pairs, {most}, kinds in all, got {kinds}");
        document.note(line, text);
    }
}

#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod tests;

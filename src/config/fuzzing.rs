//! What must hold for any configuration, and any file of tokens beside it.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use toml::{Table, Value};

use super::document::Document;
use super::{Config, ConfigError, Mistake, Overrides, Runner, Secret};
use crate::fuzzing::within;

#[cfg(test)]
mod tests;

/// What reading a file may hold for each of its bytes. Most take a tenth of it at most; but in `[...`
/// each dot makes a table before the line is refused, and one with room for eleven keys takes a
/// kilobyte.
const FACTOR: usize = 1_400;

/// The longest error: so many mistakes are told, and no long name in full.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// The line behind which an input goes on with the file of tokens.
const TOKENS: &str = "\n# the file of tokens\n";

/// What stands in an input that cannot be the secret part of a message by chance.
const SECRET_CHARS: usize = 12;

/// A configuration, and behind a line `# the file of tokens` that file.
///
/// It gives settings, whose printed form gives the same settings again, or an error that names file
/// and line. Neither shows a secret: both stay the same when the secrets are others.
pub fn config(bytes: &[u8]) {
    let (text, tokens) = parts(bytes);
    match within(FACTOR, bytes.len(), || load(text, tokens)) {
        Ok(config) => check_printed(&config, tokens),
        Err(error) => check_error(&error, text, tokens),
    }
    check_secrets(text, tokens);
}

fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let begins = bytes.windows(TOKENS.len()).position(|part| part == TOKENS.as_bytes());
    begins.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + TOKENS.len()..]))
}

/// What `Config::load` makes of files that hold this.
fn load(text: &[u8], tokens: &[u8]) -> Result<Config, ConfigError> {
    let file = Path::new("tallyd.toml");
    Config::read(Some(file), text, &Overrides::default(), |known| {
        let file = known.file.is_some();
        if file { known.add_from(Path::new("tokens.toml"), tokens) } else { Ok(()) }
    })
}

fn check_printed(config: &Config, tokens: &[u8]) {
    let printed = config.to_toml().expect("what was loaded has a form in TOML");
    let revealed = with_secrets_of(config, &printed);
    match load(revealed.as_bytes(), tokens) {
        Ok(again) => assert_eq!(again, *config, "in:\n{printed}"),
        Err(error) => panic!("{error}\nin:\n{printed}"),
    }
}

/// The printed form with what it hides.
fn with_secrets_of(config: &Config, printed: &str) -> String {
    let mut table: Table = printed.parse().expect("what is printed is TOML");
    for (index, token) in config.tokens.configured.iter().enumerate() {
        let digits: String = token.sha256.0.iter().map(|byte| format!("{byte:02X}")).collect();
        table["tokens"][index]["sha256"] = digits.into();
    }
    let as_table = |values: &BTreeMap<String, String>| -> Table {
        values.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()
    };
    for (name, queue) in &config.queues {
        let keys = &mut table["queues"][name.as_str()];
        match &queue.runner {
            Runner::Exec(exec) if !exec.env.is_empty() => {
                keys["exec"]["env"] = as_table(&exec.env).into();
            }
            Runner::Http(http) => {
                if !http.headers.is_empty() {
                    keys["http"]["headers"] = as_table(&http.headers).into();
                }
                if let Some(secret) = &http.secret {
                    keys["http"]["secret"] = written(secret.bytes()).into();
                }
            }
            _ => {}
        }
    }
    toml::to_string(&table).expect("a table has a form in TOML")
}

fn written(key: &[u8]) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode(key))
}

/// Each mistake has its place, in the order of the lines, and can be shown on a terminal.
fn check_error(error: &ConfigError, text: &[u8], tokens: &[u8]) {
    let ConfigError::Wrong { file: Some(file), mistakes } = error else {
        panic!("nothing was read from a file: {error}");
    };
    let is_tokens = file == Path::new("tokens.toml");
    let of = if is_tokens { tokens } else { text };
    let lines = 1 + of.iter().filter(|byte| **byte == b'\n').count();
    let is_rest = |mistake: &&Mistake| mistake.text.ends_with("more mistakes; mend these first");
    let told = &mistakes[..mistakes.len() - mistakes.last().filter(is_rest).iter().count()];
    assert!(!told.is_empty() && told.is_sorted_by_key(|mistake| mistake.line));
    for mistake in told {
        let has_place = match mistake.line {
            Some(line) => (1..=lines).contains(&line),
            None => is_tokens && mistake.text.starts_with("tokens.toml must have [[tokens]]"),
        };
        assert!(has_place, "{mistake:?}");
        assert!(!mistake.text.chars().any(char::is_control), "{mistake:?}");
    }
    let said = error.to_string();
    assert!(said.len() <= MAX_ERROR_BYTES, "{} bytes are said", said.len());
    let named = said.lines().filter(|line| line.starts_with(&*file.to_string_lossy()));
    assert_eq!(named.count(), told.len(), "{said}");
}

/// What is printed, or said, does not depend on any secret.
fn check_secrets(text: &[u8], tokens: &[u8]) {
    let table = |text| str::from_utf8(text).ok()?.parse::<Table>().ok();
    let (own, others) = (table(text), table(tokens));
    if own.is_none() || others.is_none() {
        check_syntax_error(text, tokens);
    }
    let (Some(own), others) = (own, others.unwrap_or_default()) else { return };
    let said = |own: &Table, others: &Table| {
        let [own, others] = [own, others].map(|table| toml::to_string(table).expect("it was TOML"));
        match load(own.as_bytes(), others.as_bytes()) {
            Ok(config) => config.to_toml().expect("what was loaded has a form in TOML"),
            Err(error) => error.to_string(),
        }
    };
    let disguised = said(&with_other_secrets(own.clone()), &with_other_secrets(others.clone()));
    assert_eq!(said(&own, &others), disguised);
}

fn with_other_secrets(mut table: Table) -> Table {
    let tokens = table.get_mut("tokens").and_then(Value::as_array_mut);
    for token in tokens.into_iter().flatten() {
        disguise(token.get_mut("sha256"), other);
    }
    let queues = table.get_mut("queues").and_then(Value::as_table_mut);
    for (_, queue) in queues.into_iter().flatten() {
        for (runner, key) in [("exec", "env"), ("http", "headers")] {
            let values = queue.get_mut(runner).and_then(|keys| keys.get_mut(key));
            let values = values.and_then(Value::as_table_mut);
            values.into_iter().flatten().for_each(|(_, value)| disguise(Some(value), other));
        }
        disguise(queue.get_mut("http").and_then(|keys| keys.get_mut("secret")), other_key);
    }
    table
}

fn disguise(value: Option<&mut Value>, other: impl Fn(&str) -> String) {
    if let Some(Value::String(text)) = value {
        *text = other(text);
    }
}

/// Another secret that is right or wrong as this one is, and as equal to others.
fn other(secret: &str) -> String {
    let classes = [b'1'..=b'9', b'a'..=b'f', b'A'..=b'F', b'g'..=b'z', b'G'..=b'Z'];
    let next = |letter: char| {
        let byte = u8::try_from(letter).ok()?;
        let class = classes.iter().find(|class| class.contains(&byte))?;
        Some(char::from(if byte == *class.end() { *class.start() } else { byte + 1 }))
    };
    secret.chars().map(|letter| next(letter).unwrap_or(letter)).collect()
}

fn other_key(secret: &str) -> String {
    match Secret::parse(secret) {
        Some(key) => written(&key.bytes().iter().map(|byte| byte ^ 1).collect::<Vec<_>>()),
        None => format!("{secret}!"),
    }
}

/// Of what is no TOML, nothing is repeated that stands behind a key and looks like a secret.
fn check_syntax_error(text: &[u8], tokens: &[u8]) {
    let Err(error) = load(text, tokens) else { return };
    let said = error.to_string();
    let of = if said.starts_with("tokens.toml") { tokens } else { text };
    let of = String::from_utf8_lossy(of);
    if Document::parse(&of).is_ok() {
        return; // it is the other file that is no TOML, or a number is beyond what a table holds
    }
    let parts = || of.lines().filter_map(|line| line.split_once('='));
    for word in parts().flat_map(|(_, value)| value.split(|c: char| !c.is_ascii_alphanumeric())) {
        let is_long = word.len() >= SECRET_CHARS && word.contains(|c: char| c.is_ascii_digit());
        // A key is no secret, also where it stands in braces.
        let is_key = said.contains("is there twice") || parts().any(|(key, _)| key.contains(word));
        assert!(!is_long || !said.contains(word) || is_key, "{said}");
    }
}

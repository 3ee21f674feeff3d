//! Reads a web configuration as a whole: its sections, and what they may hold.

use std::path::Path;
use std::time::Duration;

use super::document::{Document, Section, shown};
use super::sources::Sources;
use super::{PasswordHash, RateLimit, Users, Web, tls, users};
use crate::config::duration;
use crate::config::limits::one_of;
use crate::config::load::{ConfigError, as_text};

/// The headers that the format lets be set, with the values that each may have; none = any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The longest time between two requests: with more, nothing is served at all.
const MAX_BETWEEN: Duration = Duration::from_secs(60 * 60);

/// The most requests at once: what no limit is.
const MAX_BURST: u32 = 1_000_000;

/// Reads `file` and what it names.
pub(super) fn web(sources: &mut Sources, file: &Path) -> Result<Web, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let wrong = |mistakes| ConfigError::Wrong { file: Some(file.to_owned()), mistakes };
    let bytes = sources.read(file).map_err(unreadable)?;
    let text = as_text(&bytes).map_err(|mistake| wrong(vec![mistake]))?;
    let document = Document::parse(text).map_err(|mistake| wrong(vec![mistake]))?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut top = document.top();
    let tls = top.table("tls_server_config").filter(|section| !section.is_empty());
    let tls = tls.and_then(|section| tls::read(section, sources, directory));
    let headers = top.table("http_server_config").map(headers).unwrap_or_default();
    let users = users(&mut top);
    let rate_limit = top.table("rate_limit").and_then(rate_limit);
    top.close();
    let mistakes = document.into_mistakes();
    if !mistakes.is_empty() {
        return Err(wrong(mistakes));
    }
    let has = |fact: fn(&tls::Tls) -> bool| tls.as_ref().is_some_and(fact);
    Ok(Web {
        file: file.to_owned(),
        needs_certificate: has(|tls| tls.needs_certificate),
        verifies_certificates: has(|tls| tls.verifies_certificates),
        knows_names: has(|tls| tls.knows_names),
        key_file: tls.as_ref().and_then(|tls| tls.key_file.clone()),
        certificate_files: tls.as_ref().map_or_else(Vec::new, |tls| tls.certificate_files.clone()),
        tls: tls.map(|tls| tls.config),
        users,
        headers,
        rate_limit,
        digest: sources.digest(),
    })
}

/// What answers have besides; that HTTP/2 is allowed by default is no request for it.
fn headers(mut section: Section<'_>) -> Vec<(&'static str, String)> {
    section.switch("http2");
    let found = section.table("headers").map(|section| section.entries(header));
    section.close();
    let found = found.unwrap_or_default().into_iter().map(|(_, header)| header);
    found.filter(|(_, value)| !value.is_empty()).collect()
}

fn header(name: &str, value: Option<&str>) -> Result<(&'static str, String), String> {
    let Some((name, values)) = HEADERS.iter().find(|(known, _)| *known == name) else {
        let names = HEADERS.map(|(name, _)| name).join(", ");
        return Err(format!("is no header that can be set here, which are {names}"));
    };
    let is_visible = |value: &&str| value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let Some(value) = value.filter(is_visible) else {
        return Err("must be a string of visible ASCII characters".to_owned());
    };
    if !values.is_empty() && !value.is_empty() && !values.contains(&value) {
        return Err(format!("{}, got {}", one_of(values), shown(value)));
    }
    Ok((name, value.to_owned()))
}

fn users(top: &mut Section<'_>) -> Users {
    let Some(section) = top.table("basic_auth_users") else { return Users::new() };
    let found = section.entries(users::user);
    if found.len() > users::MAX_USERS {
        let (most, got) = (users::MAX_USERS, found.len());
        section.whole(&format!("must be at most {most}, got {got}; tokens are for more"));
    }
    check_costs(&section, &found);
    found.into_iter().map(|(name, hash)| (name.to_owned(), hash)).collect()
}

/// All must take as long to check: else the time of an answer tells who is a user.
fn check_costs(section: &Section<'_>, users: &[(&str, PasswordHash)]) {
    let Some(((first, hash), others)) = users.split_first() else { return };
    let (cost, differs) = (hash.cost(), |other: &PasswordHash| other.cost() != hash.cost());
    if let Some((name, other)) = others.iter().find(|(_, other)| differs(other)) {
        section.object(
            name,
            &format!(
                "must be a bcrypt hash of the same cost as that of {first:?}, {cost}, got {}: the time \
                 of an answer would tell who is a user",
                other.cost()
            ),
        );
    }
}

/// None where the time between two is zero, as the format has it.
fn rate_limit(mut section: Section<'_>) -> Option<RateLimit> {
    let every = section.text("interval", between_requests);
    let burst = section.count("burst", MAX_BURST);
    for key in ["interval", "burst"] {
        if !section.has(key) {
            section.whole(&format!("needs {key}"));
        }
    }
    section.close();
    let every = every.filter(|every| !every.is_zero())?;
    Some(RateLimit { every, burst: burst? })
}

fn between_requests(text: Option<&str>) -> Result<Duration, String> {
    let every = match text {
        Some("0") => Some(Duration::ZERO),
        Some(text) => duration::parse(text),
        None => None,
    };
    every.filter(|every| *every <= MAX_BETWEEN).ok_or_else(|| {
        "must be a duration of one number and one unit, such as 100ms or 1s, of at most 1h"
            .to_owned()
    })
}

//! The direction of imports: to the right of the arrow in `src/lib.rs`, never sideways.

use super::source::{Source, Token, starts_with};
use super::{Finding, holds_everywhere, lines_found};

/// The modules from left to right; those of one entry do not know each other.
const ORDER: &[&[&str]] = &[
    &["cli"],
    &["daemon"],
    &["server", "worker", "sweeper"],
    &["store"],
    &["metrics"],
    &["tally"],
    &["job", "client"],
    &["backoff"],
    &["clock"],
    &["config"],
    &["fuzzing"],
];

fn wrong_imports(file: &Source) -> Vec<Finding> {
    let Some(module) = module_path(&file.path) else { return Vec::new() };
    let own = module.first().copied();
    let own_place = own.map(place);
    if let (Some(name), Some(None)) = (own, own_place) {
        let complaint =
            format!("module {name} has no place in the order of modules in {}", file!());
        return vec![Finding::new(&file.path, 1, complaint)];
    }
    let mut findings = Vec::new();
    for (target, line) in imports(file, module.len()) {
        let complaint = match place(target) {
            _ if Some(target) == own => continue,
            Some(there) if own_place.flatten().is_none_or(|here| here < there) => continue,
            Some(_) => format!("{} must not know {target}", own.unwrap_or("the root")),
            None => format!("crate::{target} has no place in the order of modules in {}", file!()),
        };
        findings.push(Finding::new(&file.path, line, complaint));
    }
    findings
}

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|modules| modules.contains(&module))
}

/// The module that a file below `src/` holds; empty for the roots.
fn module_path(path: &str) -> Option<Vec<&str>> {
    let module = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let is_root = matches!(module, "lib" | "main");
    Some(if is_root { Vec::new() } else { module.split('/').collect() })
}

/// The names directly under the crate's root that a file names, with their lines. `depth` is the
/// number of modules around the file's own items.
fn imports(file: &Source, depth: usize) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    for (index, token) in file.tokens.iter().enumerate() {
        let is_path_start = index < 2 || !starts_with(&file.tokens[index - 2..], &[":", ":"]);
        let first = match token.text.as_str() {
            "crate" | "tallyd" if token.is_word() && is_path_start => Some(index + 1),
            "super" if token.is_word() && is_path_start => {
                after_supers(&file.tokens, index, depth + inline_modules(file, index))
            }
            _ => None,
        };
        let Some(after) = first else { continue };
        if starts_with(&file.tokens[after..], &[":", ":"]) {
            found.extend(names_at(&file.tokens, after + 2));
        }
    }
    found
}

/// Where a path of `super` goes on, if it leads to the crate's root.
fn after_supers(tokens: &[Token], mut index: usize, depth: usize) -> Option<usize> {
    let mut levels = 1;
    while starts_with(&tokens[index..], &["super", ":", ":", "super"]) {
        index += 3;
        levels += 1;
    }
    (levels == depth).then_some(index + 1)
}

/// How many `mod name { … }` of the file stand around a token.
fn inline_modules(file: &Source, index: usize) -> usize {
    let around = |&start: &usize| {
        let close = file.tokens.get(start + 2).and_then(Token::closed_at);
        start < index && close.is_some_and(|close| index < close)
    };
    file.positions(&["mod"]).iter().filter(|start| around(start)).count()
}

/// The names at this point of a path: one, or each of a `{…}`.
fn names_at(tokens: &[Token], index: usize) -> Vec<(&str, usize)> {
    let name = |index: usize| tokens.get(index).map(|token| (token.text.as_str(), token.line));
    let Some(close) = tokens.get(index).and_then(Token::closed_at) else {
        return name(index).into_iter().collect();
    };
    let mut names = Vec::new();
    let mut next = index + 1;
    while next < close {
        names.extend(name(next));
        while next < close && tokens[next].text != "," {
            next = tokens[next].closed_at().unwrap_or(next) + 1;
        }
        next += 1;
    }
    names
}

#[test]
fn imports_point_to_the_right() {
    holds_everywhere(wrong_imports);
}

#[test]
fn wrong_imports_are_found() {
    for (path, good) in [
        ("src/main.rs", "use tallyd::cli;"),
        ("src/lib.rs", "pub use crate::config::Config;"),
        ("src/server.rs", "use crate::store::{Store, StoreError};"),
        ("src/server/jobs.rs", "use super::errors::ApiError; use crate::server::routes;"),
        ("src/store/sqlite/claim.rs", "use super::super::writer; mod tests { use super::*; }"),
        ("src/job.rs", "pub(crate) fn f() {} mod tests { use super::super::clock; }"),
        ("src/job.rs", "use crate::{clock::{Clock, Timestamp}, config};"),
    ] {
        assert_eq!(lines_found(wrong_imports, path, good), [0_usize; 0], "{path}: {good}");
    }
    for (path, bad) in [
        ("src/server.rs", "use crate::worker::Pool;"),
        ("src/worker/exec.rs", "fn f() { crate::sweeper::wake() }"),
        ("src/worker/exec.rs", "fn f(a: crate::server::A) {}"),
        ("src/job.rs", "use crate::{clock::{Clock}, store::Store};"),
        ("src/job.rs", "use super::store::Store;"),
        ("src/store/writer.rs", "use super::super::server;"),
        ("src/store.rs", "mod tests { mod deep { use super::super::super::daemon; } }"),
        ("src/config.rs", "fn f() { info!(\"{}\", crate::clock::now()) }"),
        ("src/store.rs", "use crate::*;"),
        ("src/store.rs", "use crate::misc::Thing;"),
        ("src/misc.rs", ""),
    ] {
        assert_eq!(lines_found(wrong_imports, path, bad), [1], "{path}: {bad}");
    }
}

//! The targets of `fuzz/`, which nothing else builds: each calls a property that there is, and has
//! seeds that the tests beside that property run.

use std::collections::BTreeSet;

use super::source::{Kind, Source};
use super::{Finding, files_below, none_of, rust_files};

/// Seeds of one target: enough for each shape, few enough to look at.
const SEEDS: std::ops::RangeInclusive<usize> = 15..=60;

/// A seed is small: cargo-fuzz finds the large ones itself.
const MAX_SEED_BYTES: usize = 4 << 10;

/// A target: the last name of its file, and the property that it calls.
struct Target {
    path: String,
    name: String,
    property: Option<(String, String)>,
}

impl Target {
    fn new(file: &Source) -> Self {
        let name = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let called = file.positions(&["tallyd", ":", ":"]);
        let text = |index: usize| file.tokens.get(index).map(|token| token.text.clone());
        let property = called.first().and_then(|at| {
            let is_property = text(at + 6)? == "fuzzing";
            is_property.then_some((text(at + 3)?, text(at + 9)?))
        });
        Self { path: file.path.clone(), name: name.to_owned(), property }
    }
}

/// What is wrong with the targets, given the program and the paths and sizes of all files in `fuzz/`.
fn complaints(targets: &[Target], program: &[Source], files: &[(String, usize)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Target { path, name, property } in targets {
        let mut complain = |text: String| findings.push(Finding::new(path, 1, text));
        let Some((module, function)) = property else {
            complain("calls no tallyd::…::fuzzing::…".into());
            continue;
        };
        let place = format!("src/{module}/fuzzing");
        let of_module = || program.iter().filter(|file| file.path.starts_with(&place));
        let is_there = |file: &Source| !file.positions(&["pub", "fn", function]).is_empty();
        if function != name || !of_module().any(is_there) {
            complain(format!("there is no property {name} in {place}.rs, or it calls another"));
        }
        if !of_module().any(|file| runs_seeds(file, name, function)) {
            complain(format!("no test in {place} has hold_for_seeds({name:?}, {function})"));
        }
        let below = format!("fuzz/corpus/{name}/");
        let seeds: Vec<_> = files.iter().filter(|(path, _)| path.starts_with(&below)).collect();
        if !SEEDS.contains(&seeds.len()) || seeds.iter().any(|(_, size)| *size > MAX_SEED_BYTES) {
            let (least, most) = (SEEDS.start(), SEEDS.end());
            complain(format!(
                "{below} must have {least} to {most} seeds of {MAX_SEED_BYTES} bytes"
            ));
        }
    }
    findings
}

/// Whether a file tries a property with the seeds of a target.
fn runs_seeds(file: &Source, name: &str, function: &str) -> bool {
    let quoted = format!("{name:?}");
    file.positions(&["hold_for_seeds", "("]).into_iter().any(|at| {
        let Some([seeds, comma, property]) = file.tokens.get(at + 2..at + 5) else { return false };
        let is_named = seeds.kind == Kind::Literal && seeds.text == quoted;
        is_named && comma.text == "," && property.text == function
    })
}

/// The targets that the manifest lists.
fn listed(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
    let bins = manifest["bin"].as_array().expect("a list of targets");
    bins.iter().map(|bin| format!("fuzz/{}", bin["path"].as_str().expect("a path"))).collect()
}

fn targets(files: &[Source]) -> Vec<Target> {
    files.iter().filter(|file| file.path.starts_with("fuzz/")).map(Target::new).collect()
}

#[test]
fn each_fuzz_target_calls_a_property_whose_seeds_are_run() {
    let files = rust_files();
    let targets = targets(&files);
    let manifest = files_below("fuzz/Cargo.toml").pop().expect("it is there").1;
    assert_eq!(listed(&manifest), targets.iter().map(|target| target.path.clone()).collect());
    let seeds = files_below("fuzz/corpus").into_iter();
    let seeds: Vec<_> = seeds.map(|(path, text)| (path, text.len())).collect();
    none_of(&complaints(&targets, &files, &seeds));
}

#[test]
fn fuzz_targets_that_rot_are_found() {
    let target = "fuzz_target!(|bytes: &[u8]| tallyd::server::fuzzing::job(bytes));";
    let property = "pub fn job(bytes: &[u8]) {}";
    let test = "fn holds() { hold_for_seeds(\"job\", job); }";
    let found =
        |name: &str, target: &str, property: &str, test: &str, seeds: usize, size: usize| {
            let files = [
                Source::new(&format!("fuzz/fuzz_targets/{name}.rs"), target),
                Source::new("src/server/fuzzing/jobs.rs", property),
                Source::new("src/server/fuzzing/tests.rs", test),
            ];
            let seeds: Vec<_> =
                (0..seeds).map(|seed| (format!("fuzz/corpus/job/{seed}"), size)).collect();
            complaints(&targets(&files), &files, &seeds).len()
        };
    assert_eq!(found("job", target, property, test, 15, 4096), 0);
    assert_eq!(found("job", "fuzz_target!(|_| {});", property, test, 15, 0), 1);
    assert_eq!(found("job", &target.replace("server", "store"), property, test, 15, 0), 2);
    assert_eq!(found("job", target, "pub fn jobs() {}", test, 15, 0), 1);
    assert_eq!(found("job", target, property, &test.replace("\"job\"", "\"batch\""), 15, 0), 1);
    assert_eq!(found("job", target, property, &test.replace("job);", "other);"), 15, 0), 1);
    assert_eq!(found("other", target, property, test, 15, 0), 3);
    assert_eq!(found("job", target, property, test, 14, 0), 1);
    assert_eq!(found("job", target, property, test, 15, 4097), 1);
}

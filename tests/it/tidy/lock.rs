//! Where the code of others comes from: `Cargo.lock` and `Cargo.toml` by the rules of `deny.toml`.
//!
//! cargo-deny knows more; this needs nothing but cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value as Json;
use toml::{Table, Value};

use super::files_below;

/// The one index of crates.
const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates of the lock file in several versions that `deny.toml` does not see: for other systems.
const NEVER_BUILT: &[&str] = &["windows-sys"];

/// One crate of a lock file.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    has_checksum: bool,
}

fn parsed(text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("not TOML: {error}"))
}

/// A TOML file of the project.
fn of_project(name: &str) -> Table {
    let file = files_below(name).pop();
    parsed(&file.unwrap_or_else(|| panic!("{name} is missing")).1)
}

fn packages(lock: &Table) -> Vec<Package> {
    let listed = lock.get("package").and_then(Value::as_array).expect("a list of packages");
    let text = |package: &Value, key: &str| package.get(key)?.as_str().map(str::to_owned);
    let package = |listed: &Value| Package {
        name: text(listed, "name").expect("a name"),
        version: text(listed, "version").expect("a version"),
        source: text(listed, "source"),
        has_checksum: text(listed, "checksum").is_some_and(|checksum| checksum.len() == 64),
    };
    listed.iter().map(package).collect()
}

/// Packages that are neither our own nor from the index with a checksum.
fn foreign(lock: &Table) -> Vec<String> {
    let complaint = |package: &Package| match package.source.as_deref() {
        Some(INDEX) if package.has_checksum => None,
        Some(INDEX) => Some(format!("{} has no checksum", package.name)),
        None if package.name == "tallyd" => None,
        source => Some(format!("{} comes from {}", package.name, source.unwrap_or("a directory"))),
    };
    packages(lock).iter().filter_map(complaint).collect()
}

/// What a manifest takes from elsewhere than an index, or puts in the place of what is there.
fn detours(manifest: &Table) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let replacing = ["patch", "replace"].into_iter().filter(|name| manifest.contains_key(*name));
    found.extend(replacing.map(|name| format!("a [{name}] section")));
    for (name, dependency) in dependencies(manifest) {
        let keys = ["git", "path", "registry", "registry-index"].into_iter();
        let given = keys.filter(|key| dependency.get(key).is_some());
        found.extend(given.map(|key| format!("{name} with {key}")));
        let version = dependency.get("version").or(Some(dependency)).and_then(Value::as_str);
        if version.is_none_or(|version| version.contains('*')) {
            found.push(format!("{name} in any version"));
        }
    }
    found
}

/// The dependencies of a manifest, of every sort and for every target.
fn dependencies(manifest: &Table) -> Vec<(&String, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let for_targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for place in std::iter::once(manifest).chain(for_targets) {
        for sort in ["dependencies", "dev-dependencies", "build-dependencies"] {
            found.extend(place.get(sort).and_then(Value::as_table).into_iter().flatten());
        }
    }
    found
}

/// Entries of a list below `[bans]`, as (crate, reason); an entry without a reason fails.
fn entries(rules: &Table, list: &str) -> Vec<(String, String)> {
    let listed = rules["bans"].get(list).and_then(Value::as_array).expect("a list below [bans]");
    let entry = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|it| !it.is_empty());
        let name = text("crate").unwrap_or_else(|| panic!("no crate in {list}: {entry}"));
        let reason = text("reason").unwrap_or_else(|| panic!("no reason in {list}: {entry}"));
        (name.to_owned(), reason.to_owned())
    };
    listed.iter().map(entry).collect()
}

/// Crates of the lock file that must not be there.
fn banned(lock: &Table, rules: &Table) -> Vec<String> {
    let banned: BTreeMap<String, String> = entries(rules, "deny").into_iter().collect();
    let packages = packages(lock).into_iter();
    let complaint = |package: Package| {
        let reason = banned.get(&package.name)?;
        Some(format!("{}: {reason}", package.name))
    };
    packages.filter_map(complaint).collect()
}

/// Older versions of crates that nobody explains, and explanations of what is not there.
fn unexplained_duplicates(lock: &Table, rules: &Table) -> Vec<String> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages(lock) {
        versions.entry(package.name).or_default().push(package.version);
    }
    let is_older = |(name, versions): (String, Vec<String>)| {
        let newest = versions.iter().max_by_key(|version| numbers(version)).cloned();
        let older = versions.into_iter().filter(move |version| Some(version) != newest.as_ref());
        older.map(move |version| (name.clone(), version)).collect::<Vec<_>>()
    };
    let built = versions.into_iter().filter(|(name, _)| !NEVER_BUILT.contains(&name.as_str()));
    let mut older: BTreeSet<(String, String)> = built.flat_map(is_older).collect();
    let mut wrong = Vec::new();
    for (explained, _) in entries(rules, "skip") {
        let (name, wanted) = explained.split_once(':').expect("crate:version");
        let is_wanted = |version: &str| format!("{version}.").starts_with(&format!("{wanted}."));
        let before = older.len();
        older.retain(|(older, version)| older != name || !is_wanted(version));
        if older.len() == before {
            wrong.push(format!("{explained} is explained, but no older version"));
        }
    }
    let unexplained = older.into_iter().map(|(name, version)| format!("{name} {version} is older"));
    wrong.extend(unexplained);
    wrong
}

/// The parts of a version, to compare by.
fn numbers(version: &str) -> Vec<u64> {
    let version = version.split(['-', '+']).next().unwrap_or_default();
    version.split('.').map(|part| part.parse().expect("a number")).collect()
}

/// The crates with a build script among those that are built on Linux, our own left out.
fn built_by_scripts(metadata: &Json) -> BTreeSet<String> {
    let list = |value: &'static str, of: &'static str| metadata[value][of].as_array();
    let nodes = list("resolve", "nodes").expect("a graph");
    let root = metadata["resolve"]["root"].as_str().expect("a root");
    let mut reached = BTreeSet::from([root]);
    let mut waiting = vec![root];
    while let Some(id) = waiting.pop() {
        let node = nodes.iter().find(|node| node["id"] == id).expect("it is in the graph");
        let needed = node["dependencies"].as_array().expect("a list").iter();
        waiting.extend(needed.filter_map(Json::as_str).filter(|id| reached.insert(id)));
    }
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let is_built = |package: &&Json| {
        let id = package["id"].as_str().expect("an id");
        let targets = package["targets"].as_array().expect("targets");
        let has_script = targets.iter().any(|target| target["kind"][0] == "custom-build");
        id != root && reached.contains(id) && has_script
    };
    let name = |package: &Json| package["name"].as_str().expect("a name").to_owned();
    packages.filter(is_built).map(name).collect()
}

/// Scripts that are not listed, and listed ones that are not there.
fn unlisted_scripts(scripts: &BTreeSet<String>, rules: &Table) -> Vec<String> {
    let listed = rules["bans"]["build"]["allow-build-scripts"].as_array().expect("a list");
    let listed: BTreeSet<String> =
        listed.iter().map(|name| name.as_str().expect("a name").to_owned()).collect();
    let wrong = scripts.symmetric_difference(&listed);
    wrong.map(|name| format!("{name}: listed {}", listed.contains(name))).collect()
}

/// What cargo knows of the packages that are built on Linux.
fn metadata() -> Json {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform"];
    let mut command = Command::new(cargo);
    command.args(words).arg("x86_64-unknown-linux-gnu").current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

fn none_are(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} found:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_crate_comes_from_the_one_index_with_a_checksum() {
    let lock = of_project("Cargo.lock");
    assert!(packages(&lock).len() > 100, "the lock file was not read");
    none_are(&foreign(&lock));
    none_are(&detours(&of_project("Cargo.toml")));
}

#[test]
fn no_banned_crate_is_in_the_lock_file() {
    none_are(&banned(&of_project("Cargo.lock"), &of_project("deny.toml")));
}

#[test]
fn each_older_version_of_a_crate_is_explained_and_no_other_is() {
    none_are(&unexplained_duplicates(&of_project("Cargo.lock"), &of_project("deny.toml")));
}

#[test]
fn build_scripts_are_those_that_were_looked_at() {
    none_are(&unlisted_scripts(&built_by_scripts(&metadata()), &of_project("deny.toml")));
}

#[test]
fn prometheus_is_taken_without_its_default_features() {
    let manifest = of_project("Cargo.toml");
    let default = manifest["dependencies"]["prometheus"].get("default-features");
    assert_eq!(default.and_then(Value::as_bool), Some(false), "they bring in protobuf");
}

#[test]
fn crates_from_elsewhere_are_found() {
    let checksum = "0".repeat(64);
    let lock = parsed(&format!(
        "[[package]]\nname = \"tallyd\"\nversion = \"0.1.0\"\n\
         [[package]]\nname = \"good\"\nversion = \"1.0.0\"\nsource = \"{INDEX}\"\nchecksum = \"{checksum}\"\n\
         [[package]]\nname = \"bare\"\nversion = \"1.0.0\"\nsource = \"{INDEX}\"\n\
         [[package]]\nname = \"short\"\nversion = \"1.0.0\"\nsource = \"{INDEX}\"\nchecksum = \"00\"\n\
         [[package]]\nname = \"local\"\nversion = \"1.0.0\"\n\
         [[package]]\nname = \"git\"\nversion = \"1.0.0\"\nsource = \"git+https://a.example/b#1\"\n\
         [[package]]\nname = \"other\"\nversion = \"1.0.0\"\nsource = \"registry+https://a.example\"\n\
         checksum = \"{checksum}\"\n"
    ));
    let found = [
        "bare has no checksum",
        "short has no checksum",
        "local comes from a directory",
        "git comes from git+https://a.example/b#1",
        "other comes from registry+https://a.example",
    ];
    assert_eq!(foreign(&lock), found);
    let manifest = parsed(
        "[dependencies]\na = \"1\"\nb = { git = \"https://a.example/b\", version = \"1\" }\n\
         [dev-dependencies]\nc = { path = \"../c\" }\nd = \"*\"\n\
         [target.'cfg(unix)'.build-dependencies]\ne = { version = \"1\", registry = \"f\" }\n\
         [patch.crates-io]\ng = { path = \"g\" }\n",
    );
    let found = [
        "a [patch] section",
        "b with git",
        "c with path",
        "c in any version",
        "d in any version",
        "e with registry",
    ];
    assert_eq!(detours(&manifest), found);
}

#[test]
fn banned_and_duplicate_crates_are_found() {
    let lock = parsed(
        "[[package]]\nname = \"openssl\"\nversion = \"0.10.0\"\n\
         [[package]]\nname = \"openssl-probe\"\nversion = \"0.2.0\"\n\
         [[package]]\nname = \"a\"\nversion = \"0.9.9\"\n[[package]]\nname = \"a\"\nversion = \"0.10.1\"\n\
         [[package]]\nname = \"b\"\nversion = \"1.0.0\"\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n\
         [[package]]\nname = \"c\"\nversion = \"2.10.0\"\n[[package]]\nname = \"c\"\nversion = \"3.0.0\"\n\
         [[package]]\nname = \"windows-sys\"\nversion = \"0.1.0\"\n\
         [[package]]\nname = \"windows-sys\"\nversion = \"0.2.0\"\n",
    );
    let rules = parsed(
        "[bans]\ndeny = [{ crate = \"openssl\", reason = \"r\" }]\n\
         skip = [{ crate = \"b:1\", reason = \"r\" }, { crate = \"c:2.1\", reason = \"r\" },\n\
         { crate = \"gone:1\", reason = \"r\" }]\n",
    );
    assert_eq!(banned(&lock, &rules), ["openssl: r"]);
    let found = [
        "c:2.1 is explained, but no older version",
        "gone:1 is explained, but no older version",
        "a 0.9.9 is older",
        "c 2.10.0 is older",
    ];
    assert_eq!(unexplained_duplicates(&lock, &rules), found);
}

#[test]
fn build_scripts_that_nobody_listed_are_found() {
    let package = |name: &str, kind: &str| serde_json::json!({"id": name, "name": name, "targets": [{"kind": [kind]}]});
    let metadata = serde_json::json!({
        "packages": [
            package("tallyd", "custom-build"),
            package("new", "custom-build"),
            package("known", "custom-build"),
            package("unused", "custom-build"),
            package("plain", "lib"),
        ],
        "resolve": {"root": "tallyd", "nodes": [
            {"id": "tallyd", "dependencies": ["plain"]},
            {"id": "plain", "dependencies": ["new", "known"]},
            {"id": "new", "dependencies": []},
            {"id": "known", "dependencies": ["plain"]},
            {"id": "unused", "dependencies": []},
        ]},
    });
    let rules = parsed("[bans.build]\nallow-build-scripts = [\"known\", \"gone\"]\n");
    let scripts = built_by_scripts(&metadata);
    assert_eq!(unlisted_scripts(&scripts, &rules), ["gone: listed true", "new: listed false"]);
}

#[test]
#[should_panic(expected = "no reason in deny")]
fn a_ban_without_a_reason_is_found() {
    entries(&parsed("[bans]\ndeny = [{ crate = \"a\", reason = \"\" }]\n"), "deny");
}

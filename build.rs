//! Tells the program which revision it is built from, in `TALLYD_REVISION`: 12 digits of a commit.
//!
//! That is the variable of this name if whoever builds has set it, as in a container without the
//! repository; else what cargo noted in a package; else what git says; else `unknown`.

use std::path::Path;
use std::process::Command;

const NAME: &str = "TALLYD_REVISION";

/// As many digits as tell commits apart in any repository of this size.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-env-changed={NAME}");
    let given = std::env::var(NAME).ok().filter(|given| !given.is_empty());
    let revision = given.or_else(packaged).or_else(checked_out).unwrap_or("unknown".into());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if revision.len() > 64 || !revision.bytes().all(is_plain) {
        println!("cargo::error={NAME} must be 1 to 64 letters, digits or ._+-, got {revision:?}");
    }
    println!("cargo::rustc-env={NAME}={revision}");
}

/// The revision that a package was made from: cargo notes it when it packs one.
fn packaged() -> Option<String> {
    let note = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, after) = note.split_once("\"sha1\"")?;
    let digits: String = after.split('"').nth(1)?.chars().take(DIGITS).collect();
    Some(digits)
}

/// The revision that is checked out here; not that of a repository that merely contains this one.
fn checked_out() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // The second is written with each commit, whatever the branch is called and wherever it is kept.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])
}

/// What git prints, if it is there and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

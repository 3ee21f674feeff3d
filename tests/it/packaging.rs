//! What is installed: a binary that says what it was built from, with a manual.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::command_line::tallyd;
use crate::fixture::Daemon;
use crate::tools::said;

/// What a program prints that must succeed.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let names = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
    printed(Command::new("git").args(names).args(arguments).current_dir(directory))
}

/// What is checked out in a directory, as builds are told.
fn head(directory: &Path) -> String {
    git(directory, &["rev-parse", "--short=12", "HEAD"]).trim().to_owned()
}

#[tokio::test]
async fn the_version_and_the_metrics_name_the_revision_that_was_built() {
    let version = printed(tallyd("").arg("--version"));
    let number = concat!("tallyd ", env!("CARGO_PKG_VERSION"), " (");
    let revision = version.strip_prefix(number).and_then(|rest| rest.strip_suffix(")\n"));
    let revision = revision.unwrap_or_else(|| panic!("{version:?} is not {number}…)"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TALLYD_REVISION").is_none() && root.join(".git").exists() {
        assert_eq!(revision, head(root));
    }
    let scrape = Daemon::start("").scrape().await;
    let built: Vec<_> = scrape.starting("tallyd_build_info{").collect();
    let label = format!("revision=\"{revision}\"");
    assert!(matches!(built[..], [(sample, 1.0)] if sample.contains(&label)), "{built:?}");
}

/// The build script by itself, in a directory that cargo could have unpacked anywhere.
struct BuildScript {
    place: tempfile::TempDir,
}

impl BuildScript {
    fn compile() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("crate")).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "-o", "script"]).arg(source).current_dir(&place);
        printed(&mut rustc);
        Self { place }
    }

    fn directory(&self) -> std::path::PathBuf {
        self.place.path().join("crate")
    }

    fn run(&self, given: &str) -> Output {
        let mut command = Command::new(self.place.path().join("script"));
        command.env("TALLYD_REVISION", given).current_dir(self.directory());
        command.output().unwrap()
    }

    /// The revision that it finds, with the files whose change makes cargo run it again.
    fn finds(&self) -> (String, Vec<String>) {
        let text = said(&self.run(""));
        let after = |prefix: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        let revision = after("cargo::rustc-env=TALLYD_REVISION=").pop();
        (revision.unwrap_or_else(|| panic!("{text}")), after("cargo::rerun-if-changed="))
    }
}

#[test]
fn a_build_finds_its_revision_wherever_it_is_and_never_another_one() {
    let script = BuildScript::compile();
    let crate_place = script.directory();
    let around = script.place.path();
    git(around, &["init", "--quiet"]);
    git(around, &["commit", "--quiet", "--allow-empty", "--message", "around"]);
    assert_eq!(script.finds(), ("unknown".to_owned(), vec![]), "a repository around it is another");

    git(&crate_place, &["init", "--quiet"]);
    assert_eq!(script.finds().0, "unknown", "nothing is committed yet");
    git(&crate_place, &["commit", "--quiet", "--allow-empty", "--message", "first"]);
    let (first, watched) = script.finds();
    assert_eq!(first, head(&crate_place));
    let contents = || -> Vec<_> {
        watched.iter().map(|file| fs::read_to_string(crate_place.join(file)).unwrap()).collect()
    };
    let before = contents();
    git(&crate_place, &["pack-refs", "--all"]);
    git(&crate_place, &["commit", "--quiet", "--allow-empty", "--message", "second"]);
    assert_ne!(contents(), before, "a commit changes what is watched: {watched:?}");
    assert_ne!(script.finds().0, first);

    let note =
        "{\n  \"git\": {\n    \"sha1\": \"0123456789abcdef0123456789abcdef01234567\"\n  }\n}";
    fs::write(crate_place.join(".cargo_vcs_info.json"), note).unwrap();
    assert_eq!(script.finds().0, "0123456789ab", "a package knows better");
}

#[test]
fn a_build_takes_the_revision_that_it_is_given_or_says_what_would_be_right() {
    let script = BuildScript::compile();
    let told = said(&script.run("v1.2-dirty"));
    assert!(told.contains("cargo::rustc-env=TALLYD_REVISION=v1.2-dirty\n"), "{told}");
    for bad in ["two words", "a\nb", "\"", &"a".repeat(65)] {
        let told = said(&script.run(bad));
        let error = "cargo::error=TALLYD_REVISION must be 1 to 64 letters, digits or ._+-, got";
        assert!(told.contains(error), "{told}");
    }
}

#[test]
fn every_command_has_a_page_in_the_manual_that_can_be_read() {
    let place = tempfile::tempdir().unwrap();
    printed(tallyd("").arg("man").arg(place.path()));
    let first = printed(tallyd("").arg("man"));
    assert_eq!(first, fs::read_to_string(place.path().join("tallyd.1")).unwrap());

    let mut waiting = vec![Vec::<String>::new()];
    let mut pages = 0;
    while let Some(words) = waiting.pop() {
        let help = printed(tallyd("").args(&words).arg("--help"));
        let name = [&["tallyd".to_owned()], &words[..]].concat().join("-");
        let page = place.path().join(format!("{name}.1"));
        let mut mandoc = Command::new("mandoc");
        printed(mandoc.args(["-T", "lint", "-W", "error"]).arg(&page));
        let shown =
            printed(Command::new("mandoc").args(["-T", "ascii", "-O", "width=500"]).arg(&page));
        let shown = without_overstrikes(&shown);
        let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
        for flag in flags.map(|flag| flag.trim_end_matches(|c: char| !c.is_ascii_alphabetic())) {
            let flag = flag.split(['=', '[']).next().unwrap();
            assert!(shown.contains(flag), "{name} is silent about {flag}:\n{shown}");
        }
        waiting.extend(commands(&help).map(|below| [&words[..], &[below.to_owned()]].concat()));
        pages += 1;
    }
    assert!(pages > 20, "{pages}");
    assert_eq!(pages, fs::read_dir(&place).unwrap().count(), "no page without a command");
}

/// The commands that a help lists, but for `help` itself.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let (_, listed) = help.split_once("\nCommands:\n").unwrap_or_default();
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
}

/// Text without what makes its letters bold on a printer.
fn without_overstrikes(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        match letter {
            '\u{8}' => drop(plain.pop()),
            _ => plain.push(letter),
        }
    }
    plain
}

#[test]
fn a_manual_that_cannot_be_written_says_so() {
    let output = tallyd("").args(["man", "/nonexistent/man1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = said(&output);
    assert!(told.starts_with("cannot write /nonexistent/man1/tallyd.1: No such file"), "{told}");
}
